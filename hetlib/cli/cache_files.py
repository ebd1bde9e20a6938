"""What the cache holds, and what of it may go: `hetlib cache ls | gc`."""

import os
import shutil
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hetlib.files import load_meta
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
            states = _states(path)
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


def _states(path: Path) -> list[os.stat_result]:
    """Of a file, or of the files in a folder; a link is itself, wherever it leads."""
    inside = [Path(folder, name) for folder, _, names in os.walk(path) for name in names] if _folder(path) else []
    return [file.lstat() for file in inside or [path]]


def _folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _label(path: Path) -> str:
    """What an entry's header says it is; the tensors are not read."""
    if path.parent.name == "scratch":
        return "interrupted"
    try:
        label = load_meta(path)["label"] if not path.is_symlink() else None
    except (OSError, KeyError):
        return DAMAGED
    return (label or "without a name") if isinstance(label, str) else DAMAGED


def _removed(cache: Cache, each: Kept) -> bool:
    """Remove one thing unless its key is locked, and say whether it went; what cannot go is named in a warning."""
    try:
        with cache.locked(each.key or "halves", timeout=0):
            shutil.rmtree(each.path) if _folder(each.path) else each.path.unlink(missing_ok=True)
    except TimeoutError:
        return False
    except OSError as error:
        warnings.warn(f"{each.path} stays: {error.strerror or error}", stacklevel=3)
        return False
    return True
