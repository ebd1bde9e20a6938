"""The record that every run leaves: what was run, on what, with which numbers."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch

from hetlib import files
from hetlib.clone import folder

PACKAGES = ("torch", "torchvision", "hetlib", "numpy")
LARGEST = 1e150  # larger values overflow where they are squared
ESTIMATE = "estimate.txt"  # what a run that makes one leaves in its folder
BYTES = 2**20  # the most in a file: the largest record so far has 50 kB


def _object(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, Mapping)


def _date(value: Any) -> bool:
    try:
        date = datetime.fromisoformat(value)
        # A day for clocks that differ: a record from the future would be the newest for good.
        return date.tzinfo is not None and date.astimezone(UTC) < datetime.now(UTC) + timedelta(days=1)
    except (TypeError, ValueError, OverflowError):
        return False


_name = lambda value: isinstance(value, str) and bool(value)
_name_or_null = lambda value: value is None or _name(value)
_count = lambda value: type(value) is int and value >= 0
_amount = lambda value: type(value) in (int, float) and -LARGEST < value < LARGEST
_size = lambda value: _amount(value) and value >= 0
_numbers = lambda value: isinstance(value, list) and all(type(n) is int for n in value)
_parts = {"name": _name, "checksum": _name, "train": _count, "test": _count}
_data = lambda value: _object(value) and set(value) == set(_parts) and all(_parts[key](value[key]) for key in _parts)

# What a field must be: its type, in words, and a check.
Name = Annotated[str, "a name", _name]
Plain = Annotated[dict[str, Any], "an object of plain values", _object]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, and what the processor can compute with."""
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return found | {"processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}


def git() -> tuple[str | None, bool | None]:
    """Commit of hetlib's own source and whether tracked files differ from it; (None, None) outside a checkout."""
    changed = changed_files()
    return (None, None) if changed is None else (_git("rev-parse", "HEAD"), any(line[:2] != "??" for line in changed))


def changed_files() -> list[str] | None:
    """Files of hetlib's checkout that differ from its commit, as ``git status`` prints them; None outside a checkout.

    What stands in ``results/`` is not code and does not count.
    """
    try:
        # An environment inside some other project's checkout must not lend its commit to an installed hetlib.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("status", "--porcelain", "--", ":(top)", ":(top,exclude)results").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    ran = subprocess.run(("git", *arguments), cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return ran.stdout.rstrip()


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


@dataclass(frozen=True)
class Record:
    """One run of one notebook; versions, commit and memory are as `versions`, `git` and `peak_memory` give them.

    Attributes
    ----------
    metrics : dict
        Name to ``{"unit": str, "values": [one finite number per seed]}``.
    data : dict
        ``name``, ``checksum`` of the images trained on, and how many ``train`` and ``test`` images.
    date : str
        When it was recorded, ISO 8601 in UTC.
    facts : dict
        What else the notebook wants remembered.
    command : str or None
        The command line that made it; None in a record made by a script.
    key : str or None
        Made of the notebook, its parameters and hetlib's code, once the run has ended well.
    failure : str or None
        What went wrong in a run that the runner began: until it ends well, that it has not ended.
    """

    notebook: Name
    preset: Name
    parameters: Plain
    seeds: Annotated[list[int], "a list of whole numbers", _numbers]
    metrics: Annotated[dict[str, dict[str, Any]], "an object", lambda value: isinstance(value, Mapping)]
    data: Annotated[dict[str, Any], "{'name', 'checksum', 'train', 'test'}", _data]
    device: Name
    precision: Name
    threads: Annotated[int, "a number of threads", _count]
    seconds: Annotated[float, "a number of seconds", _size]
    peak_mib: Annotated[float, "a number of MiB", _size]
    versions: Plain = field(default_factory=versions)
    commit: Annotated[str | None, "a commit or null", _name_or_null] = field(default_factory=lambda: git()[0])
    dirty: Annotated[bool | None, "true, false or null", (None, True, False).__contains__] = field(
        default_factory=lambda: git()[1]
    )
    date: Annotated[str, "an ISO 8601 time with its zone, not in the future", _date] = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds")
    )
    facts: Plain = field(default_factory=dict)
    # Older records do not have these three.
    command: Annotated[str | None, "a command line or null", _name_or_null] = None
    key: Annotated[str | None, "a key or null", _name_or_null] = None
    failure: Annotated[str | None, "a text or null", _name_or_null] = None

    def __post_init__(self):
        if problems := _problems(asdict(self)):
            raise ValueError(f"not a valid record: {'; '.join(problems)}")

    @property
    def when(self) -> datetime:
        """`date` in UTC."""
        return datetime.fromisoformat(self.date).astimezone(UTC)

    def to_json(self) -> str:
        """The record as a JSON text."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"


def path(folder: str | os.PathLike) -> Path:
    """Where a run that writes into `folder` leaves its record."""
    return Path(folder) / "record.json"


def write(record: Record, folder: str | os.PathLike) -> Path:
    """Add a record to a collection such as ``results/``, as ``<notebook>-<preset>-<data>-<commit>-<time>.json``."""
    stamp = datetime.fromisoformat(record.date).strftime("%Y%m%dT%H%M%S%f")
    parts = (record.notebook, record.preset, record.data["name"], (record.commit or "nogit")[:8], stamp)
    name = "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
    return files.write(Path(folder) / f"{name}.json", record.to_json())


def read(path: str | os.PathLike) -> Record:
    """Read a record and check all of it.

    If the file is no JSON, or fields are missing, unknown or wrong, a ValueError names each.
    """
    text = files.read(path, BYTES)
    try:
        content = files.parse(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON text: {error}") from error
    if problems := _problems(content):
        raise ValueError(f"{path} is not a valid record: {'; '.join(problems)}")
    return Record(**content)


def read_all(folder: str | os.PathLike) -> list[Record]:
    """Every record of a collection, or of a folder of runs, in order of date; each is checked as `read` does."""
    folder = Path(folder)
    found = [*folder.glob("*.json"), *folder.glob("*/record.json")]
    return sorted((read(file) for file in found), key=lambda record: record.when)


def on_record(notebook: str, preset: str, data: str) -> Record | None:
    """The newest record in `results/` that a command made of a notebook, preset and data set; None without one."""
    kept = [record for record in read_all(folder().parent / "results") if record.command and not record.failure]
    asked = (notebook, preset, data)
    return next((each for each in reversed(kept) if (each.notebook, each.preset, each.data["name"]) == asked), None)


def _problems(content: Any) -> list[str]:
    """What keeps `content` from being a record, field by field."""
    if not isinstance(content, Mapping):
        return [f"expected an object, found {type(content).__name__}"]
    known = {each.name: each for each in fields(Record)}
    problems = [f"{name} is missing" for name in known if name not in content and known[name].default is MISSING]
    problems += [f"{name} is no field of a record" for name in content if name not in known]
    for name, field_type in get_type_hints(Record, include_extras=True).items():
        wanted, right = field_type.__metadata__
        if name in content and not right(content[name]):
            problems.append(f"{name} must be {wanted}, got {content[name]!r:.200}")
    if problems:
        return problems
    reductions = content.get("facts", {}).get("reductions", [])
    if not isinstance(reductions, list | tuple) or not all(map(_name, reductions)):
        return [f"facts['reductions'] must be a list of texts, got {reductions!r:.200}"]
    return [line for name, metric in content["metrics"].items() for line in _metric(name, metric, content["seeds"])]


def _metric(name: str, metric: Any, seeds: Sequence[int]) -> list[str]:
    if not isinstance(metric, Mapping) or set(metric) != {"unit", "values"} or not isinstance(metric["unit"], str):
        return [f"metrics[{name!r}] must be {{'unit': text, 'values': [...]}}, got {metric!r:.200}"]
    values = metric["values"]
    if not isinstance(values, list | tuple) or not values or not all(map(_amount, values)):
        return [f"metrics[{name!r}]['values'] must be finite numbers, got {values!r:.200}"]
    if len(values) != len(seeds):
        return [f"metrics[{name!r}] has {len(values)} values for {len(seeds)} seeds"]
    return []
