"""Numbers beside the published ones: the tables of papers.md, and one self-contained page about all runs."""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from hetlib.errors import unknown
from hetlib.files import write
from hetlib.lab import ledger, notebooks
from hetlib.lab.ledger import Record
from hetlib.report import aligned

HEAD = ("experiment", "paper", "released code", "ours (mean ± 95 % CI, n)", "verdict")
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; } td, th { padding: .2em .8em; text-align: left; }
tr { border-bottom: 1px solid #ddd; } img { max-width: 100%; } .facts { color: #555; font-size: 85%; }"""


@dataclass(frozen=True)
class Row:
    """One line of a table, as text."""

    experiment: str
    paper: str
    released: str
    ours: str
    verdict: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The line's cells, in the order of `HEAD`."""
        return self.experiment, self.paper, self.released, self.ours, self.verdict


def published() -> dict[str, dict[str, Any]]:
    """Published numbers with their sources, by notebook.

    Raises
    ------
    ValueError
        If a number has no source.
    """
    content = tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
    for name, section in content.items():
        for row in section["rows"]:
            for column in ("paper", "released"):
                if column in row and not row[column].get("source"):
                    raise ValueError(f"{name}: the {column}'s number for {row['metric']!r} has no source")
    return content


def compare(section: Mapping[str, Any], records: Iterable[Record]) -> list[Row]:
    """Set what was measured beside what was published.

    Parameters
    ----------
    section : mapping
        A notebook's part of `published`.
    records : iterable of Record
        That notebook's records, the oldest first; of two records of one preset and data set the newer counts.

    Returns
    -------
    list of Row
        First the published experiments, run or not, then whatever else was measured.
    """
    latest = {(record.preset, record.data["name"], metric): record for record in records for metric in record.metrics}
    rows = []
    for entry in section["rows"]:
        answers = [key for key in latest if key[2] == entry["metric"]]
        rows += [_row(entry, latest.pop(key), key[2]) for key in answers] or [_row(entry, None, "")]
    return rows + [_row({"what": metric}, record, metric) for (_, _, metric), record in latest.items()]


def _row(entry: Mapping[str, Any], record: Record | None, metric: str) -> Row:
    paper, released = (_number(entry[column]) if column in entry else "not known" for column in ("paper", "released"))
    if record is None:
        return Row(entry["what"], paper, released, "not run", "not run")
    values, unit = record.metrics[metric]["values"], record.metrics[metric]["unit"]
    where = f"{entry['what']} ({record.data['name']}, {record.preset} preset)"
    target = next((entry[column]["value"] for column in ("paper", "released") if column in entry), None)
    return Row(where, paper, released, measured(values, unit), verdict(values, target))


def _number(entry: Mapping[str, Any]) -> str:
    return f"{entry['value']:g} ({entry['source']})"


def measured(values: list[float], unit: str) -> str:
    """Mean, half width of the 95 % interval and count, as "71.20 ± 0.31 %, n = 3"."""
    mean, half = ledger.interval(values)
    spread = "" if math.isnan(half) else f" ± {half:.2f}"
    return f"{mean:.2f}{spread} {unit}, n = {len(values)}"


def verdict(values: list[float], target: float | None) -> str:
    """Whether a published number lies in the interval of ours; without an interval nothing is claimed."""
    if target is None:
        return "nothing to compare with"
    mean, half = ledger.interval(values)
    if math.isnan(half):
        return f"{mean - target:+.2f}, one seed: no verdict"
    return "agrees" if abs(mean - target) <= half else f"differs by {mean - target:+.2f}"


def markdown(rows: Iterable[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


@dataclass(frozen=True, repr=False)
class Table:
    """A table that reads as text and shows as HTML; the first line is its heading."""

    lines: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return aligned(self.lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _table(self.lines[0], self.lines[1:])


def beside(record: Record) -> Table:
    """What a run measured, beside the published numbers of its paper."""
    return Table((HEAD, *(row.cells for row in compare(published()[record.notebook], [record]))))


def effects(values: Mapping[str, Sequence[float]], baseline: str, unit: str = "%") -> Table:
    """Compare ways of doing one thing with a baseline, seed by seed.

    Parameters
    ----------
    values : mapping of str to sequence of float
        For each way one value per seed, the same seeds in the same order; more is better.
    baseline : str
        The way that the others are compared with.
    unit : str
        Of the values.

    Returns
    -------
    Table
        Per way its mean, the mean difference from the baseline on the same seed with its 95 % interval, and whether
        that interval excludes zero.
    """
    lines = [("start", "ours (mean ± 95 % CI, n)", f"minus {baseline!r}, same seed", "verdict")]
    for way, found in values.items():
        gains = [ours - theirs for ours, theirs in zip(found, values[baseline], strict=True)]
        mean, half = ledger.interval(gains)
        verdict = "better" if mean > half else "worse" if mean < -half else "no difference shown"
        cells = (measured(gains, "points").partition(",")[0], "one seed: no verdict" if math.isnan(half) else verdict)
        lines.append((way, measured(list(found), unit), *(("", "baseline") if way == baseline else cells)))
    return Table(tuple(lines))


def update_tables(papers: str | Path, results: str | Path) -> bool:
    """Bring the tables between the markers of a Markdown file up to date.

    A table stands between ``<!-- table: 01_hmt -->`` and ``<!-- end of table -->``.

    Parameters
    ----------
    papers : path-like
        The file; everything outside the markers stays as it is.
    results : path-like
        The committed records; nothing else is read.

    Returns
    -------
    bool
        Whether the file changed.

    Raises
    ------
    ValueError
        If a marker names a notebook without published rows, or a record is not valid.
    """
    known, records = published(), ledger.read_all(results)

    def table(match: re.Match) -> str:
        name = match[2]
        if name not in known:
            raise unknown("table", name, known)
        mine = [record for record in records if record.notebook == name]
        return f"{match[1]}{markdown(compare(known[name], mine))}{match[3]}"

    before = Path(papers).read_text(encoding="utf-8")
    after = TABLE.sub(table, before)
    if after != before:
        write(papers, after)
    return after != before


def write_html(runs: str | Path, results: str | Path) -> Path:
    """Build ``report.html`` in the folder of runs: tables, then every run with its facts and figures, in one file.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        If a record is not valid.
    """
    on_record, here = ledger.read_all(results), ledger.read_all(runs)
    parts = [f"<!doctype html><meta charset='utf-8'><title>hetlib: report</title><style>{STYLE}</style><h1>hetlib</h1>"]
    for title, records in (("On record", on_record), ("Runs on this machine", here)):
        parts.append(f"<h2>{title}</h2>")
        for name, section in published().items():
            mine = [record for record in records if record.notebook == name]
            parts.append(f"<h3>{escape(section['title'])}</h3><p>{escape(section.get('note', ''))}</p>")
            parts.append(_table(HEAD, [row.cells for row in compare(section, mine)]))
    parts.append("<h2>Every run</h2>")
    parts += [_run(record, []) for record in on_record]
    for path in sorted(Path(runs).glob("*/record.json")):
        parts.append(_run(ledger.read(path), _figures(path.parent)))
    return write(Path(runs) / "report.html", "\n".join(parts))


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><tr>{top}</tr>{body}</table>"


def _run(record: Record, figures: list[str]) -> str:
    commit = (record.commit or "no commit")[:8] + (" with changes" if record.dirty else "")
    facts = [
        record.date[:16].replace("T", " ") + " UTC",
        f"{record.device}, {record.precision}, {record.threads} threads",
        f"{record.seconds:.0f} s, {record.peak_mib:.0f} MiB",
        f"{record.data['name']} ({record.data['train']} training and {record.data['test']} test images)",
        ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        commit,
        ", ".join(f"{name} = {value!r}" for name, value in record.parameters.items()),
    ]
    lines = [
        (name, measured(metric["values"], metric["unit"]))
        for name, metric in record.metrics.items()
        if metric["values"]
    ]
    images = "".join(f"<img alt='figure' src='data:image/png;base64,{figure}'>" for figure in figures)
    return (
        f"<h3>{escape(record.notebook)}, {escape(record.preset)} preset</h3>"
        f"<p class='facts'>{escape(' · '.join(facts))}</p>{_table(('metric', HEAD[3]), lines)}{images}"
    )


def _figures(folder: Path) -> list[str]:
    """PNG figures of the executed notebook in a run's folder, as base64 text."""
    found = [output for file in folder.glob("*.ipynb") for _, output in notebooks.outputs(notebooks.read(file))]
    return [output["data"]["image/png"].replace("\n", "") for output in found if "image/png" in output.get("data", {})]
