"""How everything here is timed, compared, printed and kept."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from hetlib import files


@dataclass(frozen=True)
class Bar:
    """One measured ratio and the bar it has to hold.

    Attributes
    ----------
    name, ours, other : str
        What is measured, in what way we do it, and what it is compared with.
    measured, reference : float
        Ours and the other, in `unit`.
    unit : str
        Of both.
    ratio : float
        How many times faster ours is, or how many times as much it takes, as `bar` says.
    bar : str
        The bound.
    holds : bool
        Whether the bar holds.
    """

    name: str
    ours: str
    other: str
    measured: float
    reference: float
    unit: str
    ratio: float
    bar: str
    holds: bool


def measure(name: str, pipe: Connection) -> None:
    """Run one benchmark, here, and send every bar once it is measured.

    A wrong result raises AssertionError before anything is timed. What stopped it is sent in words.
    """
    try:
        for bar in import_module(f"benchmarks.{name}").run():
            pipe.send(bar)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def milliseconds(*works: Callable[[], object], repeats: int = 7) -> list[float]:
    """Median CPU time of this process for each piece of work, in milliseconds, after one call each to warm up.

    The pieces take turns, so that a machine that slows down meanwhile slows all of them alike.

    Parameters
    ----------
    *works : callable
        What to time.
    repeats : int
        How often.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, taken in zip(works, times, strict=True):
            start = time.process_time()
            work()
            if turn:
                taken.append((time.process_time() - start) * 1e3)
    return [statistics.median(taken) for taken in times]


def faster(name: str, ours: str, other: str, measured: float, reference: float, at_least: float) -> Bar:
    """A bar of the kind "at least so many times faster than"; times in milliseconds."""
    ratio = reference / measured
    return Bar(name, ours, other, measured, reference, "ms", ratio, f">= {at_least:g}x", ratio >= at_least)


def within(
    name: str,
    ours: str,
    other: str,
    measured: float,
    reference: float,
    at_most: float,
    plus: float = 0.0,
    unit: str = "ms",
) -> Bar:
    """A bar of the kind "at most so many times as much as, plus a constant"; all in `unit`."""
    bar = f"<= {at_most:g}x" + (f" + {plus:g} {unit}" if plus else "")
    holds = measured <= at_most * reference + plus
    return Bar(name, ours, other, measured, reference, unit, measured / reference, bar, holds)


def without_bar(name: str, ours: str, other: str, measured: float, reference: float) -> Bar:
    """Two times side by side, in milliseconds, of things that do different work: no bar, nothing to hold."""
    return Bar(name, ours, other, measured, reference, "ms", measured / reference, "none", True)


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in units of their own (AMX)."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


COLUMNS = "{:>5}  {:>9}  {:>14}  {:>14}  {:>14}  {}"
HEADING = COLUMNS.format("holds", "ratio", "bar", "ours", "other", "what: ours | other")


def row(bar: Bar) -> str:
    """A bar as a line of the table that `HEADING` begins."""
    mark = "-" if bar.bar == "none" else "yes" if bar.holds else "NO"
    times = (f"{bar.measured:,.2f} {bar.unit}", f"{bar.reference:,.2f} {bar.unit}")
    return COLUMNS.format(mark, f"{bar.ratio:,.2f}x", bar.bar, *times, f"{bar.name}: {bar.ours} | {bar.other}")


def keep(bars: list[Bar], path: Path) -> None:
    """Write the bars as JSON, with the machine and the commit."""
    from hetlib.lab.records import git  # which asks for packages of the notebooks

    commit, dirty = git()
    facts = {"commit": commit, "dirty": dirty, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    content = facts | {"machine": machine_facts(), "bars": [asdict(bar) for bar in bars]}
    files.write(path, json.dumps(content, indent=1) + "\n")


def machine_facts() -> dict[str, Any]:
    """What the numbers were measured on."""
    from hetlib.lab.records import versions

    return {
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16 matrix units": has_matrix_units(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    } | versions()


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
