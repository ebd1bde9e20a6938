"""What this machine has, what it lacks, and how to get it."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from hetlib import data
from hetlib.lab.cache import Cache

SPACE = 5.0
"""GiB that the environment, the runs and the cache of the classroom preset fit into."""


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
    for name, modules in {
        "notebooks": ("papermill", "jupyterlab", "ipywidgets", "jupytext"),
        "test": ("pytest",),
    }.items():
        lacking = [module for module in modules if find_spec(module) is None]
        found = f"without {', '.join(lacking)}" if lacking else "installed"
        yield Finding(f"extra [{name}]", not lacking, found, f'pip install -c constraints.txt -e ".[{name}]"')
    yield _processor()
    yield _gpu()
    yield from _folders()
    yield _vectors()
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    yield Finding(
        "Chromium", bool(browser and Path(browser).is_file()), browser or "none", "install it, or name it in $CHROMIUM"
    )


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


def _processor() -> Finding:
    level = torch.backends.cpu.get_cpu_capability()
    bf16, amx = (getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    found = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {level}, "
    found += f"bf16 {'yes' if bf16 or amx else 'no'}, AMX {'yes' if amx else 'no'}"
    return Finding("processor", True, found)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("GPU", False, "none", "only the paper preset wants one")
    card = torch.cuda.get_device_properties(0)
    return Finding("GPU", True, f"{card.name}, {card.total_memory / 2**30:.0f} GiB")


def _folders() -> Iterator[Finding]:
    cache = Cache().root
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / 2**20
    yield _writable("cache", cache, f", {size:.0f} MiB", "set $HETLIB_CACHE to a folder you may write")
    yield _writable("outputs", Path("runs"), "", "run hetlib in a folder you may write")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("disk", free >= SPACE, f"{free:.0f} GiB free", f"make room: {SPACE:g} GiB are enough", needed=True)


def _writable(what: str, folder: Path, more: str, remedy: str) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Finding(what, True, f"{folder}{more}", remedy, needed=True)
    except OSError as error:
        return Finding(what, False, f"{folder}: {error.strerror}", remedy, needed=True)


def _vectors() -> Finding:
    folder = os.environ.get("HETLIB_VECTORS", "")
    count = len(list(Path(folder).rglob("*.npz"))) if folder else 0
    remedy = "only the golden tests want them: set $HETLIB_VECTORS"
    return Finding("vectors", count > 0, f"{folder or 'none'}, {count} files" if folder else "none", remedy)
