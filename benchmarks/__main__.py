"""`python -m benchmarks [NAME ...]`: measure every bar, or those of the named files; print each once it is measured.

Writes `build/benchmarks.json`. The status is 0 if every bar holds, 1 if one does not or cannot be measured,
2 for an unknown name. `python -m benchmarks gpu` is for a machine with a GPU and stands by itself.
"""

import argparse
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import benchmarks
from hetlib.errors import unknown

if TYPE_CHECKING:  # the GPU's script runs without what the harness needs
    from benchmarks.harness import Bar

FOUND = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - {"__main__", "harness"}
NAMES = sorted(name for name in FOUND if not name.startswith("gpu"))
RESULTS = Path("build/benchmarks.json")


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks, by default all, each in a process of its own with one torch thread."""
    from benchmarks.harness import HEADING, keep, row

    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when a new process imports it
    bars: list[Bar] = []
    failed: list[str] = []
    print(HEADING, flush=True)
    for number, name in enumerate(chosen or NAMES, start=1):
        print(f"{name} ({number} of {len(chosen or NAMES)})", flush=True)
        for found in measured(name):
            if isinstance(found, str):  # whatever one of them met, the others are still measured
                failed.append(name)
                print(f"{name} failed: {found}", file=sys.stderr, flush=True)
            else:
                bars.append(found)
                print(row(found), flush=True)
    keep(bars, RESULTS)
    held = sum(bar.holds for bar in bars)
    print(f"{held} of {len(bars)} hold; {len(failed)} benchmarks failed; kept in {RESULTS}")
    return 0 if held == len(bars) and not failed else 1


def measured(name: str) -> "Iterator[Bar | str]":
    """The bars of one benchmark as a new process measures them, and the words of what stopped it, if anything did."""
    from benchmarks.harness import measure

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(name, there))
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    while True:
        try:
            yield here.recv()
        except EOFError:
            break
    process.join()
    if process.exitcode:
        yield f"its process ended with status {process.exitcode}"


def arguments() -> argparse.Namespace:
    """What the command line says; an unknown name ends the program with status 2."""
    words = __doc__.split("\n\n")
    parser = argparse.ArgumentParser("python -m benchmarks", description=words[0], epilog=words[1])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"gpu alone, or any of: {', '.join(NAMES)}")
    parser.add_argument("--toy", action="store_true", help="of gpu: the same at toy size on the CPU, to try the script")
    given = parser.parse_args()
    if given.names == ["gpu"]:
        return given
    for name in given.names:
        if name not in NAMES:
            parser.error(str(unknown("benchmark", name, ["gpu", *NAMES])))
    if given.toy:
        parser.error("--toy is an option of gpu")
    return given


if __name__ == "__main__":
    given = arguments()
    if given.names == ["gpu"]:
        from benchmarks.gpu import main as on_gpu

        sys.exit(on_gpu(toy=given.toy))
    sys.exit(main(given.names))
