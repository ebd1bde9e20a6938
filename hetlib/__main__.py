"""The command line as a module, which torchrun can start: ``torchrun --nproc-per-node 2 -m -- hetlib graft ...``."""

from hetlib.cli import main

if __name__ == "__main__":
    main()
