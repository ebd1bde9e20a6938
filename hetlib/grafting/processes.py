"""The ranks of a ring as processes of this machine, where torchrun has not started them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

HERE = "127.0.0.1"


def start(work: Callable[..., None], size: int, *arguments: Any) -> None:
    """Run ``work(*arguments)`` in `size` processes, each a rank in which `exchange.joined` can be called.

    Parameters
    ----------
    work : callable
        A function of a module; new processes import it.
    size : int
        How many.
    *arguments
        What can be pickled.

    Raises
    ------
    ChildProcessError
        When a process ends before its work is done: which, and of what. The others are ended.
    """
    with meeting_place(size):
        try:
            multiprocessing.spawn(_be, (work, *arguments), nprocs=size)
        except multiprocessing.ProcessExitedException as error:
            how = error.signal_name or f"status {error.exit_code}"
            again = "start again with the same command to resume"
            raise ChildProcessError(f"rank {error.error_index} has ended ({how}); {again}") from error
        except multiprocessing.ProcessRaisedException as error:
            *_, words = str(error).strip().splitlines()
            raise ChildProcessError(f"rank {error.error_index}: {words.partition(': ')[2] or words}") from error


@contextmanager
def meeting_place(size: int) -> Iterator[None]:
    """Tell processes that start from here, by their environment, where they meet: a free port that this one keeps."""
    store = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    told = {
        "MASTER_ADDR": HERE,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(size),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process keeps the store: no rank has to outlive the others
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _be(rank: int, work: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["WORLD_SIZE"])))
    work(*arguments)
