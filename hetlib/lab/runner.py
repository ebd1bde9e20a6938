"""Runs notebooks through papermill, in parallel processes, and believes none of them before looking."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from hetlib.errors import unknown
from hetlib.lab import forecast, ledger, notebooks
from hetlib.lab.presets import PRESETS


@dataclass(frozen=True)
class Task:
    """A notebook about to run: its source, the parameters it takes, and the folder that gets all it writes."""

    source: Path
    parameters: dict[str, Any] = field(hash=False)
    folder: Path

    @property
    def output(self) -> Path:
        """The executed notebook."""
        return self.folder / f"{self.source.stem}.ipynb"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: seconds, and what went wrong (None if nothing did)."""

    task: Task
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Step:
    """Where a running notebook is: cell `index` of `total`, what that part of it is about, and its estimate if made."""

    task: Task
    index: int
    total: int
    doing: str
    estimate: str = ""


def plan(
    name: str | Path,
    preset: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    runs: str | Path = "runs",
    where: Path | None = None,
) -> Task:
    """Say what running a notebook means, before anything runs.

    Parameters
    ----------
    name : str or Path
        As `hetlib.lab.notebooks.find`.
    preset : str, optional
        Value of the notebook's parameter PRESET; by default what the notebook says.
    parameters : mapping, optional
        Values of other parameters, as Python values or as text.
    runs : path-like
        Where the output folder is made.
    where : Path, optional
        The notebooks' folder, if not the project's.

    Raises
    ------
    ValueError
        If the notebook or the preset does not exist, a parameter is not declared, or a value has the wrong type.
    """
    source = notebooks.find(name, where)
    notebook = notebooks.read(source)
    given = ({"PRESET": preset} if preset else {}) | dict(parameters or {})
    accepted = notebooks.accept(notebook, given)
    used = accepted.get("PRESET", notebooks.parameters(notebook).get("PRESET"))
    if used not in PRESETS:
        raise unknown("preset", used, PRESETS)
    digest = hashlib.sha256(json.dumps(accepted, sort_keys=True).encode()).hexdigest()[:8]
    return Task(source, accepted, Path(runs).resolve() / f"{source.stem}-{used}-{digest}")


def run(tasks: Sequence[Task], jobs: int = 1, on_step: Callable[[Step], None] | None = None) -> Iterator[Outcome]:
    """Run notebooks, each in a process and a kernel of its own, and yield each outcome as it comes.

    Parameters
    ----------
    tasks : sequence of Task
        From `plan`.
    jobs : int
        How many run at a time.
    on_step : callable, optional
        Called, here, whenever a notebook gets to another cell.

    Yields
    ------
    Outcome
        In order of completion. A failed notebook does not stop the others.
    """
    context = multiprocessing.get_context("spawn")
    steps = context.Queue()
    cores = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(steps, cores)) as pool:
        futures = {pool.submit(_execute, task): task for task in tasks}
        try:
            while futures:
                with contextlib.suppress(Empty):
                    step = steps.get(timeout=0.1)
                    if on_step is not None:
                        on_step(step)
                    continue
                for future in [future for future in futures if future.done()]:
                    yield _outcome(future, futures.pop(future))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: Future, task: Task) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(task, 0.0, "the process that ran it was killed (out of memory?)")


_steps: Any = None


def _begin(steps: Any, cores: int) -> None:
    global _steps
    _steps = steps
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HETLIB_PROCESSES", str(cores))
    # A worker whose parent was killed would finish its notebook for nobody; its kernel watches the worker likewise.
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _execute(task: Task) -> Outcome:
    begun = time.perf_counter()
    error = _papermill(task) or _record(task)
    return Outcome(task, time.perf_counter() - begun, error)


def _record(task: Task) -> str | None:
    try:
        ledger.read(ledger.path(task.folder))
    except FileNotFoundError:
        return f"it wrote no record into {task.folder}: a notebook has to end in `run.record(...)`"
    except ValueError as error:
        return str(error)
    return None


def _papermill(task: Task) -> str | None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    _prepare(task)
    notebook = notebooks.read(task.source)
    total = len(notebook.cells) + bool(task.parameters)
    heading, estimated = "starting", ""

    def on_cell_start(cell: Any, cell_index: int) -> None:
        nonlocal heading, estimated
        lines = cell.source.splitlines()
        titles = [line.strip("# ") for line in lines if cell.cell_type == "markdown" and line[:1] == "#"]
        heading = titles[0] if titles else heading
        with contextlib.suppress(FileNotFoundError):
            estimated = forecast.note(task.folder).read_text(encoding="utf-8")
        _steps.put(Step(task, cell_index + 1, total, heading, estimated))

    try:
        ran = papermill.execute_notebook(
            notebook,
            task.output,
            task.parameters,
            kernel_name="python3",
            kernel_manager_class=_this_python(),
            cwd=task.source.parent.parent if task.source.suffix == ".py" else task.source.parent,
            progress_bar=False,
            iopub_timeout=120,  # a busy machine is no error; the default is 4 seconds
            on_cell_start=on_cell_start,
        )
    except PapermillExecutionError as error:
        failed = notebooks.faults(notebooks.read(task.output))
        return f"cell {error.exec_count} failed:\n\n{error.source}\n\n" + "\n".join(failed)
    except Exception as error:  # a dead kernel, a full disk: whatever it is, the other notebooks go on
        return f"{type(error).__name__}: {error}"
    return "\n".join(f"an error was swallowed in {fault}" for fault in notebooks.faults(ran)) or None


def _prepare(task: Task) -> None:
    task.folder.mkdir(parents=True, exist_ok=True)
    for stale in (task.output, ledger.path(task.folder), forecast.note(task.folder)):
        stale.unlink(missing_ok=True)
    os.environ["HETLIB_HEADLESS"] = "1"
    os.environ["HETLIB_RUN_DIR"] = str(task.folder)
    os.environ["HETLIB_DATA"] = str(Path(os.environ.get("HETLIB_DATA", "data")).resolve())


def _this_python() -> type:
    """A kernel manager that starts this interpreter, whichever kernels are installed for the user."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    spec = get_kernel_dict()
    # The kernel is reached from this machine alone: its warning that TCP is not encrypted would only stand in the way.
    spec["argv"].append("--log-level=ERROR")

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir="", **spec)

    assert ThisPython.kernel_spec.argv[0] == sys.executable
    return ThisPython
