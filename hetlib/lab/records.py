"""The record that every run leaves: what was run, on what, with which numbers."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hetlib import files
from hetlib.data import Images
from hetlib.lab import machine

LARGEST = 1e150


@dataclass(frozen=True)
class Record:
    """One run of one notebook.

    Attributes
    ----------
    notebook, preset : str
        What was run.
    parameters : dict
        The notebook's own parameters.
    seeds : list of int
        One per value of each metric.
    metrics : dict
        Name to ``{"unit": str, "values": [one finite number per seed]}``.
    data : dict
        ``name``, ``checksum`` of the images trained on, and how many ``train`` and ``test`` images.
    device, precision : str
        As "cuda" and "bf16".
    threads : int
        Of torch, per process.
    versions : dict
        Of Python, torch, torchvision, hetlib and NumPy.
    commit : str or None
        Git commit of hetlib's source; None outside a checkout.
    dirty : bool or None
        Whether tracked files differed from that commit.
    seconds : float
        From start to record.
    peak_mib : float
        Highest memory in MiB: the GPU's on CUDA, else of the process or its largest child.
    date : str
        When it was recorded, ISO 8601 in UTC.
    facts : dict
        What else the notebook wants remembered.
    """

    notebook: str
    preset: str
    parameters: dict[str, Any]
    seeds: list[int]
    metrics: dict[str, dict[str, Any]]
    data: dict[str, Any]
    device: str
    precision: str
    threads: int
    seconds: float
    peak_mib: float
    versions: dict[str, str] = field(default_factory=machine.versions)
    commit: str | None = field(default_factory=lambda: machine.git()[0])
    dirty: bool | None = field(default_factory=lambda: machine.git()[1])
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    facts: dict[str, Any] = field(default_factory=dict)

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


def note(folder: str | os.PathLike) -> Path:
    """Where a run that writes into `folder` leaves its estimate, if it makes one."""
    return Path(folder) / "estimate.txt"


def write(record: Record, folder: str | os.PathLike) -> Path:
    """Add a record to a collection such as ``results/``.

    Parameters
    ----------
    record : Record
        What to keep.
    folder : path-like
        Made if missing.

    Returns
    -------
    Path
        ``<notebook>-<preset>-<data>-<commit>-<time>.json``.

    Raises
    ------
    OSError
        As `hetlib.files.write`.
    """
    stamp = datetime.fromisoformat(record.date).strftime("%Y%m%dT%H%M%S%f")
    parts = (record.notebook, record.preset, record.data["name"], (record.commit or "nogit")[:8], stamp)
    name = "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
    return files.write(Path(folder) / f"{name}.json", record.to_json())


def read(path: str | os.PathLike) -> Record:
    """Read a record and check all of it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no JSON, or fields are missing, unknown or wrong; each is named.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON text: {error}") from error
    if problems := _problems(content):
        raise ValueError(f"{path} is not a valid record: {'; '.join(problems)}")
    return Record(**content)


def read_all(folder: str | os.PathLike) -> list[Record]:
    """Every record of a collection, or of a folder of runs, in order of date.

    Raises
    ------
    ValueError
        If a record is not valid; the message names the file and the fields.
    """
    folder = Path(folder)
    found = [*folder.glob("*.json"), *folder.glob("*/record.json")]
    return sorted((read(file) for file in found), key=lambda record: record.when)


def describe(train: Images, test: Images) -> dict[str, Any]:
    """The record's `data` field for a training and a test set."""
    return {"name": train.name, "checksum": train.checksum, "train": len(train), "test": len(test)}


def _problems(content: Any) -> list[str]:
    """What keeps `content` from being a record, field by field."""
    if not isinstance(content, Mapping):
        return [f"expected an object, found {type(content).__name__}"]
    problems = [f"{name} is missing" for name in _FIELDS if name not in content]
    problems += [f"{name} is no field of a record" for name in content if name not in _FIELDS]
    for name, (wanted, right) in _FIELDS.items():
        if name in content and not right(content[name]):
            problems.append(f"{name} must be {wanted}, got {content[name]!r}")
    if problems:
        return problems
    return [line for name, metric in content["metrics"].items() for line in _metric(name, metric, content["seeds"])]


def _metric(name: str, metric: Any, seeds: Sequence[int]) -> list[str]:
    if not isinstance(metric, Mapping) or set(metric) != {"unit", "values"} or not isinstance(metric["unit"], str):
        return [f"metrics[{name!r}] must be {{'unit': text, 'values': [...]}}, got {metric!r}"]
    values = metric["values"]
    if not isinstance(values, list | tuple) or not values or not all(map(_amount, values)):
        return [f"metrics[{name!r}]['values'] must be finite numbers, got {values!r}"]
    if len(values) != len(seeds):
        return [f"metrics[{name!r}] has {len(values)} values for {len(seeds)} seeds"]
    return []


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _whole(value: Any) -> bool:
    return type(value) is int


def _count(value: Any) -> bool:
    return _whole(value) and value >= 0


def _amount(value: Any) -> bool:
    # Larger ones overflow where they are squared.
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _object(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return isinstance(value, Mapping)


def _data(value: Any) -> bool:
    checks = {"name": _name, "checksum": _name, "train": _count, "test": _count}
    return isinstance(value, Mapping) and set(value) == set(checks) and all(checks[k](value[k]) for k in checks)


def _date(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "notebook": ("a name", _name),
    "preset": ("a name", _name),
    "parameters": ("an object of plain values", _object),
    "seeds": ("a list of whole numbers", lambda value: isinstance(value, list) and all(map(_whole, value))),
    "metrics": ("an object", lambda value: isinstance(value, Mapping)),
    "data": ("{'name', 'checksum', 'train', 'test'}", _data),
    "device": ("a name", _name),
    "precision": ("a name", _name),
    "threads": ("a number of threads", _count),
    "seconds": ("a number of seconds", lambda value: _amount(value) and value >= 0),
    "peak_mib": ("a number of MiB", lambda value: _amount(value) and value >= 0),
    "versions": ("an object of plain values", _object),
    "commit": ("a commit or null", lambda value: value is None or _name(value)),
    "dirty": ("true, false or null", lambda value: value in (None, True, False)),
    "date": ("an ISO 8601 time with its zone", _date),
    "facts": ("an object of plain values", _object),
}
