"""Runs that want one folder take turns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

WAITING = "waiting: another run has this folder"


@contextmanager
def alone(folder: Path, wait: Callable[[], object]) -> Iterator[None]:
    """Hold a folder, alone among all processes; `wait` is called once if another holds it, and then waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
