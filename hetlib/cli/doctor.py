"""What this computer has, what it lacks, and how to get it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils import collect_env

from hetlib import data
from hetlib.lab.cache import Cache

SPACE = 5.0
"""GiB that the environment, the runs and the cache of the classroom preset fit into."""
EXTRAS = {"notebooks": ("papermill", "jupyterlab", "ipywidgets", "jupytext"), "test": ("pytest",)}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked for, whether it is there, what was found, how to get it, and if hetlib needs it."""

    what: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = False


def examine() -> Iterator[Finding]:
    """Look at everything hetlib can use, data apart.

    Yields
    ------
    Finding
    """
    ok = sys.version_info >= (3, 11)
    yield Finding("Python", ok, platform.python_version(), "make PYTHON=python3.12 test", needed=True)
    yield _torch()
    for name, modules in EXTRAS.items():
        lacking = [module for module in modules if find_spec(module) is None]
        found = f"without {', '.join(lacking)}" if lacking else "installed"
        yield Finding(f"extra [{name}]", not lacking, found, f'pip install -c constraints.txt -e ".[{name}]"')
    bf16, amx = (getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    found = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    yield Finding("processor", True, f"{found}, bf16 {'yes' if bf16 or amx else 'no'}, AMX {'yes' if amx else 'no'}")
    gpu = collect_env.get_gpu_info(collect_env.run) if torch.cuda.is_available() else None
    yield Finding("GPU", bool(gpu), gpu or "none", "only the paper preset wants one")
    yield _writable("cache", Cache().root, "set $HETLIB_CACHE to a folder you may write")
    yield _writable("outputs", Path("runs"), "run hetlib in a folder you may write")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("disk", free >= SPACE, f"{free:.0f} GiB free", f"make room: {SPACE:g} GiB are enough", needed=True)
    vectors = os.environ.get("HETLIB_VECTORS", "")
    count = len(list(Path(vectors).rglob("*.npz"))) if vectors else 0
    remedy = "only the golden tests want them: set $HETLIB_VECTORS"
    yield Finding("vectors", count > 0, f"{vectors}, {count} files" if vectors else "none", remedy)
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
    yield Finding("Chromium", Path(browser).is_file(), browser or "none", "install it, or name it in $CHROMIUM")


def data_sets() -> Iterator[Finding]:
    """Read every data set's test images, which checks their files.

    Yields
    ------
    Finding
    """
    for name in data.names():
        try:
            images = data.load(name, "test")
        except OSError as error:
            found = "none" if isinstance(error, data.DataMissing) else str(error)
            yield Finding(name, False, found, f"hetlib data get {name}")
        else:
            yield Finding(name, True, f"{len(images):,} test images, checksum {images.checksum[:8]}")


def _torch() -> Finding:
    found, remedy = f"torch {torch.__version__}", "pip install -c constraints.txt torch torchvision"
    try:
        import torchvision

        found += f", torchvision {torchvision.__version__}"
        torch.ops.torchvision.nms  # noqa: B018 (only torchvision's own build for this torch registers it)
    except (ImportError, AttributeError, RuntimeError) as error:
        return Finding("torch pair", False, f"{found}: {error}", remedy, needed=True)
    return Finding("torch pair", True, found, remedy, needed=True)


def _writable(what: str, folder: Path, remedy: str) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    ok = os.access(existing, os.W_OK)
    return Finding(what, ok, f"{folder}{'' if ok else ': Permission denied'}", remedy, needed=True)
