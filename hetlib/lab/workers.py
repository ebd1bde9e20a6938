"""Processes that train: how many at a time, and how they begin and end."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


def default_processes(device: str | torch.device) -> int:
    """How many trainings run at a time: $HETLIB_PROCESSES, else the number of cores, and one on a GPU."""
    return int(os.environ.get("HETLIB_PROCESSES", os.cpu_count() or 1)) if str(device) == "cpu" else 1


@contextmanager
def pool_of(executor: Executor | None, processes: int) -> Iterator[Executor]:
    """The executor that was given, else processes of our own; a single one is this process itself."""
    if executor is not None or processes <= 1:
        yield executor or Here()
        return
    # Spawned, not forked: a forked child inherits the locks of torch's and the notebook's threads.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=begin_worker)
    try:
        yield pool
    except BaseException:
        # Nothing new is begun, and nobody waits to hear of the error for what still trains.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class Here(Executor):
    """Runs at once, in this process, what it is given."""

    def submit(self, work: Callable, /, *arguments: Any, **options: Any) -> Future:
        """Call, and give what came of it."""
        future: Future = Future()
        try:
            future.set_result(work(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def begin_worker() -> None:
    """Prepare a process that trains: one thread, and none that outlives whoever waits for it."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
