"""What a cache holds, and what of it may go."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hetlib.lab.cache import Cache

DAY = 86400.0
DAMAGED = "damaged"


@dataclass(frozen=True)
class Kept:
    """One thing in a cache.

    Attributes
    ----------
    key : str
        Its key; empty for what a killed write left behind.
    label : str
        What it is, for people.
    mib : float
        Size in MiB.
    used : float
        When it was last of use, in seconds since 1970.
    path : Path
        Its file, or folder.
    """

    key: str
    label: str
    mib: float
    used: float
    path: Path

    @property
    def days(self) -> float:
        """For how many days it has been of no use."""
        return (time.time() - self.used) / DAY


def kept(cache: Cache) -> list[Kept]:
    """Everything in a cache: results, states of interrupted computations, and what killed writes left.

    Returns
    -------
    list of Kept
        What was of use most recently comes first.
    """
    found = [*_results(cache), *_interrupted(cache), *_leftovers(cache)]
    return sorted(found, key=lambda each: each.used, reverse=True)


def sweep(cache: Cache, days: float = 30, dry: bool = False) -> list[Kept]:
    """Remove what was of no use for some days, and damaged results whatever their age.

    What another process is computing or resuming at the moment is left alone.

    Parameters
    ----------
    cache : Cache
        What to clean.
    days : float
        How long something may lie unused; 0 empties the cache.
    dry : bool
        Only say what would go.

    Returns
    -------
    list of Kept
        What went.

    Raises
    ------
    ValueError
        If `days` is negative.
    OSError
        If a file cannot be removed.
    """
    if not days >= 0:
        raise ValueError(f"days must not be negative, got {days}")
    gone = []
    for each in kept(cache):
        if (days == 0 or each.days >= days or each.label == DAMAGED) and (dry or _remove(cache, each)):
            gone.append(each)
    return gone


def _results(cache: Cache) -> Iterator[Kept]:
    for path in (cache.root / "entries").glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process was quicker
            yield _kept(path.stem, _label(path), path)


def _interrupted(cache: Cache) -> Iterator[Kept]:
    for path in (cache.root / "scratch").glob("*"):
        with suppress(FileNotFoundError):
            if path.name[:1] != ".":
                yield _kept(path.name, "interrupted", path)


def _leftovers(cache: Cache) -> Iterator[Kept]:
    for path in (*cache.root.glob("entries/.*.part"), *cache.root.glob("scratch/.*.part")):
        with suppress(FileNotFoundError):
            half = _kept("", "half a file", path)
            if half.days * 24 > 1:  # younger ones may be in the writing
                yield half


def _kept(key: str, label: str, path: Path) -> Kept:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files] or [path.stat()]
    size = sum(state.st_size for state in states) / 2**20
    return Kept(key, label, size, max(state.st_mtime for state in states), path)


def _label(path: Path) -> str:
    """What an entry's header says it is; the content is not read."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["meta"])["label"] or "without a name"
    except (SafetensorError, KeyError, ValueError, OSError):
        return DAMAGED


def _remove(cache: Cache, each: Kept) -> bool:
    """Remove one thing unless its key is locked, and say whether it went."""
    try:
        with cache.locked(each.key or "leftovers", timeout=0):
            shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink(missing_ok=True)
    except TimeoutError:
        return False
    return True
