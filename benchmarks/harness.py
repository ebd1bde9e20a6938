"""How everything here is timed, compared, printed and kept."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hetlib import files


@dataclass(frozen=True)
class Bar:
    """One measured ratio and the bar it has to hold.

    Attributes
    ----------
    name, ours, other : str
        What is measured, in what way we do it, and what it is compared with.
    ours_ms, other_ms : float
        Medians in milliseconds.
    ratio, bar : float
        The measured ratio and its bound.
    holds : bool
        Whether the bar holds.
    """

    name: str
    ours: str
    other: str
    ours_ms: float
    other_ms: float
    ratio: float
    bar: str
    holds: bool


def seconds(work: Callable[[], object], repeats: int = 7, cpu: bool = True) -> float:
    """Median time of `work` in seconds after one call to warm up.

    Parameters
    ----------
    work : callable
        What to time.
    repeats : int
        How often.
    cpu : bool
        CPU seconds of this process, which other load disturbs least; else wall-clock.
    """
    clock = time.process_time if cpu else time.perf_counter
    work()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def faster(name: str, ours: str, other: str, ours_s: float, other_s: float, at_least: float) -> Bar:
    """A bar of the kind "at least so many times faster than"."""
    ratio = other_s / ours_s
    return Bar(name, ours, other, ours_s * 1e3, other_s * 1e3, ratio, f">= {at_least:g}x", ratio >= at_least)


def within(name: str, ours: str, other: str, ours_s: float, other_s: float, at_most: float, plus_s: float = 0.0) -> Bar:
    """A bar of the kind "at most so many times as long as, plus a constant"."""
    ratio = ours_s / other_s
    bar = f"<= {at_most:g}x" + (f" + {plus_s * 1e3:g} ms" if plus_s else "")
    return Bar(name, ours, other, ours_s * 1e3, other_s * 1e3, ratio, bar, ours_s <= at_most * other_s + plus_s)


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(bars: list[Bar], path: Path) -> bool:
    """Print the table, write it as JSON with the machine's description, and say whether every bar holds."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "ours", "ms", "compared with", "ms", "ratio", "bar", "holds")
    for bar in bars:
        mark = "yes" if bar.holds else "[red]NO[/red]"
        times = (f"{bar.ours_ms:.2f}", f"{bar.other_ms:.2f}", f"{bar.ratio:.2f}")
        table.add_row(bar.name, bar.ours, times[0], bar.other, times[1], times[2], bar.bar, mark)
    Console(width=150).print(table)
    files.write(path, json.dumps({"machine": machine(), "bars": [asdict(bar) for bar in bars]}, indent=1))
    return all(bar.holds for bar in bars)
