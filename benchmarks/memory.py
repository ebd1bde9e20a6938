"""Peak memory of `make reproduce`, all its processes together. Takes as long as that does."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.harness import Bar, within

LIMIT = 4.0
COMMAND = ("reproduce", "--preset", "classroom", "--jobs", "2")


def run() -> Iterator[Bar]:
    """Measure the bar, on Linux alone: elsewhere there is no /proc to read."""
    if not Path("/proc/self/status").exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        # With a cache of its own nothing is left out because it was computed before.
        surroundings = os.environ | {"HETLIB_CACHE": f"{scratch}/cache"}
        command = (Path(sys.executable).with_name("hetlib"), *COMMAND, "--runs", f"{scratch}/runs")
        with (
            open(f"{scratch}/said", "w+b") as said,
            subprocess.Popen(command, env=surroundings, stdout=said, stderr=said) as process,
        ):
            peak = 0
            while process.poll() is None:
                peak = max(peak, high_water(process.pid))
                time.sleep(0.1)
            said.seek(0)
            if process.returncode:
                raise RuntimeError(f"the notebooks failed, so there is no peak to name:\n{said.read().decode()}")
    name = "peak memory of make reproduce"
    yield within(name, "sum of the processes' peaks", "limit", peak / 2**20, LIMIT, at_most=1, unit="GiB")


def high_water(root: int) -> int:
    """KiB that a process and all below it have held at most, each counted at its own peak.

    Looking ten times a second misses only what a process does in its last tenth, for the kernel keeps each peak.
    What processes share, and peaks that did not coincide, are counted as if they added up: rather too much.
    """
    parents, peaks = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            process = int(fields["Pid"])
            parents[process], peaks[process] = int(fields["PPid"]), int(fields.get("VmHWM", "0 kB").split()[0])
    tree = {root}
    while grown := {process for process, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    return sum(peaks.get(process, 0) for process in tree)
