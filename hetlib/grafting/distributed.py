"""Grafting with one network a process, on one machine or on several: `Lockstep` whose networks are far apart.

>>> with joined() as exchange:                                    # torchrun --nproc-per-node 2 script.py
...     loop = Loop(model, data, test, recipe, seed=exchange.rank)
...     ring = Lockstep([loop], AfterEpoch(over_ranks(Grafting(), exchange)), first=exchange.rank)
...     train(ring, exchange, "checkpoints")
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetlib.files import DamagedFile, as_tensors, load_tensors
from hetlib.grafting.checks import check_finite, check_same, described, tensors_of
from hetlib.grafting.exchange import Exchange
from hetlib.grafting.flat import dense
from hetlib.grafting.settings import APART, Grafting, replaced
from hetlib.kernels.fill import Fill
from hetlib.training import Lockstep

KEPT = 2
"""Checkpoints that every rank keeps: one that stops may be an epoch behind the others."""


@dataclass(frozen=True, kw_only=True)
class OverRanks(Grafting):
    """As `Grafting`, for the one network of this process: its donor is the network of the rank before.

    Every rank comes to the numbers that it has where all networks are grafted in one process, to the bit; only means of
    more than two networks (``level="network"``) may differ by rounding, for they are added up in another order.

    Attributes
    ----------
    exchange : Exchange
        How networks get from one rank to another.
    """

    exchange: Exchange

    @torch.no_grad()
    def plan(self, networks: Sequence[Any], images: Tensor | None = None, seed: int = 0, epoch: int = 0) -> list[Fill]:
        """Work out what every tensor of this rank's network becomes; nothing is written. See `Grafting.plan`.

        Raises
        ------
        ConnectionError
            If a rank does not come; it is named.
        """
        if self.scion != "external":
            return super().plan(networks, images, seed + APART * self.exchange.rank, epoch)
        (own,) = networks
        state = tensors_of(own)
        check_finite(self.exchange.rank, state)
        if self.level == "network":
            return replaced(state, self.exchange.means(own, epoch + 1))
        return self.take([own], [self.exchange.donor(own, epoch + 1)], images, seed)


def over_ranks(grafting: Grafting, exchange: Exchange) -> OverRanks:
    """The same grafting, with one network a rank."""
    return OverRanks(**vars(grafting), exchange=exchange)


def train(
    ring: Lockstep,
    exchange: Exchange,
    folder: str | PathLike | None = None,
    on_epoch: Callable[[Lockstep], Any] | None = None,
) -> Lockstep:
    """Train this rank's network to the end.

    Parameters
    ----------
    ring : Lockstep
        Of one training; between epochs it grafts with `OverRanks`.
    exchange : Exchange
        The other ranks.
    folder : path-like, optional
        Every rank writes a checkpoint here after every epoch, and resumes from the last epoch that all ranks have.
        Machines need not share it.
    on_epoch : callable, optional
        Called with the ring after every epoch.

    Raises
    ------
    ValueError
        On every rank, if ranks differ in architecture (the first entry that differs is named) or settings, or a
        checkpoint is another training's.
    ConnectionError
        If a rank ends or lags; it is named.
    """
    model = ring.loops[0].model
    settings = {"between epochs": repr(ring.between), "epochs": ring.loops[0].recipe.epochs}
    settings |= {f"how {key!r} lies in memory": dense(value) for key, value in tensors_of(model).items()}
    check_alike(exchange.gather((described(model), settings), "the start"))
    if folder is not None:
        resume(ring, exchange, Path(folder))
    while not ring.finished:
        ring.epoch()
        if folder is not None:
            save(ring, exchange.rank, Path(folder))
        if on_epoch is not None:
            on_epoch(ring)
    return ring


def check_alike(told: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Refuse ranks whose networks or settings differ, with a ValueError that names the first difference."""
    check_same([entries for entries, _ in told])
    first = told[0][1]
    for rank, (_, settings) in enumerate(told):
        for name, value in settings.items():
            if value != first[name]:
                raise ValueError(f"ranks 0 and {rank} differ in {name}: {first[name]} and {value}")


def save(ring: Lockstep, rank: int, folder: Path) -> None:
    """Write this rank's checkpoint, and delete its older ones but the last."""
    ring.save(folder / f"rank{rank}-epoch{ring.epochs}.safetensors")
    for epoch, path in checkpoints(rank, folder).items():
        if not ring.epochs - KEPT < epoch <= ring.epochs:
            path.unlink()


def checkpoints(rank: int, folder: Path) -> dict[int, Path]:
    """A rank's checkpoints by epoch."""
    named = ((re.fullmatch(rf"rank{rank}-epoch(\d+)\.safetensors", path.name), path) for path in folder.glob("rank*"))
    return {int(match[1]): path for match, path in named if match}


def resume(ring: Lockstep, exchange: Exchange, folder: Path) -> None:
    """Go on from the last epoch that every rank has a checkpoint of; a warning says so where one has a later one.

    Raises
    ------
    ValueError
        On every rank, if a checkpoint is of another training or another ring, or cannot keep a network's extra state.
    """
    found, problem = {}, ""
    try:
        as_tensors(ring.state()[0])
    except ValueError as error:
        problem = str(error)
    for epoch, path in checkpoints(exchange.rank, folder).items():
        try:
            found[epoch] = load_tensors(path)
            ring.check(path, found[epoch][1])
        except DamagedFile as error:
            warnings.warn(f"{error}; it is not used", stacklevel=2)
        except ValueError as error:
            problem = str(error)
    told = exchange.gather((set(found), problem), "the checkpoints")
    for rank, (_, words) in enumerate(told):
        if words:
            raise ValueError(f"rank {rank}: {words}")
    everyone = [epochs for epochs, _ in told]
    shared, newest = max(set.intersection(*everyone), default=0), max(set.union(*everyone), default=0)
    if shared < newest:
        lacking = [rank for rank, epochs in enumerate(everyone) if newest not in epochs]
        where = f"after epoch {shared}, the last that all ranks have" if shared else "at the beginning"
        whose = f"rank {lacking[0]}" if len(lacking) == 1 else f"ranks {', '.join(map(str, lacking))}"
        warnings.warn(f"{whose} without a checkpoint of epoch {newest}: all start {where}", stacklevel=2)
    if shared:
        ring.restore(*found[shared], folder / f"rank{exchange.rank}-epoch{shared}.safetensors")
