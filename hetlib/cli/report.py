"""What `hetlib report` writes: one self-contained page about all runs, and the tables of papers.md."""

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hetlib.cli.outputs import outputs
from hetlib.errors import unknown
from hetlib.files import write
from hetlib.lab import notebooks, records
from hetlib.lab.records import Record
from hetlib.lab.statistics import interval, measured
from hetlib.lab.tables import HEAD, SCRIPT, Row, compare, published

START = "<!-- table: "
TABLE = re.compile(rf"({START}(\S+) -->\n)(?:(?!{START}).)*?(<!-- end of table -->)", re.DOTALL)
NOTES = "Sources of the published numbers, and what our runs did otherwise than their preset says"
FOLDED = 12
"""A table with more rows than these that were not run shows them only when asked."""
WIDTH = 220
"""Pixels of the strip that shows a metric's seeds."""


def write_page(runs: str | Path, results: str | Path) -> Path:
    """Build ``report.html`` in the folder of runs, from the committed records and from the runs on this machine.

    Parameters
    ----------
    runs : path-like
        Folder with a folder per run: its record and executed notebook, whose figures are shown.
    results : path-like
        Folder of committed records.

    Returns
    -------
    Path
        The page; it needs no other file and no network.

    Raises
    ------
    ValueError
        If a committed record is not valid; the message names file and field. A run that cannot be read is left out,
        and the page says so.
    """
    from jinja2 import Environment, PackageLoader

    here, unread = _runs(Path(runs))
    on_record = records.read_all(results)
    mine = [record for record, _ in here]
    shown = [_run(record, "on record", []) for record in on_record]
    shown += [_run(record, "on this machine", figures) for record, figures in here]
    template = Environment(loader=PackageLoader("hetlib.cli", "."), autoescape=True).get_template("report.html.jinja")
    content = template.render(
        papers=[_paper(name, section, on_record, mine) for name, section in published().items()],
        runs=shown,
        unread=unread,
        head=HEAD,
        notes_title=NOTES,
        fold=fold,
        width=WIDTH,
    )
    return write(Path(runs) / "report.html", content)


def _runs(folder: Path) -> tuple[list[tuple[Record, list[str]]], list[str]]:
    """Records and figures of the runs in a folder, the oldest first, and what kept others from being read."""
    found, unread = [], []
    for path in folder.glob("*/record.json"):
        try:
            found.append((records.read(path), _figures(path.parent)))
        except ValueError as error:
            unread.append(str(error))
    return sorted(found, key=lambda run: run[0].when), unread


def _figures(folder: Path) -> list[str]:
    """PNG figures of the executed notebook in a run's folder, as base64 text."""
    found = [output for file in folder.glob("*.ipynb") for _, output in outputs(notebooks.read(file))]
    return [output["data"]["image/png"].replace("\n", "") for output in found if "image/png" in output.get("data", {})]


def _paper(name: str, section: dict[str, Any], on_record: list[Record], here: list[Record]) -> dict[str, Any]:
    committed, mine = ([run for run in runs if run.notebook == name] for runs in (on_record, here))
    answered = {metric for run in mine for metric in run.metrics}
    rows = [row for row in section["rows"] if row["metric"] in answered]
    return {
        "name": name,
        "title": section["title"],
        "note": section.get("note", ""),
        "on_record": compare(section, committed),
        "here": compare(section | {"rows": rows}, mine) if mine else None,
    }


def _run(record: Record, where: str, figures: Sequence[str]) -> dict[str, Any]:
    strips, scale = _strips(record)
    return {
        "title": f"{record.notebook}, {record.preset} preset, {record.data['name']}, {record.date[:10]} ({where})",
        "record": record,
        "facts": _facts(record),
        "strips": strips,
        "scale": scale,
        "figures": figures,
    }


def _facts(record: Record) -> list[str]:
    commit = (record.commit or "no commit")[:8] + (" with changes" if record.dirty else "")
    return [
        record.command or SCRIPT,
        f"{record.when:%Y-%m-%d %H:%M} UTC",
        f"{record.device}, {record.precision}, {record.threads} threads",
        f"{record.seconds:.0f} s, {record.peak_mib:.0f} MiB",
        f"{record.data['name']} ({record.data['train']} training and {record.data['test']} test images)",
        ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        commit,
        *(f"{name} = {value!r}" for name, value in record.parameters.items()),
    ]


def _strips(record: Record) -> tuple[list[dict[str, Any]], str]:
    """Where each metric's seeds and their interval lie on one scale per unit, in pixels, and the scales as text."""
    ends: dict[str, tuple[float, float]] = {}
    for metric in record.metrics.values():
        mean, half = interval(metric["values"])
        reach = [*metric["values"]] if math.isnan(half) else [*metric["values"], mean - half, mean + half]
        low, high = ends.get(metric["unit"], (math.inf, -math.inf))
        ends[metric["unit"]] = min(low, *reach), max(high, *reach)
    strips = []
    for name, metric in record.metrics.items():
        low, high = ends[metric["unit"]]
        at = lambda value, low=low, span=(high - low) or 1: 5 + (WIDTH - 10) * (value - low) / span
        mean, half = interval(metric["values"])
        bar = None if math.isnan(half) else (at(mean - half), at(mean + half))
        text = measured(metric["values"], metric["unit"])
        strips.append({"name": name, "text": text, "bar": bar, "dots": [at(value) for value in metric["values"]]})
    return strips, "; ".join(f"{low:.4g} to {high:.4g} {unit}" for unit, (low, high) in ends.items())


def update_tables(papers: str | Path, results: str | Path) -> bool:
    """Bring the tables of a Markdown file up to date with a folder of records, and say whether it changed.

    A table stands between ``<!-- table: 01_hmt -->`` and ``<!-- end of table -->``; all else stays as it is.

    Raises
    ------
    ValueError
        If a marker names a notebook without published rows, lacks its end, or a record is not valid.
    """
    known, every = published(), records.read_all(results)

    def table(match: re.Match) -> str:
        name = match[2]
        if name not in known:
            raise unknown("table", name, known)
        mine = [record for record in every if record.notebook == name]
        return f"{match[1]}{markdown(*compare(known[name], mine))}{match[3]}"

    before = Path(papers).read_text(encoding="utf-8")
    after, replaced = TABLE.subn(table, before)
    if replaced != before.count(START):
        raise ValueError(f"{papers}: {before.count(START)} tables begin and {replaced} end; nothing was written")
    if after != before:
        write(papers, after)
    return after != before


def markdown(rows: Sequence[Row], sources: Sequence[str]) -> str:
    """Rows as a Markdown table with its sources below; many rows that were not run are folded."""
    shown, folded = fold(rows)
    text = _lines(shown) if shown else ""
    if folded:
        text += f"\n<details><summary>{len(folded)} more rows, not run</summary>\n\n{_lines(folded)}\n</details>\n"
    if sources:
        listed = "".join(f"{number}. {source}\n" for number, source in enumerate(sources, 1))
        text += f"\n<details><summary>{NOTES}</summary>\n\n{listed}\n</details>\n"
    return text


def fold(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows to show at once, and rows to show when asked: those not run, where there are many of them."""
    waiting = [row for row in rows if not row.run]
    if len(waiting) <= FOLDED:
        return list(rows), []
    return [row for row in rows if row.run], waiting


def _lines(rows: Iterable[Row]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    plain = lambda cell: " ".join(escape(cell, quote=False).replace("|", "/").split())
    return "".join(f"| {' | '.join(map(plain, line))} |\n" for line in lines)
