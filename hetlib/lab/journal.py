"""Which notebooks of a `reproduce` are done, kept until all of them are: a killed one goes on where it stopped."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import hetlib
from hetlib.files import write
from hetlib.lab import records
from hetlib.lab.cache import Cache
from hetlib.lab.runner import Task


class Journal:
    """The finished notebooks of one list of tasks, in a file that exists only while some are not.

    Parameters
    ----------
    tasks : sequence of Task
        What is to be run; other tasks have another journal.
    runs : path-like
        The folder of runs.
    """

    def __init__(self, tasks: Sequence[Task], runs: Path):
        name = hashlib.sha256("\n".join(task.folder.name for task in tasks).encode()).hexdigest()[:8]
        # Taken before anything runs: what is changed meanwhile was not run.
        self._states = {task: _state(task) for task in tasks}
        self.path = Path(runs) / f"unfinished-{name}.json"
        self.finished: dict[str, str] = {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.finished = {str(folder): str(state) for folder, state in content.items()}
        except (FileNotFoundError, ValueError, AttributeError):
            pass  # nothing to go on from, or nothing that can be read: every notebook is run

    def done(self, task: Task) -> bool:
        """Whether a task ended well, its record is still there, and neither it nor hetlib's code changed since."""
        if self.finished.get(task.folder.name) != self._states[task]:
            return False
        try:
            records.read(records.path(task.folder))
        except (OSError, ValueError):
            return False
        return task.output.is_file()

    def add(self, task: Task) -> None:
        """Note that a task ended well."""
        self.finished[task.folder.name] = self._states[task]
        write(self.path, json.dumps(self.finished, indent=1) + "\n")

    def close(self) -> None:
        """Forget all: every task has been tried."""
        self.path.unlink(missing_ok=True)


def _state(task: Task) -> str:
    source = task.source.read_text(encoding="utf-8")
    return Cache().key({"source": source, "parameters": task.parameters}, (hetlib,))
