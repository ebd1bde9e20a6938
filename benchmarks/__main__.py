"""`python -m benchmarks [NAME ...]`: measure every bar, or those of the named files, and print one table.

Writes `build/benchmarks.json`. The status is 0 if every bar holds, 1 if one does not or cannot be measured,
2 for an unknown name.
"""

import multiprocessing
import os
import pkgutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import benchmarks
from benchmarks.harness import measure, show
from hetlib.errors import unknown

NAMES = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - {"__main__", "harness"})
RESULTS = Path("build/benchmarks.json")


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks, by default all, each in a process of its own with one torch thread."""
    for name in chosen:
        if name not in NAMES:
            print(unknown("benchmark", name, NAMES), file=sys.stderr)
            return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when a new process imports it
    context = multiprocessing.get_context("spawn")
    bars, failed = [], False
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name, future in [(name, pool.submit(measure, name)) for name in chosen or NAMES]:
            try:
                bars += future.result()
            except Exception as error:  # whatever one of them met, the others are still measured
                print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
                failed = True
    return 0 if show(bars, RESULTS) and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
