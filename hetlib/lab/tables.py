"""Numbers of ours set beside the published ones."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hetlib.errors import unknown
from hetlib.lab.records import Record
from hetlib.lab.statistics import Table, measured, verdict

NOT_RUN = "not run"
SCRIPT = "made by a script"
"""Said of a record that holds no command which would run it again."""
HEAD = ("experiment", "paper", "released code", "ours (mean ± 95 % CI, n)", "verdict")


class Row(NamedTuple):
    """One line of a table, as text: the cells below `HEAD`."""

    experiment: str
    paper: str
    released: str
    ours: str
    verdict: str

    @property
    def run(self) -> bool:
        """Whether there is a number of ours."""
        return self.ours != NOT_RUN


def published() -> dict[str, dict[str, Any]]:
    """Published numbers with their sources, by notebook."""
    return tomllib.loads((Path(__file__).parent / "paper_numbers.toml").read_text(encoding="utf-8"))


def compare(section: Mapping[str, Any], records: Iterable[Record]) -> tuple[list[Row], list[str]]:
    """Set what was measured beside what was published.

    Parameters
    ----------
    section : mapping
        A notebook's part of `published`.
    records : iterable of Record
        That notebook's records, the oldest first; of two with one preset, data set and parameters the newer counts.

    Returns
    -------
    rows : list of Row
        First the published experiments, run or not, then whatever else was measured.
    notes : list of str
        Sources of the published numbers, and in what our runs depart from their preset; [1] in a row is the first.
    """
    anywhere = {entry["metric"] for entry in section["rows"] if entry.get("anywhere")}
    latest = {
        (*((_setting(record), _departures(record)) if metric not in anywhere else ()), metric): record
        for record in records
        for metric in record.metrics
    }
    sources: list[str] = []
    rows = []
    for entry in section["rows"]:
        answers = [key for key in latest if key[-1] == entry["metric"]]
        rows += [_row(entry, sources, latest.pop(key), key[-1]) for key in answers] or [_row(entry, sources)]
    rows += [_row({"what": metric}, sources, record, metric) for (*_, metric), record in latest.items()]
    return rows, sources


def _setting(record: Record) -> str:
    """Data set and preset, as text."""
    return f"{record.data['name']}, {record.preset} preset{', reduced' if record.facts.get('reductions') else ''}"


def _departures(record: Record) -> str:
    """The parameters that differ from what the preset says, and what was reduced, as text."""
    given = [f"{name} {value!r}" for name, value in sorted(record.parameters.items()) if name != "PRESET"]
    return ", ".join([*given, *record.facts.get("reductions", ())])


def _row(entry: Mapping[str, Any], sources: list[str], record: Record | None = None, metric: str = "") -> Row:
    paper, released = (
        _number(entry[column], sources) if column in entry else "not known" for column in ("paper", "released")
    )
    if record is None:
        return Row(entry["what"], paper, released, NOT_RUN, NOT_RUN)
    values, unit = record.metrics[metric]["values"], record.metrics[metric]["unit"]
    target = next((entry[column]["value"] for column in ("paper", "released") if column in entry), None)
    anywhere = entry.get("anywhere", False)  # neither data nor training have a part in it
    # The smaller presets train less, on other data: whatever they give neither confirms nor contradicts.
    same = anywhere or (record.preset == "paper" and not record.facts.get("reductions"))
    decided = verdict(values, target) if same or target is None else "another protocol"
    origin = [SCRIPT] if record.command is None else []
    remarks = "" if anywhere else ", ".join([*origin, *filter(None, [_departures(record)])])
    note = f" [{_note(f'ours: {remarks}', sources)}]" if remarks else ""
    where = entry["what"] if anywhere else f"{entry['what']} ({_setting(record)}{note})"
    return Row(where, paper, released, measured(values, unit), decided)


def _note(text: str, notes: list[str]) -> int:
    """The number of a note, which is put at the end if it is new."""
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1


def _number(entry: Mapping[str, Any], sources: list[str]) -> str:
    """A published number as it was printed, two decimals at least, and the number of its source."""
    value = entry["value"]
    text = f"{value:g}" if isinstance(value, int) or round(value, 2) != value else f"{value:.2f}"
    return f"{text} [{_note(entry['source'], sources)}]"


def beside_published(record: Record) -> Table:
    """What a run measured, beside the published numbers of its paper: the rows that its record answers."""
    known = published()
    if record.notebook not in known:
        raise unknown("table", record.notebook, known)
    section = known[record.notebook]
    answered = [row for row in section["rows"] if row["metric"] in record.metrics]
    metrics = {row["metric"]: record.metrics[row["metric"]] for row in answered}
    rows, sources = compare(
        section | {"rows": answered}, [replace(record, metrics=metrics, command=record.command or "this notebook")]
    )
    return Table((HEAD, *rows), tuple(sources))
