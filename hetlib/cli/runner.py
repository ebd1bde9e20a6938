"""Runs notebooks with papermill, several at a time, and checks each for errors and for the record it has to leave."""

import ast
import contextlib
import hashlib
import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from nbformat import NotebookNode

import hetlib
from hetlib import files
from hetlib.cli.kernel import manager
from hetlib.cli.outputs import faults
from hetlib.cli.turns import WAITING, alone
from hetlib.clone import find
from hetlib.errors import unknown
from hetlib.lab import notebooks, records
from hetlib.lab.cache import Cache
from hetlib.parameters import PRESETS, check

PATIENCE = 600
"""Seconds that a kernel may take to start, or to send what a cell printed: a busy machine is no error."""


@dataclass(frozen=True)
class Task:
    """A notebook about to run: its source, the parameters it takes, and the folder that gets all it writes.

    `key` is made of the source, the parameters and hetlib's code as they were when the run was planned.
    """

    source: Path
    parameters: dict[str, Any] = field(hash=False)
    folder: Path
    key: str = ""

    @property
    def output(self) -> Path:
        """The executed notebook."""
        return self.folder / f"{self.source.stem}.ipynb"

    @property
    def command(self) -> str:
        """The command line that runs it."""
        name = self.source.stem if self.source.parent.name == "text" else str(self.source)
        given = [("-p", key, str(value)) for key, value in self.parameters.items() if key != "PRESET"]
        preset = ("--preset", self.parameters["PRESET"]) if "PRESET" in self.parameters else ()
        return shlex.join(["hetlib", "run", name, *preset, *(word for words in given for word in words)])

    @property
    def done(self) -> bool:
        """Whether a run with this key ended well, and its record and notebook are still there."""
        try:
            return records.read(records.path(self.folder)).key == self.key and self.output.is_file()
        except (OSError, ValueError):
            return False


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
        As `hetlib.clone.find`.
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
        If the notebook or the preset does not exist, a parameter is not declared, a value has the wrong type or is
        none that the parameter can have, or a preset is given twice.
    """
    source = find(name, where)
    notebook = notebooks.read(source)
    given = dict(parameters or {})
    if preset and "PRESET" in given:
        raise ValueError(
            f"PRESET {given['PRESET']} is given as a parameter beside --preset {preset}: give --preset alone"
        )
    accepted = accept(notebook, ({"PRESET": preset} if preset else {}) | given)
    values = notebooks.parameters(notebook) | accepted
    used = values.get("PRESET")
    if used not in PRESETS:
        raise unknown("preset", used, PRESETS)
    check(source.stem, values)
    digest = hashlib.sha256(json.dumps(accepted, sort_keys=True).encode()).hexdigest()[:8]
    key = Cache().key({"source": source.read_text(encoding="utf-8"), "parameters": accepted}, (hetlib,))
    return Task(source, accepted, Path(runs).resolve() / f"{source.stem}-{used}-{digest}", key)


def accept(notebook: NotebookNode, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check parameters against the declared ones; text, as it comes from a command line, is read as the default's type.

    Raises
    ------
    ValueError
        If a parameter is not declared (names the nearest) or its value is of another type than the default.
    """
    declared = notebooks.parameters(notebook)
    if given and not declared:
        raise ValueError("the notebook has no cell tagged `parameters` that declares one, so it takes none")
    for name in given:
        if name not in declared:
            raise unknown("parameter", name, declared)
    return {name: _value(name, value, declared[name]) for name, value in given.items()}


def _value(name: str, value: Any, default: Any) -> Any:
    given = value
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = ast.literal_eval(value.title() if value.lower() in ("true", "false", "none") else value)
        except (ValueError, SyntaxError):
            value = given
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        value = type(default)(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"parameter {name} takes {type(default).__name__} (default {default!r}), not {given!r}")
    return value


def run(tasks: Sequence[Task], jobs: int = 1, on_step: Callable[[Step], None] | None = None) -> Iterator[Outcome]:
    """Run notebooks, each in a kernel and so in a process of its own, and yield each outcome as it comes.

    Parameters
    ----------
    tasks : sequence of Task
        From `plan`. A failed one does not stop the others.
    jobs : int
        How many run at a time.
    on_step : callable, optional
        Called, in the caller's thread, whenever a notebook gets to another cell.
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
                with alone(task.folder, partial(said.put, Step(task, 0, 1, WAITING))):
                    error = _outcome(task, said.put, cores)
            except Exception as unforeseen:  # a full disk: whatever it is, the other notebooks go on
                error = f"{type(unforeseen).__name__}: {unforeseen}"
            said.put(Outcome(task, time.perf_counter() - begun, error))


def _outcome(task: Task, say: Callable[[Step], None], cores: int) -> str | None:
    """Run a task; what went wrong also goes into the record, if the notebook got as far as to leave one."""
    try:
        error = _papermill(task, say, cores) or _sign(task)
    except Exception as unforeseen:
        error = f"{type(unforeseen).__name__}: {unforeseen}"
    if error:
        path = records.path(task.folder)
        with contextlib.suppress(OSError, ValueError):  # no record, or one that no reader takes for one
            files.write(path, replace(records.read(path), failure=error).to_json())
    return error


def _sign(task: Task) -> str | None:
    """Add the key and the command to the record of a run that ended well, or say what is wrong with the record."""
    path = records.path(task.folder)
    try:
        files.write(path, replace(records.read(path), key=task.key, command=task.command, failure=None).to_json())
    except FileNotFoundError:
        return f"it wrote no record into {task.folder}: a notebook has to end in `run.record(...)`"
    except ValueError as error:
        return str(error)
    return None


def _prepared(task: Task) -> Path:
    """Remove what an earlier run left, and say where papermill writes the notebook, anew after every cell.

    It gets its name once it is whole.
    """
    unfinished = task.folder / ".part" / task.output.name
    unfinished.parent.mkdir(exist_ok=True)
    for stale in (task.output, unfinished, records.path(task.folder), task.folder / records.ESTIMATE):
        stale.unlink(missing_ok=True)
    return unfinished


def _papermill(task: Task, say: Callable[[Step], None], cores: int) -> str | None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    unfinished = _prepared(task)
    notebook = notebooks.read(task.source)
    total, heading = len(notebook.cells) + bool(task.parameters), "starting"

    def on_cell(cell: Any, cell_index: int) -> None:
        nonlocal heading
        titles = [line.strip("# ") for line in cell.source.splitlines() if line[:1] == "#"]
        heading = titles[0] if titles and cell.cell_type == "markdown" else heading
        note = task.folder / records.ESTIMATE
        say(Step(task, cell_index + 1, total, heading, note.read_text(encoding="utf-8") if note.exists() else ""))

    try:
        ran = papermill.execute_notebook(
            notebook,
            unfinished,
            task.parameters,
            kernel_name="python3",
            kernel_manager_class=manager(task.source, task.folder, cores),
            progress_bar=False,
            start_timeout=PATIENCE,
            iopub_timeout=PATIENCE,
            on_cell_start=on_cell,
        )
    except PapermillExecutionError as error:
        failed = faults(notebooks.read(unfinished))
        return f"cell {error.exec_count} failed:\n\n{error.source}\n\n" + "\n".join(failed)
    finally:
        with contextlib.suppress(OSError, ValueError):  # nothing was written, or half of it: the disk was full
            notebooks.read(unfinished)
            os.replace(unfinished, task.output)
    return "\n".join(f"an error was swallowed in {fault}" for fault in faults(ran)) or None
