"""What `python -m benchmarks gpu` prints and how it times: CUDA's clock and graphs, or the CPU's at toy size."""

import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

BUDGET = 480.0
"""Seconds for everything."""


@dataclass
class Report:
    """Rows as they are measured: a line to read and a line of JSON each, both at once on the screen.

    Attributes
    ----------
    device : torch.device
    toy : bool
        Small sizes, on the CPU: a dry run, whose times mean nothing.
    budget : float
        Seconds from `begun` on.
    rows : list of dict
        All rows so far.
    """

    device: torch.device
    toy: bool = False
    budget: float = BUDGET
    begun: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.perf_counter() - self.begun)

    def say(self, part: str, what: str, **facts: Any) -> None:
        """Print one row."""
        after = time.perf_counter() - self.begun
        self.rows.append({"part": part, "what": what, "after": round(after, 1), **facts})
        words = "  ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in facts.items())
        print(f"{after:6.1f} s  {part:<9} {what:<52} {words}", flush=True)
        print(json.dumps(self.rows[-1]), flush=True)

    def check(self, part: str, what: str, pairs: list[tuple[Tensor, Tensor]], at_most: float) -> None:
        """Print by how much results differ from the CPU's, and raise AssertionError if by more than they may."""
        same = all(torch.equal(ours.cpu(), expected) for ours, expected in pairs)
        error = max((ours.cpu().double() - expected.double()).abs().max().item() for ours, expected in pairs)
        self.say(part, what, tensors=len(pairs), equal=same, error=error, allowed=at_most, right=error <= at_most)
        assert error <= at_most, f"{what}: error {error:.1e}, at most {at_most:.0e} is allowed"

    def milliseconds(self, work: Callable[[], object], repeats: int = 20) -> float:
        """Median time of one call, by the device's clock, after three calls to warm up."""
        for _ in range(0 if self.toy else 3):
            work()
        return statistics.median(self._one(work) for _ in range(1 if self.toy else repeats))

    def _one(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def graphed(self, work: Callable[[], object]) -> Callable[[], object]:
        """The same work as one CUDA graph, whose tensors stay where they are; on the CPU, the work itself."""
        if self.device.type != "cuda":
            return work
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def counts(self, work: Callable[[], object]) -> dict[str, int | None]:
        """How many kernels one call launches, and how often the host waits for the device; None on the CPU."""
        if self.device.type != "cuda":
            return {"launches": None, "syncs": None}
        work()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            work()
            torch.cuda.synchronize()
        on_device = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        kernels = [event for event in on_device if not event.name.startswith(("Memcpy", "Memset"))]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"launches": len(kernels), "syncs": sum("synchroniz" in str(warning.message) for warning in told)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
