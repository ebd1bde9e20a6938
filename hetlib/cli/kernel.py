"""The process that a notebook runs in."""

import os
from pathlib import Path
from typing import Any

from hetlib.lab.cache import Cache


def manager(source: Path, run: Path, cores: int) -> type:
    """A kernel manager that starts this interpreter, whichever kernels are installed, for a run of a notebook."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    spec = get_kernel_dict()
    # Its notes on unencrypted TCP, within one machine, and on being interrupted at the end would only stand in the way.
    spec["argv"].append("--log-level=CRITICAL")
    defaults = {"OMP_NUM_THREADS": "1", "HETLIB_PROCESSES": str(cores)}
    fixed = {
        "HETLIB_HEADLESS": "1",
        "HETLIB_RUN_DIR": str(run),
        "HETLIB_DATA": str(Path(os.environ.get("HETLIB_DATA", "data")).resolve()),
        "HETLIB_CACHE": str(Cache().root),  # one place, though kernels run in another folder
    }
    folder = source.parent.parent if source.suffix == ".py" else source.parent

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir="", **spec)

        def start_kernel(self, **options: Any) -> Any:
            # Of the kernel alone: other notebooks run in this process at the same time.
            return super().start_kernel(**options | {"cwd": str(folder), "env": defaults | os.environ | fixed})

    return ThisPython
