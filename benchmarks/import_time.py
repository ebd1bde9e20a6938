"""What `import hetlib` and its methods cost beyond `import torch`."""

import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Iterator

import hetlib
from benchmarks.harness import Bar, within

REPEATS = 5
LATE = ("cli", "lab")  # of the command line and the notebooks, which no method imports


def run() -> Iterator[Bar]:
    """Measure the bar."""
    methods = [f"hetlib.{module.name}" for module in pkgutil.iter_modules(hetlib.__path__) if module.name not in LATE]
    codes = ("import torch", f"import torch, hetlib, {', '.join(methods)}")
    # In turns, as everywhere; the first of each only brings the files into memory.
    times = [[_milliseconds(code) for code in codes] for _ in range(REPEATS + 1)][1:]
    torch_alone, everything = (statistics.median(taken) for taken in zip(*times, strict=True))
    ours = f"import torch, hetlib and {len(methods)} modules"
    yield within("import hetlib", ours, "import torch", everything, torch_alone, at_most=1, plus=1000)


def _milliseconds(code: str) -> float:
    """CPU time of a fresh interpreter that runs `code`."""
    program = f"{code}; import time; print(time.process_time() * 1e3)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
