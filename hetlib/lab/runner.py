"""Runs notebooks through papermill, several at a time, and believes none of them before looking."""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from hetlib.errors import unknown
from hetlib.lab import notebooks, records
from hetlib.lab.notebooks import PRESETS


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
    """Run notebooks, each in a kernel and so in a process of its own, and yield each outcome as it comes.

    Parameters
    ----------
    tasks : sequence of Task
        From `plan`.
    jobs : int
        How many run at a time.
    on_step : callable, optional
        Called, in the caller's thread, whenever a notebook gets to another cell.

    Yields
    ------
    Outcome
        In order of completion. A failed notebook does not stop the others.
    """
    waiting: Queue[Task] = Queue()
    said: Queue[Step | Outcome] = Queue()
    for task in tasks:
        waiting.put(task)
    cores = max(1, (os.cpu_count() or 1) // jobs)
    for _ in range(min(jobs, len(tasks))):
        # Daemons: an interrupted run leaves at once, and a kernel whose parent is gone leaves by itself.
        threading.Thread(target=_work, args=(waiting, said, cores), daemon=True).start()
    left = len(tasks)
    while left:
        news = said.get()
        if isinstance(news, Outcome):
            left -= 1
            yield news
        elif on_step is not None:
            on_step(news)


def _work(waiting: "Queue[Task]", said: "Queue[Step | Outcome]", cores: int) -> None:
    with contextlib.suppress(Empty):
        while True:
            task = waiting.get_nowait()
            begun = time.perf_counter()
            try:
                error = _papermill(task, said.put, cores) or _record(task)
            except Exception as unforeseen:  # a full disk: whatever it is, the other notebooks go on
                error = f"{type(unforeseen).__name__}: {unforeseen}"
            said.put(Outcome(task, time.perf_counter() - begun, error))


def _record(task: Task) -> str | None:
    try:
        records.read(records.path(task.folder))
    except FileNotFoundError:
        return f"it wrote no record into {task.folder}: a notebook has to end in `run.record(...)`"
    except ValueError as error:
        return str(error)
    return None


def _papermill(task: Task, say: Callable[[Step], None], cores: int) -> str | None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    task.folder.mkdir(parents=True, exist_ok=True)
    for stale in (task.output, records.path(task.folder), records.note(task.folder)):
        stale.unlink(missing_ok=True)
    notebook = notebooks.read(task.source)
    try:
        ran = papermill.execute_notebook(
            notebook,
            task.output,
            task.parameters,
            kernel_name="python3",
            kernel_manager_class=_kernel(task, cores),
            progress_bar=False,
            iopub_timeout=120,  # a busy machine is no error; the default is 4 seconds
            on_cell_start=_Follower(task, len(notebook.cells) + bool(task.parameters), say),
        )
    except PapermillExecutionError as error:
        failed = notebooks.faults(notebooks.read(task.output))
        return f"cell {error.exec_count} failed:\n\n{error.source}\n\n" + "\n".join(failed)
    return "\n".join(f"an error was swallowed in {fault}" for fault in notebooks.faults(ran)) or None


class _Follower:
    """Says where a notebook is, by its last heading."""

    def __init__(self, task: Task, total: int, say: Callable[[Step], None]):
        self.task, self.total, self.say = task, total, say
        self.heading, self.estimate = "starting", ""

    def __call__(self, cell: Any, cell_index: int) -> None:
        lines = cell.source.splitlines()
        titles = [line.strip("# ") for line in lines if cell.cell_type == "markdown" and line[:1] == "#"]
        self.heading = titles[0] if titles else self.heading
        with contextlib.suppress(FileNotFoundError):
            self.estimate = records.note(self.task.folder).read_text(encoding="utf-8")
        self.say(Step(self.task, cell_index + 1, self.total, self.heading, self.estimate))


def _kernel(task: Task, cores: int) -> type:
    """A kernel manager that starts this interpreter, whichever kernels are installed, where the task needs it."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    spec = get_kernel_dict()
    # Its notes on unencrypted TCP, within one machine, and on being interrupted at the end would only stand in the way.
    spec["argv"].append("--log-level=CRITICAL")
    defaults = {"OMP_NUM_THREADS": "1", "HETLIB_PROCESSES": str(cores)}
    fixed = {
        "HETLIB_HEADLESS": "1",
        "HETLIB_RUN_DIR": str(task.folder),
        "HETLIB_DATA": str(Path(os.environ.get("HETLIB_DATA", "data")).resolve()),
    }
    folder = task.source.parent.parent if task.source.suffix == ".py" else task.source.parent

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(resource_dir="", **spec)

        def start_kernel(self, **options: Any) -> Any:
            # Of the kernel alone: other notebooks run in this process at the same time.
            return super().start_kernel(**options | {"cwd": str(folder), "env": defaults | os.environ | fixed})

    assert ThisPython.kernel_spec.argv[0] == sys.executable
    return ThisPython
