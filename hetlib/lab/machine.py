"""What a run knows about the machine, the code and whether anybody is looking."""

import multiprocessing
import os
import platform
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "hetlib", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def git() -> tuple[str | None, bool | None]:
    """Commit of hetlib's own source and whether tracked files differ from it; (None, None) outside a checkout."""
    here = Path(__file__)
    try:
        # An environment inside some other project's checkout must not lend its commit to an installed hetlib.
        _git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        commit = _git("rev-parse", "HEAD", cwd=here.parent)
        return commit, bool(_git("status", "--porcelain", "--untracked-files=no", cwd=here.parent))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def peak_memory(device: str) -> float:
    """Highest memory so far in MiB: allocated on the GPU for "cuda", else of this process or its largest child."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def free_memory(device: str) -> float:
    """Memory in MiB that is free for new work: the GPU's for "cuda", else this machine's."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**20
    import psutil

    return psutil.virtual_memory().available / 2**20


def unattended() -> bool:
    """Whether the runner said, by ``$HETLIB_HEADLESS``, that it shows the progress itself."""
    return os.environ.get("HETLIB_HEADLESS", "0") != "0"


def headless() -> bool:
    """Whether nobody can click: the runner said so by ``$HETLIB_HEADLESS``, or this is not a notebook's kernel.

    Papermill executes in a kernel like any other, so a kernel alone proves no reader.
    """
    if unattended():
        return True
    from IPython import get_ipython

    return not hasattr(get_ipython(), "kernel")


def begin_worker() -> None:
    """Prepare a process that trains: one thread, and none that outlives whoever waits for it."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _git(*arguments: str, cwd: Path) -> str:
    ran = subprocess.run(("git", *arguments), cwd=cwd, capture_output=True, text=True, check=True)
    return ran.stdout.strip()
