"""Tables in Markdown that hold texts of others, such as what stands in a record."""

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A head and rows of texts as a table; see `plain`."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(plain(cell).replace('|', '/') for cell in line)} |\n" for line in lines)


def plain(text: str) -> str:
    """A text on one line that holds no tag, and so no marker of a table either."""
    return " ".join(escape(text, quote=False).split())
