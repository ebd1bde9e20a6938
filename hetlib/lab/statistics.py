"""Means with intervals, differences paired by seed, and the tables that show them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hetlib.errors import unknown
from hetlib.transfer.report import aligned

HTML = """<table><tr>{% for cell in lines[0] %}<th>{{ cell }}</th>{% endfor %}</tr>{% for line in lines[1:] %}<tr>
{%- for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
{%- if notes %}<ol>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ol>{% endif %}"""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval by Student's t: nan for one value, a ValueError for none."""
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        raise ValueError("no values to take a mean of")
    mean = statistics.fmean(values)
    if n == 1:
        return mean, math.nan
    return mean, float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)


def measured(values: list[float], unit: str) -> str:
    """Mean, half width of the 95 % interval and count, as "71.20 ± 0.31 %, n = 3"."""
    mean, half = interval(values)
    spread = "" if math.isnan(half) else f" ± {half:.2f}"
    return f"{mean:.2f}{spread} {unit}, n = {len(values)}"


def verdict(values: list[float], target: float | None) -> str:
    """Whether a published number lies in the interval of ours; without an interval nothing is claimed."""
    if target is None:
        return "nothing to compare with"
    mean, half = interval(values)
    if math.isnan(half):
        return f"{mean - target:+.2f}, one seed: no verdict"
    # Published numbers are rounded to two decimals.
    return "agrees" if abs(mean - target) <= max(half, 0.005) else f"differs by {mean - target:+.2f}"


@dataclass(frozen=True, repr=False)
class Table:
    """A table that reads as text and shows as HTML; the first line is its heading, notes are numbered below it."""

    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = [f"[{number}] {note}" for number, note in enumerate(self.notes, 1)]
        return "\n".join([aligned(self.lines), *notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from jinja2 import Environment

        return Environment(autoescape=True).from_string(HTML).render(lines=self.lines, notes=self.notes)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str]:
    """The mean difference on the same seed with its 95 % interval, and a verdict: whether that leaves out 0."""
    gains = [one - other for one, other in zip(ours, theirs, strict=True)]
    mean, half = interval(gains)
    verdict = "better" if mean > half else "worse" if mean < -half else "no difference shown"
    return measured(gains, "points").partition(",")[0], "one seed: no verdict" if math.isnan(half) else verdict


def paired_differences(
    values: Mapping[str, Sequence[float]], baseline: str, unit: str = "%", title: str = "start"
) -> Table:
    """Compare ways of doing one thing with a baseline, seed by seed: means, differences and verdicts.

    Parameters
    ----------
    values : mapping of str to sequence of float
        For each way one value per seed, the same seeds in the same order; more is better.
    baseline : str
        The way that the others are compared with.
    unit, title : str
        Of the values, and over the column of ways.
    """
    if baseline not in values:
        raise unknown("baseline", baseline, values)
    lines = [(title, "ours (mean ± 95 % CI, n)", f"minus {baseline!r}, same seed", "verdict")]
    for way, found in values.items():
        cells = ("", "baseline") if way == baseline else difference(found, values[baseline])
        lines.append((way, measured(list(found), unit), *cells))
    return Table(tuple(lines))
