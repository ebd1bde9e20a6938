"""One self-contained page about all runs: tables beside the published numbers, then every run with its figures."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hetlib.files import write
from hetlib.lab import notebooks, records
from hetlib.lab.records import Record
from hetlib.lab.statistics import html_table, interval, measured
from hetlib.lab.tables import HEAD, NOTES, Row, compare, fold, published

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72em; margin: 2em auto; padding: 0 1em; }
h2 { border-bottom: 2px solid #0072B2; margin-top: 2em; } h3 { margin-bottom: .2em; }
table { border-collapse: collapse; margin: 1em 0; font-size: 90%; } td, th { padding: .25em .7em; text-align: left; }
th { background: #F4F4F4; } td + td { white-space: nowrap; }
tr { border-bottom: 1px solid #ddd; } td svg { display: block; }
img { max-width: 100%; display: block; margin: 1em 0; } nav a { margin-right: 1.2em; }
.facts { color: #555; font-size: 85%; } summary { cursor: pointer; padding: .3em 0; }
"""
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
    here, unread = _runs(Path(runs))
    on_record = records.read_all(results)
    known = published()
    links = "".join(f"<a href='#{name}'>{escape(section['title'])}</a>" for name, section in known.items())
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><title>hetlib: report</title>"]
    parts.append("<meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'>")
    parts.append(f"<style>{STYLE}</style><h1>hetlib: what was published, and what came out here</h1>")
    parts.append(f"<nav>{links}<a href='#runs'>every run</a></nav>")
    for name, section in known.items():
        parts.append(_paper(name, section, on_record, [record for record, _ in here]))
    parts.append("<h2 id='runs'>Every run</h2>")
    parts += [_run(record, "on record", []) for record in on_record]
    parts += [_run(record, "on this machine", figures) for record, figures in here]
    parts += [f"<p role='alert'>left out: {escape(problem)}</p>" for problem in unread]
    return write(Path(runs) / "report.html", "\n".join(parts))


def _runs(folder: Path) -> tuple[list[tuple[Record, list[str]]], list[str]]:
    """Records and figures of the runs in a folder, the oldest first, and what kept others from being read."""
    found, unread = [], []
    for path in folder.glob("*/record.json"):
        try:
            found.append((records.read(path), _figures(path.parent)))
        except ValueError as error:
            unread.append(str(error))
    return sorted(found, key=lambda run: run[0].when), unread


def _paper(name: str, section: dict[str, Any], on_record: Iterable[Record], here: Iterable[Record]) -> str:
    parts = [f"<h2 id='{name}'>{escape(section['title'])}</h2><p>{escape(section.get('note', ''))}</p>"]
    parts.append(f"<h3>On record</h3>{_table(*compare(section, [run for run in on_record if run.notebook == name]))}")
    if mine := [run for run in here if run.notebook == name]:
        answered = {metric for run in mine for metric in run.metrics}
        rows = [row for row in section["rows"] if row["metric"] in answered]
        parts.append(f"<h3>On this machine</h3>{_table(*compare(section | {'rows': rows}, mine))}")
    return "".join(parts)


def _table(rows: Sequence[Row], notes: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return _rows(rows) + (f"<details><summary>{NOTES}</summary><ol>{listed}</ol></details>" if notes else "")


def _rows(rows: Sequence[Row]) -> str:
    shown, folded = fold(rows)
    html = html_table(HEAD, [row.cells for row in shown]) if shown else ""
    if folded:
        table = html_table(HEAD, [row.cells for row in folded])
        html += f"<details><summary>{len(folded)} more rows, not run</summary>{table}</details>"
    return html


def _run(record: Record, where: str, figures: Sequence[str]) -> str:
    images = "".join(f"<img alt='figure' src='data:image/png;base64,{figure}'>" for figure in figures)
    title = f"{record.notebook}, {record.preset} preset, {record.data['name']}, {record.date[:10]} ({where})"
    facts = escape(" · ".join(_facts(record)))
    return (
        f"<details><summary>{escape(title)}: {len(record.metrics)} metrics, {len(record.seeds)} seeds</summary>"
        f"<p class='facts'>{facts}</p>{_metrics(record)}{images}</details>"
    )


def _facts(record: Record) -> list[str]:
    commit = (record.commit or "no commit")[:8] + (" with changes" if record.dirty else "")
    return [
        f"{record.when:%Y-%m-%d %H:%M} UTC",
        f"{record.device}, {record.precision}, {record.threads} threads",
        f"{record.seconds:.0f} s, {record.peak_mib:.0f} MiB",
        f"{record.data['name']} ({record.data['train']} training and {record.data['test']} test images)",
        ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        commit,
        *(f"{name} = {value!r}" for name, value in record.parameters.items()),
    ]


def _metrics(record: Record) -> str:
    """A line per metric, with its seeds as dots and their interval as a bar, on one scale per unit."""
    if not record.metrics or not record.seeds:
        return ""
    ends: dict[str, tuple[float, float]] = {}
    for metric in record.metrics.values():
        low, high = ends.get(metric["unit"], (math.inf, -math.inf))
        ends[metric["unit"]] = min(low, *_reach(metric["values"])), max(high, *_reach(metric["values"]))
    lines = []
    for name, metric in record.metrics.items():
        text = escape(measured(metric["values"], metric["unit"]))
        strip = _strip(metric["values"], *ends[metric["unit"]])
        lines.append(f"<tr><td>{escape(name)}</td><td>{text}</td><td>{strip}</td></tr>")
    scale = "; ".join(f"{low:.4g} to {high:.4g} {escape(unit)}" for unit, (low, high) in ends.items())
    return f"<table><tr><th>metric</th><th>{HEAD[3]}</th><th>{scale}</th></tr>{''.join(lines)}</table>"


def _reach(values: Sequence[float]) -> list[float]:
    mean, half = interval(values)
    return [*values] if math.isnan(half) else [*values, mean - half, mean + half]


def _strip(values: Sequence[float], low: float, high: float) -> str:
    at = lambda value: 5 + (WIDTH - 10) * (value - low) / ((high - low) or 1)
    mean, half = interval(values)
    bar = "" if math.isnan(half) else f"<path d='M{at(mean - half):.1f} 8H{at(mean + half):.1f}' stroke='#0072B2'/>"
    dots = "".join(f"<circle cx='{at(value):.1f}' cy='8' r='3' fill='#D55E00' opacity='.7'/>" for value in values)
    return f"<svg width='{WIDTH}' height='16' role='img' aria-label='seeds'>{bar}{dots}</svg>"


def _figures(folder: Path) -> list[str]:
    """PNG figures of the executed notebook in a run's folder, as base64 text."""
    found = [output for file in folder.glob("*.ipynb") for _, output in notebooks.outputs(notebooks.read(file))]
    return [output["data"]["image/png"].replace("\n", "") for output in found if "image/png" in output.get("data", {})]
