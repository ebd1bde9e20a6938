"""Cartoon faces: how many are rendered in a second on one core, beside what is asked, and beside textured shapes."""

from collections.abc import Iterator

from benchmarks.harness import Bar, milliseconds, within, without_bar
from hetlib.data import faces, textured_shapes

COUNT = 2048
ASKED = 5000
"""Faces a second."""


def run() -> Iterator[Bar]:
    """Measure the bar: the time of some faces at 32x32 is at most that of the asked number a second."""
    rendered, shapes = milliseconds(
        lambda: faces.render(count=COUNT), lambda: textured_shapes.render("source", count=COUNT)
    )
    what = f"{COUNT:,} faces at 32x32"
    yield within(what, "rendered in batches", f"at {ASKED:,} a second", rendered, COUNT / ASKED * 1e3, at_most=1)
    yield without_bar(what, "rendered in batches", "as many textured shapes", rendered, shapes)
