"""What the cache holds, and what of it may go: `hetlib cache ls | gc`."""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hetlib.lab.cache import Cache

DAMAGED = "damaged"


@dataclass(frozen=True)
class Kept:
    """One file or folder in a cache: its key (empty for half a file), what it is, its MiB, and its last use.

    `used` is in seconds since 1970.
    """

    key: str
    label: str
    mib: float
    used: float
    path: Path

    @property
    def days(self) -> float:
        """For how many days it was not used."""
        return (time.time() - self.used) / 86400


def kept(cache: Cache) -> list[Kept]:
    """Everything in a cache, the last used first: results, interrupted computations, halves of killed writes."""
    found = []
    for path in (*cache.root.glob("entries/*"), *cache.root.glob("scratch/*")):
        with suppress(FileNotFoundError):  # another process removed it
            states = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()] or [path.stat()]
            half, used = path.suffix == ".part", max(state.st_mtime for state in states)
            size = sum(state.st_size for state in states) / 2**20
            each = Kept("" if half else path.stem, "half a file" if half else _label(path), size, used, path)
            if not half or each.days * 24 > 1:  # a younger one may be in the writing
                found.append(each)
    return sorted(found, key=lambda each: each.used, reverse=True)


def clean(cache: Cache, days: float = 30, dry: bool = False) -> list[Kept]:
    """Remove what was not used for some days, and damaged results of any age; what another process uses stays.

    0 days empty the cache; a negative number is a ValueError. Gives what went, or with `dry` what would go.
    """
    if not days >= 0:
        raise ValueError(f"days must not be negative, got {days}")
    old = [each for each in kept(cache) if days == 0 or each.days >= days or each.label == DAMAGED]
    return [each for each in old if dry or _removed(cache, each)]


def _label(path: Path) -> str:
    """What an entry's header says it is; the tensors are not read."""
    if path.parent.name == "scratch":
        return "interrupted"
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["meta"])["label"] or "without a name"
    except (SafetensorError, KeyError, ValueError):
        return DAMAGED


def _removed(cache: Cache, each: Kept) -> bool:
    """Remove one thing unless its key is locked, and say whether it went."""
    try:
        with cache.locked(each.key or "halves", timeout=0):
            shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink(missing_ok=True)
    except TimeoutError:
        return False
    return True
