"""What `hetlib report` writes: one self-contained page about all runs, and the tables of papers.md."""

import math
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetlib import files
from hetlib.cli import claims
from hetlib.cli.markdown import plain, table
from hetlib.cli.outputs import outputs
from hetlib.errors import unknown
from hetlib.lab import notebooks, records
from hetlib.lab.records import Record
from hetlib.lab.statistics import interval, measured
from hetlib.lab.tables import HEAD, NOT_RUN, SCRIPT, Row, compare, published

START = "<!-- table: "
TABLE = re.compile(rf"({START}(\S+) -->\n)(?:(?!{START}).)*?(<!-- end of table -->)", re.DOTALL)
NOTED = re.compile(r" \[\d+\](?=\)$)")
NOTES = "Sources of the published numbers, and what our runs did otherwise than their preset says"
FOLDED = 12
"""A table with more rows than these that were not run shows them only when asked."""
LARGEST = 2**26
"""Bytes of a notebook whose figures are shown."""
WIDTH = 220
"""Pixels of the strip that shows a metric's seeds."""


def write_page(runs: str | Path, results: str | Path, tell: Callable[[str], Any] = lambda problem: None) -> Path:
    """Build ``report.html`` in the folder of runs, from the committed records and from the runs on this machine.

    Parameters
    ----------
    runs : path-like
        Folder with a folder per run: its record and executed notebook, whose figures are shown.
    results : path-like
        Folder of committed records.
    tell : callable
        Called for each record, figure or run that cannot be read, or has failed: it is left out, and the page says so.

    Returns
    -------
    Path
        The page; it needs no other file and no network.

    Raises
    ------
    ValueError
        If there are no committed records.
    """
    from jinja2 import Environment, PackageLoader

    on_record, unread = committed(results)
    runs_here, left_out = _read(Path(runs).glob("*/record.json"))
    here = []
    for path, record in runs_here:
        figures, spoilt = _figures(path.parent)
        here.append((record, figures))
        left_out += spoilt
    unread += left_out
    for problem in unread:
        tell(problem)
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
        claims_head=claims.HEAD,
        rule=claims.RULE,
        bar=_bar,
    )
    return files.write(Path(runs) / "report.html", content)


def committed(results: str | Path) -> tuple[list[Record], list[str]]:
    """The records of a collection, the oldest first, and for each file that is left out why.

    If there is none at all it is a ValueError: a folder that is named wrongly shall not empty a table.
    """
    folder = Path(results)
    paths = [*folder.glob("*.json"), *folder.glob("*/record.json")]
    if not paths:
        raise ValueError(f"{results}: {'holds no records' if folder.is_dir() else 'no such folder'}")
    found, unread = _read(paths)
    return [record for _, record in found], unread


def _read(paths: Iterable[Path]) -> tuple[list[tuple[Path, Record]], list[str]]:
    """Records of runs that ended well with their files, the oldest first, and for each other file why it is none."""
    found, unread = [], []
    for path in sorted(paths):
        try:
            record = records.read(path)
        except (OSError, ValueError) as error:
            unread.append(str(error))
            continue
        if record.failure:
            unread.append(f"{path}: the run failed: {' '.join(record.failure.split())[-200:]}")
        else:
            found.append((path, record))
    return sorted(found, key=lambda each: each[1].when), unread


def _figures(folder: Path) -> tuple[list[str], list[str]]:
    """PNG figures of the executed notebook in a run's folder, as base64 text, and what is wrong with others."""
    found, spoilt = [], []
    for file in sorted(folder.glob("*.ipynb")):
        try:
            files.read(file, LARGEST)
            images = [output["data"]["image/png"] for _, output in outputs(notebooks.read(file)) if _drawn(output)]
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            spoilt.append(str(error) if isinstance(error, OSError | ValueError) else f"{file} is no notebook: {error}")
            continue
        figures = [image.replace("\n", "") for image in images if isinstance(image, str)]
        found += (whole := list(filter(_png, figures)))
        if len(whole) < len(images):
            spoilt.append(f"{file}: {len(images) - len(whole)} figures are no PNG")
    return found, spoilt


def _drawn(output: Mapping[str, Any]) -> bool:
    return "image/png" in output.get("data", {})


def _png(text: str) -> bool:
    """Whether a text is a PNG image in base64."""
    try:
        return b64decode(text, validate=True).startswith(b"\x89PNG\r\n\x1a\n")
    except ValueError:
        return False


def _paper(name: str, section: dict[str, Any], on_record: list[Record], here: list[Record]) -> dict[str, Any]:
    committed, mine = ([run for run in runs if run.notebook == name] for runs in (on_record, here))
    answered = {metric for run in mine for metric in run.metrics}
    rows = [row for row in section["rows"] if row["metric"] in answered]
    return {
        "name": name,
        "title": section["title"],
        "note": section.get("note", ""),
        "answers": (found := claims.answers(name, on_record)),
        "state": claims.state(found),
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


def _bar(answer: claims.Answer) -> str:
    """An answer's difference and interval as the path of a small picture, 1 point being 4 pixels, 0 in the middle."""
    if answer.span is None:
        return ""
    mean, half = answer.span
    half = 0.0 if math.isnan(half) else half
    at = lambda points: min(max(WIDTH / 2 + 4 * points, 3), WIDTH - 3)
    return f"M{at(mean - half):.1f} 8H{at(mean + half):.1f}M{at(mean):.1f} 4V12"


def update_tables(papers: str | Path, results: str | Path, force: bool = False) -> bool:
    """Bring the tables of a Markdown file up to date with a folder of records, and say whether it changed.

    A table stands between ``<!-- table: 01_hmt -->`` and ``<!-- end of table -->``, and claims as `claims.written`
    says; all else stays as it is.

    Raises
    ------
    ValueError
        If a marker names a notebook without published rows or lacks its end, there are no records, or, without
        `force`, a number that stands in a table would be in none.
    """
    known, (every, _) = published(), committed(results)

    def numbers(match: re.Match) -> str:
        name = match[2]
        if name not in known:
            raise unknown("table", name, known)
        mine = [record for record in every if record.notebook == name]
        return f"{match[1]}{markdown(*compare(known[name], mine))}{match[3]}"

    before = Path(papers).read_text(encoding="utf-8")
    after, replaced = TABLE.subn(numbers, before)
    after = claims.written(after, every)
    if replaced != before.count(START):
        raise ValueError(f"{papers}: {before.count(START)} tables begin and {replaced} end; nothing was written")
    if (lost := _numbers(before) - _numbers(after)) and not force:
        example = " | ".join(next(iter(lost)))
        raise ValueError(f"{papers} would lose {lost.total()} numbers, as {example}; --force writes it all the same")
    if after != before:
        files.write(papers, after)
    return after != before


def _numbers(text: str) -> Counter[tuple[str, str]]:
    """The experiments in each table that have a number of ours; their notes are counted anew with every record."""
    found: Counter[tuple[str, str]] = Counter()
    for block in TABLE.finditer(text):
        rows = [line.strip("| ").split(" | ") for line in block[0].splitlines() if line.startswith("|")]
        answered = [row for row in rows if len(row) == len(HEAD) and row[3] not in (NOT_RUN, HEAD[3], "---")]
        found.update((block[2], NOTED.sub("", row[0])) for row in answered)
    return found


def markdown(rows: Sequence[Row], sources: Sequence[str]) -> str:
    """Rows as a Markdown table with its sources below; many rows that were not run are folded."""
    shown, folded = fold(rows)
    text = table(HEAD, shown) if shown else ""
    if folded:
        text += f"\n<details><summary>{len(folded)} more rows, not run</summary>\n\n{table(HEAD, folded)}\n</details>\n"
    if sources:
        listed = "".join(f"{number}. {plain(source)}\n" for number, source in enumerate(sources, 1))
        text += f"\n<details><summary>{NOTES}</summary>\n\n{listed}\n</details>\n"
    return text


def fold(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows to show at once, and rows to show when asked: those not run, where there are many of them."""
    waiting = [row for row in rows if not row.run]
    if len(waiting) <= FOLDED:
        return list(rows), []
    return [row for row in rows if row.run], waiting
