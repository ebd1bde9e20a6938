"""Several trainings side by side in one process, and what happens between their networks after every epoch."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from os import PathLike
from typing import Any

from torch import Tensor

from hetlib.checks import check_sequence
from hetlib.errors import of_kind
from hetlib.files import as_tensors, save_tensors
from hetlib.training import checkpoint as checkpoints
from hetlib.training.loop import Loop
from hetlib.training.progress import progress_bar
from hetlib.training.recipe import History


class Lockstep:
    """Trainings whose epochs take turns; after every epoch a step looks at all networks and may change them in place.

    Each training draws from generators of its own: without a step that changes something, each network comes to the
    same numbers as alone.

    Parameters
    ----------
    loops : sequence of Loop
        The trainings, of equally many epochs.
    between : callable, optional
        ``between(lockstep)`` is called after every epoch, when all networks have been trained and evaluated. It may
        answer with facts that JSON can hold.
    first : int
        The number of the first network in messages, where other processes train those before it.

    Attributes
    ----------
    memory : dict of str to Tensor
        For `between` to keep what it needs from one epoch to the next.
    facts : list
        What `between` answered, one entry per epoch.

    Raises
    ------
    ValueError
        If there is no training, or they differ in their number of epochs.
    """

    def __init__(self, loops: Sequence[Loop], between: "Callable[[Lockstep], Any] | None" = None, first: int = 0):
        check_sequence("the trainings", loops, "Loops")
        for loop in loops:
            of_kind("each of the trainings", loop, Loop)
        epochs = [loop.recipe.epochs for loop in loops]
        if len(set(epochs)) != 1:
            raise ValueError(f"trainings in lock step have as many epochs each, got {epochs}")
        self.loops, self.between, self.first = list(loops), between, first
        self.memory: dict[str, Tensor] = {}
        self.facts: list[Any] = []

    @property
    def epochs(self) -> int:
        """Epochs finished by all."""
        return self.loops[0].history.epochs

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.loops[0].finished

    @property
    def histories(self) -> list[History]:
        """The history of each training."""
        return [loop.history for loop in self.loops]

    def epoch(self) -> None:
        """Train every network for one epoch and evaluate it if its recipe asks for it; then comes the step between.

        Raises
        ------
        FloatingPointError
            If a network's loss is not finite: it would spread to the others.
        """
        for k, loop in enumerate(self.loops, start=self.first):
            loop.epoch()
            if not isfinite(loop.history.loss[-1]):
                lost = f"its loss in epoch {loop.history.epochs} is {loop.history.loss[-1]}"
                raise FloatingPointError(f"network {k} has diverged: {lost}; a lower learning rate may help")
            if loop.due:
                loop.evaluate()
        if self.between is not None:
            self.facts.append(self.between(self))

    def run(
        self,
        checkpoint: str | PathLike | None = None,
        on_epoch: "Callable[[Lockstep], bool | None] | None" = None,
        progress: str = "",
    ) -> list[History]:
        """Train to the end, resuming from a checkpoint; parameters as for `hetlib.training.fit`."""
        if checkpoint is not None:
            self.resume(checkpoint)
        with progress_bar(progress, self.loops[0].recipe.epochs) as tick:
            tick(self.epochs)
            while not self.finished:
                self.epoch()
                if checkpoint is not None:
                    self.save(checkpoint)
                tick(self.epochs)
                if on_epoch is not None and on_epoch(self):
                    break
        return self.histories

    def save(self, path: str | PathLike) -> None:
        """Write one checkpoint of all, so that after an interruption none is an epoch ahead of the others."""
        save_tensors(path, *self.state())

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that the next epoch depends on: tensors and extra state by name, and facts that JSON can hold."""
        states = [loop.state() for loop in self.loops]
        tensors = {f"loop {k}.{name}": value for k, (part, _) in enumerate(states) for name, value in part.items()}
        tensors |= {f"memory.{name}": value for name, value in self.memory.items()}
        meta = {"between": checkpoints.describe(self.between), "facts": self.facts, "loops": [f for _, f in states]}
        return tensors, meta

    def resume(self, path: str | PathLike) -> None:
        """Go on from a checkpoint if there is one; a damaged one is named in a warning and not used.

        Raises
        ------
        ValueError
            If it is of other trainings, or of another step between them, or these hold extra state that no checkpoint
            keeps; nothing is changed then.
        """
        as_tensors(self.state()[0])
        if (found := checkpoints.read(path)) is not None:
            self.restore(*found, path)

    def restore(self, tensors: dict[str, Any], meta: Mapping[str, Any], path: str | PathLike) -> None:
        """Go on from the content of a checkpoint; raises as `resume`."""
        self.check(path, meta)
        for k, (loop, facts) in enumerate(zip(self.loops, meta["loops"], strict=True)):
            loop.restore(checkpoints.under(f"loop {k}", tensors), facts, path)
        self.memory, self.facts = checkpoints.under("memory", tensors), meta["facts"]

    def check(self, path: str | PathLike, meta: Mapping[str, Any]) -> None:
        """Refuse, with a ValueError, a checkpoint whose facts are of other trainings or of another step between."""
        kept = meta.get("loops", [])
        if len(kept) != len(self.loops):
            raise ValueError(f"checkpoint {path} holds {len(kept)} trainings, not {len(self.loops)}")
        if meta["between"] != checkpoints.plain({"between": checkpoints.describe(self.between)})["between"]:
            raise ValueError(f"checkpoint {path} did something else between epochs: give another path, or delete it")
        for loop, facts in zip(self.loops, kept, strict=True):
            checkpoints.check(str(path), facts.get("identity", {}), loop.identity)
