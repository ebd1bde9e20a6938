"""One self-contained page about all runs: tables beside the published numbers, then every run with its figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetlib.files import write
from hetlib.lab import notebooks, records
from hetlib.lab.records import Record
from hetlib.lab.statistics import interval, measured
from hetlib.lab.tables import HEAD, NOTES, SCRIPT, compare, fold, published

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
    template = Environment(loader=PackageLoader("hetlib.lab", "."), autoescape=True).get_template("report.html.jinja")
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
    found = [output for file in folder.glob("*.ipynb") for _, output in notebooks.outputs(notebooks.read(file))]
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
