"""Records in `results/`: written from a clean checkout alone, and verified by running their commands again."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from hetlib.cli.runner import Task
from hetlib.lab import records
from hetlib.lab.records import Record
from hetlib.lab.statistics import interval
from hetlib.lab.tables import SCRIPT


@dataclass(frozen=True)
class Comparison:
    """One metric of a record and of a second run: values of the same seeds, what to say of them, and if that is well.

    `found` is None where the second run has no such metric.
    """

    metric: str
    committed: list[float]
    found: list[float] | None
    says: str
    ok: bool


def require_clean() -> None:
    """Raise a ValueError that names the changed files, unless hetlib runs in a git checkout without any."""
    changed = records.changed_files()
    if changed is None:
        raise ValueError("--keep needs a git checkout: a record names the commit that it was made with")
    if changed:
        raise ValueError(f"--keep needs a clean checkout; commit or undo {', '.join(line[3:] for line in changed)}")


def add(task: Task, folder: Path) -> Path:
    """Write the record of a task that ended well, with its command, into a folder; gives the new file."""
    require_clean()  # also after the run: what was edited meanwhile may have run
    record = records.read(records.path(task.folder))
    return records.write(replace(record, command=f"{task.command} --keep", key=None), folder)


def command_of(record: Record) -> str:
    """The command that made a record; a ValueError where a script did."""
    if record.command is None:
        raise ValueError(f"the record of {record.notebook} was {SCRIPT}: it holds no command to run again")
    return record.command


def compare(record: Record, again: Record) -> list[Comparison]:
    """Compare a record with another run of its command, on the seeds that this run has.

    On the same versions, processor, device and precision all values have to be equal. Elsewhere the mean over these
    seeds may differ by half the width of the record's own 95 % interval.

    Raises
    ------
    ValueError
        If the other run has other seeds, or was trained on other data.
    """
    n = len(again.seeds)
    if again.seeds != record.seeds[:n]:
        raise ValueError(f"the record has seeds {record.seeds}, the second run has {again.seeds}")
    if again.data != record.data:
        raise ValueError(f"the record was made with {record.data}, the second run with {again.data}")
    where = ("versions", "device", "precision", "threads")
    same = all(getattr(record, name) == getattr(again, name) for name in where)
    found = {name: metric["values"] for name, metric in again.metrics.items()}
    return [_compared(name, metric["values"], n, found.get(name), same) for name, metric in record.metrics.items()]


def _compared(name: str, values: list[float], n: int, found: list[float] | None, same: bool) -> Comparison:
    committed = values[:n]
    if found is None:
        return Comparison(name, committed, None, "missing", False)
    if found == committed:
        return Comparison(name, committed, found, "equal", True)
    gap, half = fmean(found) - fmean(committed), interval(values)[1]
    if same:
        return Comparison(name, committed, found, f"differs by {gap:+.4g} on the same machine and versions", False)
    inside = abs(gap) <= half
    told = f"another machine or other versions: {gap:+.4g}, {'within' if inside else 'not within'} ± {half:.4g}"
    return Comparison(name, committed, found, told, inside)
