"""What the ranks of a process group tell one another: their networks, round a ring, and who is missing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hetlib.errors import known
from hetlib.grafting.flat import Flat

BACKENDS = ("gloo", "nccl")
PATIENCE = 1800.0
"""Seconds that ranks wait for one another by default."""


@contextmanager
def joined(timeout: float = PATIENCE, backend: str = "gloo") -> Iterator["Exchange"]:
    """Join the process group that torchrun describes in the environment, and leave it at the end.

    Parameters
    ----------
    timeout : float
        Seconds that the ranks wait for one another.
    backend : {"gloo", "nccl"}
        What carries the networks: "gloo" from one CPU's memory to another's, "nccl" between GPUs.

    Raises
    ------
    ValueError
        If the backend is unknown or there is no GPU for it, the timeout is not positive, or there is only one rank.
    """
    known("backend", backend, BACKENDS)
    if backend == "nccl" and not torch.cuda.is_available():
        raise ValueError("backend nccl joins GPUs, and torch finds none here")
    if not timeout > 0:
        raise ValueError(f"timeout must be positive, got {timeout}")
    patience = timedelta(seconds=timeout)
    store, rank, size = next(dist.rendezvous("env://", timeout=patience))
    if size < 2:
        raise ValueError("a ring needs at least 2 ranks, got 1: torchrun --nproc-per-node 2 starts two")
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    # Every rank has another part of the store's memory for the group and for who has come how far.
    group = dist.PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=patience)
    try:
        yield Exchange(dist.PrefixStore("reached", store), patience, backend)
    finally:
        dist.destroy_process_group()


class Exchange:
    """One rank's side of a ring: it gives its network to the next rank, and has that of the one before.

    Parameters
    ----------
    store : torch.distributed.Store
        Where all ranks note how far they are, so that each can say who is missing.
    patience : timedelta
        How long ranks wait for one another.
    backend : {"gloo", "nccl"}
        Of the process group.

    Attributes
    ----------
    rank, size : int
        This rank, and how many there are.
    """

    def __init__(self, store: dist.Store, patience: timedelta, backend: str = "gloo"):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store, self._patience, self._backend = store, patience, backend
        # Barriers that say who is missing, and objects, go over gloo always.
        self._words: Any = dist.new_group(backend="gloo", timeout=patience) if backend == "nccl" else None
        self._own: tuple[nn.Module, Flat] | None = None
        self._donor: tuple[nn.Module, Flat] | None = None
        self._meetings = 0

    def __repr__(self) -> str:
        return f"{self.size} ranks"  # alike on all of them: it stands in checkpoints, and settings are compared by it

    def donor(self, model: nn.Module, epoch: int) -> nn.Module:
        """The network of the rank before, as it was before the graft; the rank after is given this one.

        The floating tensors go in one buffer (see `Flat`).

        Parameters
        ----------
        model : nn.Module
            This rank's; unchanged. Its tensors may change between calls, but not be replaced.
        epoch : int
            The epoch after which ranks meet, counted from 1.

        Returns
        -------
        nn.Module
            A copy of `model` with the donor's values, overwritten by the next exchange. Integers are not the donor's.

        Raises
        ------
        ConnectionError
            If a rank does not come; it is named.
        """
        own = self._flat(model)
        if self._donor is None:
            self._donor = Flat.copy(model)
        donor, flat = self._donor
        with self._meeting(f"epoch {epoch}"):
            for buffer, donated in zip(own.read(), flat.buffers, strict=True):
                sent, received = self._here(buffer), self._here(donated)
                towards = dist.P2POp(dist.isend, sent, (self.rank + 1) % self.size)
                back = dist.P2POp(dist.irecv, received, (self.rank - 1) % self.size)
                for work in dist.batch_isend_irecv([towards, back]):
                    work.wait()
                donated.copy_(received)  # which is the same memory, but on a GPU whose networks go by the CPU
        return donor

    def means(self, model: nn.Module, epoch: int) -> dict[str, Tensor]:
        """The mean of all ranks' floating tensors, by key; parameters and errors as for `donor`."""
        own = self._flat(model)
        with self._meeting(f"epoch {epoch}"):
            for buffer in own.read():
                total = self._here(buffer)
                dist.all_reduce(total)
                buffer.copy_(total.div_(self.size))
        return own.views

    def all_networks(self, model: nn.Module) -> list[nn.Module]:
        """Copies of all ranks' networks, in order of rank; errors as for `donor`."""
        copies = [Flat.copy(model) for _ in range(self.size)]
        with self._meeting("the end"):
            for n, buffer in enumerate(self._flat(model).read()):
                received = [self._here(flat.buffers[n]) for _, flat in copies]
                dist.all_gather(received, self._here(buffer))
                for values, (_, flat) in zip(received, copies, strict=True):
                    flat.buffers[n].copy_(values)
        return [twin for twin, _ in copies]

    def gather(self, thing: Any, moment: str) -> list[Any]:
        """What every rank has to say at a moment, in order of rank; errors as for `donor`."""
        found: list[Any] = [None] * self.size
        with self._meeting(moment):
            dist.all_gather_object(found, thing, group=self._words)
        return found

    def _flat(self, model: nn.Module) -> Flat:
        """The buffers of this rank's network, which are made when it comes for the first time."""
        if self._own is None or self._own[0] is not model:
            self._own, self._donor = (model, Flat(model)), None
        return self._own[1]

    def _here(self, buffer: Tensor) -> Tensor:
        """A buffer on the device that the backend works on; itself, if it is there."""
        return buffer.to("cuda" if self._backend == "nccl" else "cpu")

    @contextmanager
    def _meeting(self, moment: str) -> Iterator[None]:
        """Wait until all ranks are here, and do what follows; if that fails, say who is missing."""
        self._meetings += 1  # as often on every rank
        try:
            self._store.set(f"{self._meetings} {self.rank}", "")
            dist.monitored_barrier(self._words, timeout=self._patience)
            yield
        except RuntimeError as error:
            again = "start again with the same command to resume"
            raise ConnectionError(f"{self._missing(moment)} ({error}); {again}") from error

    def _missing(self, moment: str) -> str:
        # The barrier asks the ranks in order: the first that has not come is the one that it failed for. Later ones
        # may be on their way.
        seconds = self._patience.total_seconds()
        try:
            for rank in range(self.size):
                if not self._store.check([f"{self._meetings} {rank}"]):
                    return f"rank {rank} did not reach {moment}: it has ended, or lags by more than {seconds:g} s"
        except RuntimeError:
            return f"the ranks lost touch before {moment}: rank 0, or who started the ranks, has ended"
        return f"all ranks reached {moment}, and then one ended"
