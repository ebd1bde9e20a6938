"""`python -m benchmarks gpu`: what a machine with a GPU can tell of this project, within eight minutes.

In order of worth: every Triton kernel against the CPU's result, the bars of kernels on a GPU, and how fast networks
train. Each row is printed once it is measured, as a line to read and as one of JSON; keep them with `| tee gpu.txt`.
It needs torch, torchvision, NumPy, safetensors and Triton, and no package of the notebooks. `--toy` tries the script
without a GPU: small sizes, and Triton's kernels interpreted.
"""

import os
import platform
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter

import torch

from benchmarks.gpu_report import BUDGET, Report


def main(toy: bool = False, budget: float = BUDGET) -> int:
    """Run all parts for which there is time; 0 if none failed, 2 without a GPU."""
    if toy:
        os.environ["TRITON_INTERPRET"] = "1"  # read by Triton when it is imported, which nothing has done yet
    elif not torch.cuda.is_available():
        print("no GPU here that torch can use; --toy tries the script on the CPU", file=sys.stderr)
        return 2
    report = Report(torch.device("cpu" if toy else "cuda"), toy, budget)
    report.say("machine", _device(report), python=platform.python_version(), **_versions())
    failed, waiting = [], list(parts())
    while waiting and report.left > waiting[0][1]:
        name, _, part = waiting.pop(0)
        begun = perf_counter()
        print(f"-- {name}", flush=True)
        try:
            part(report)
        except Exception as error:  # whatever one part met, the others still run
            traceback.print_exc()
            failed.append(name)
            report.say("failed", name, error=f"{type(error).__name__}: {error}")
        report.say("seconds", name, seconds=round(perf_counter() - begun, 1))
    for name, seconds, _ in waiting:
        report.say("not run", name, needs=seconds, left=round(report.left, 1))
    report.say("end", f"{len(failed)} parts failed, {len(waiting)} not run", holds=not failed)
    return 1 if failed else 0


def parts() -> list[tuple[str, float, Callable[[Report], None]]]:
    """Name, seconds that it may take, and what to call, in order of worth."""
    from benchmarks import gpu_amalgamation as amalgamation
    from benchmarks import gpu_grafting as grafting
    from benchmarks import gpu_kernels as kernels
    from benchmarks.gpu_training import training

    return [
        ("the launch of fills against the CPU", 60, kernels.fills),
        ("the launch of Sinkhorn iterations against the CPU, and its time", 60, kernels.sinkhorns),
        ("grafts against the plain loop, and their time", 40, grafting.grafts),
        ("discrepancies of common features against the CPU, and their time", 40, amalgamation.discrepancies),
        ("the choice of teachers", 20, amalgamation.choice),
        ("the time of HMT's resizing", 30, kernels.fill_times),
        ("CKA", 30, kernels.cka),
        ("training", 120, training),
        ("a step with four components", 40, amalgamation.stage_2),
        ("a ring of two networks", 60, grafting.ring),
        ("networks from rank to rank", 40, grafting.exchange),
        ("cost matrices", 10, kernels.costs),
    ]


def _device(report: Report) -> str:
    return "toy sizes on the CPU: no time means anything" if report.toy else torch.cuda.get_device_name()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "triton", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
