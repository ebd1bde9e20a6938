"""What the papers claim, comparison by comparison, and what our records say to each: the short tables of papers.md."""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetlib.cli.markdown import plain, table
from hetlib.errors import unknown
from hetlib.lab.records import Record
from hetlib.lab.statistics import difference, interval
from hetlib.lab.tables import NOT_RUN, SCRIPT, published

START = "<!-- claims: "
BLOCK = re.compile(rf"({START}(\S+) -->\n)(?:(?!{START}).)*?(<!-- end of claims -->)", re.DOTALL)
ALL = "all"
HEAD = ("claim", "published difference", "ours, same seed", "data and preset", "verdict")


@dataclass(frozen=True)
class Answer:
    """What is known of one claim: texts for the columns of `HEAD`, and whether it was tested as the paper does.

    `verdict` is "better", "worse", "no difference shown", "one seed: no verdict" or "not run"; `span` has the mean
    difference and the half width of its interval, as numbers, where it was run.
    """

    claim: str
    published: str
    ours: str
    setting: str
    verdict: str
    full: bool = False
    command: str = ""
    span: tuple[float, float] | None = None


def claims() -> dict[str, list[dict[str, str]]]:
    """The comparisons by notebook, the main one first."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def answers(name: str, records: Iterable[Record]) -> list[Answer]:
    """What the records say to each claim of a notebook's paper.

    Of several records that hold both metrics one at the paper's own protocol counts first, then the newest.
    """
    rows = {row["metric"]: row["paper"]["value"] for row in published()[name]["rows"] if "paper" in row}
    mine = sorted((record for record in records if record.notebook == name), key=lambda each: (_full(each), each.when))
    found = []
    for claim in claims()[name]:
        ours, than = claim["ours"], claim["than"]
        known = f"{rows[ours] - rows[than]:+.2f}" if ours in rows and than in rows else "not known"
        fitting = [record for record in mine if {ours, than} <= record.metrics.keys()]
        fitting = [record for record in fitting if record.data["name"] == claim.get("data", record.data["name"])]
        if not fitting:
            found.append(Answer(claim["claim"], known, NOT_RUN, NOT_RUN, NOT_RUN))
            continue
        record = fitting[-1]
        values = [record.metrics[metric]["values"] for metric in (ours, than)]
        span = interval([one - other for one, other in zip(*values, strict=True)])
        text, verdict = difference(*values)
        words = record.data["name"], record.preset, record.preset if _full(record) else "reduced"
        setting = ", ".join(dict.fromkeys(words))
        text = f"{text}, n = {len(record.seeds)}"
        command = record.command or SCRIPT
        found.append(Answer(claim["claim"], known, text, setting, verdict, _full(record), command, span))
    return found


def _full(record: Record) -> bool:
    reduced = record.facts.get("reductions") or any(record.parameters.get(name) for name in ("WIDTH", "EPOCHS"))
    return record.preset == "paper" and not reduced


def state(found: Sequence[Answer]) -> str:
    """CONFIRMED, PARTLY, NOT SHOWN or NOT RUN: see `RULE`."""
    ran = [answer for answer in found if answer.verdict != NOT_RUN]
    better = [answer for answer in ran if answer.verdict == "better"]
    if not ran:
        return "NOT RUN"
    if not better:
        return "NOT SHOWN"
    return "CONFIRMED" if len(better) == len(found) and all(answer.full for answer in found) else "PARTLY"


RULE = (
    "Better and worse: the 95 % interval (Student's t) of the difference on the same seed leaves out 0. CONFIRMED: "
    "better in every comparison, at the paper's protocol but for the deviations named below. PARTLY: better in some, "
    "or with reductions. NOT SHOWN: better in none. NOT RUN: none was run on the paper's data. Comparisons are not "
    "corrected for their number."
)


def written(text: str, records: Sequence[Record]) -> str:
    """A Markdown text with its blocks of claims brought up to date.

    A block stands between ``<!-- claims: 01_hmt -->``, or ``<!-- claims: all -->``, and ``<!-- end of claims -->``.
    A block for anything else, or without its end, is a ValueError.
    """

    def block(match: re.Match) -> str:
        name = match[2]
        if name not in (known := [ALL, *claims()]):
            raise unknown("claims", name, known)
        return f"{match[1]}{_summary(records) if name == ALL else _table(answers(name, records))}{match[3]}"

    after, replaced = BLOCK.subn(block, text)
    if replaced != text.count(START):
        raise ValueError(f"{text.count(START)} blocks of claims begin and {replaced} end; nothing was written")
    return after


def _summary(records: Sequence[Record]) -> str:
    lines = []
    for name in claims():
        found = answers(name, records)
        first, title = found[0], published()[name]["title"]
        lines.append((f"[{title}](notebooks/{name}.ipynb)", state(found), first.claim, first.ours, first.setting))
    return f"{table(('paper', 'state', 'main claim', 'ours, same seed', 'data and preset'), lines)}\n{RULE}\n"


def _table(found: Sequence[Answer]) -> str:
    lines = [(each.claim, each.published, each.ours, each.setting, each.verdict) for each in found]
    commands = dict.fromkeys(each.command for each in found if each.command)
    made = ", ".join(SCRIPT if command == SCRIPT else f"`{plain(command)}`" for command in commands)
    return table(HEAD, lines) + (f"\nRecords: {made}.\n" if made else "")
