"""Training: one network's as an object, resumable to the bit, and a function that runs one to its end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.data import Images, normalise
from hetlib.errors import seed_of
from hetlib.files import as_tensors, checksum, save_tensors
from hetlib.training import checkpoint as checkpoints
from hetlib.training.check import check, check_call, check_steps, listed, memory_format, parameter_of
from hetlib.training.evaluate import evaluate, use_bf16
from hetlib.training.objectives import Objective, cross_entropy
from hetlib.training.optimiser import optimiser_of
from hetlib.training.progress import progress_bar
from hetlib.training.recipe import History, Recipe


def fit(
    model: nn.Module,
    data: Images,
    test: Images | None = None,
    recipe: Recipe | None = None,
    *,
    objective: Objective | None = None,
    rows: Tensor | Sequence[Tensor] = (),
    batches: "Callable[[Loop], Sequence[Tensor]] | None" = None,
    seed: int = 0,
    validation: Images | None = None,
    checkpoint: str | PathLike | None = None,
    on_epoch: Callable[[History], bool | None] | None = None,
    progress: str = "",
    **changes: Any,
) -> History:
    """Train a classifier in place, on the device its parameters are on, and give its `History`.

    Parameters
    ----------
    model : nn.Module
        Takes normalised images (batch, channels, height, width), gives logits. Modified in place.
    data, test : Images
        Training images, and test images to evaluate on (none: no evaluation).
    recipe : Recipe, optional
        Settings; keyword `changes` replace single ones, as in ``fit(model, data, epochs=3, lr=0.05)``.
    objective : callable, optional
        ``objective(model, images, labels, *rows)`` gives the loss of a batch; see `hetlib.training.objectives`. By
        default `cross_entropy`. A module moves to the model's device, and its parameters are trained with the model's.
    rows : Tensor or sequence of Tensor of shape (len(data), ...)
        What the objective is given for each image beside its label.
    batches : callable, optional
        ``batches(loop)`` gives the batches of an epoch, as indices of images; by default `shuffled`.
    seed : int
        Of data order, augmentation and dropout. The global generators are left as they were.
    validation : Images, optional
        Held-out images, scored with the test images: they choose `History.selected`.
    checkpoint : path-like, optional
        Written after every epoch and resumed from, to exactly the same numbers; a damaged file is named and not used.
    on_epoch : callable, optional
        Called with the history after every epoch; returning True stops training there.
    progress : str
        Label of a progress bar with the time left; none by default.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        For an unknown setting, a label without an output, another number of `rows`, another training's `checkpoint`, or
        one to keep extra state that is neither tensors nor JSON's.
    OSError
        If the checkpoint cannot be written; the previous one is intact.
    """
    check_call(recipe, on_epoch, checkpoint)
    recipe = (recipe or Recipe()).changed(**changes)
    how: dict[str, Any] = {"objective": objective, "rows": rows, "batches": batches}
    loop = Loop(model, data, test, recipe, seed=seed, validation=validation, **how)
    if checkpoint is not None:
        loop.resume(checkpoint)
    with progress_bar(progress, recipe.epochs) as tick:
        tick(loop.history.epochs)
        while not loop.finished:
            loop.epoch()
            if loop.due:
                loop.evaluate()
            if checkpoint is not None:
                loop.save(checkpoint)
            tick(loop.history.epochs)
            if on_epoch is not None and on_epoch(loop.history):
                break
    return loop.history


def shuffled(loop: "Loop") -> Sequence[Tensor]:
    """An epoch's batches: every image once, in an order drawn anew, `Recipe.batch_size` at a time.

    A single image that is left joins the batch before, for batch norm knows no variance of one.
    """
    count, size = len(loop.data), loop.recipe.batch_size
    order = torch.randperm(count, generator=loop.generator, device=loop.device)
    if count % size == 1 and count > size > 1:
        *whole, last = order[:-1].split(size)
        return [*whole, torch.cat((last, order[-1:]))]
    return order.split(size)


class Loop:
    """One network's training, an epoch at a time.

    Each loop has generators of its own: several whose epochs take turns in one process, as in grafting, come to the
    same numbers as if each ran alone. Between epochs the network's weights may be changed in place.

    Parameters
    ----------
    model, data, test, recipe, objective, rows, batches, seed, validation
        As for `fit`.

    Attributes
    ----------
    history : History
        Of the epochs so far.
    generator : torch.Generator
        Draws order and augmentation, on the model's device.

    Raises
    ------
    ValueError
        As `fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        test: Images | None = None,
        recipe: Recipe | None = None,
        *,
        objective: Objective | None = None,
        rows: Tensor | Sequence[Tensor] = (),
        batches: "Callable[[Loop], Sequence[Tensor]] | None" = None,
        seed: int = 0,
        validation: Images | None = None,
    ):
        check_steps(objective=objective, batches=batches)
        rows, seed = listed(rows), seed_of(seed)
        plain = objective is None or objective is cross_entropy
        check(model, data, test, validation, rows, logits=plain)
        self.recipe, self.history = recipe or Recipe(), History()
        like = parameter_of(model)
        self.device, self.dtype, self.layout = like.device, like.dtype, memory_format(model, data, plain)
        self.model = model.to(memory_format=self.layout)
        # What alone is in evaluation mode was put there, such as batch norms that shall keep their statistics.
        self._frozen = [module for module in model.modules() if model.training and not module.training]
        self.objective = cross_entropy if objective is None else objective
        if isinstance(self.objective, nn.Module):
            self.objective.to(self.device).to(memory_format=self.layout)
        self.batches = shuffled if batches is None else batches
        self.data, self.test, self.validation = data.to(self.device), test, validation
        self.rows = tuple(each.to(self.device) for each in rows)
        self.optimiser = optimiser_of(model, self.objective, self.recipe)
        self.bf16 = use_bf16(self.recipe.precision, self.device.type)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        # What torch's global generators are set to while this network trains: dropout and crossover draw from them.
        kinds = {"cpu", self.device.type} & {"cpu", "cuda"}
        self._drawn = {kind: torch.Generator(kind).manual_seed(seed).get_state() for kind in kinds}
        self.identity = checkpoints.plain(self._identity(seed))

    def _identity(self, seed: int) -> dict[str, Any]:
        images = [self.data] if self.validation is None else [self.data, self.validation]
        return {
            "recipe": asdict(self.recipe) | {"precision": "bf16" if self.bf16 else "fp32"},
            "seed": seed,
            "data": [each.checksum for each in images] + [checksum({"rows": each}) for each in self.rows],
            "start": checksum(self.model.state_dict()),
            "model": repr(self.model),  # what is in no tensor: the settings of its layers
            "objective": checkpoints.describe(self.objective),
            "batches": checkpoints.describe(self.batches),
        }

    @property
    def finished(self) -> bool:
        """Whether all epochs of the recipe are done."""
        return self.history.epochs >= self.recipe.epochs

    @property
    def due(self) -> bool:
        """Whether the recipe asks for an evaluation after the epoch that was the last so far."""
        return self.test is not None and (self.history.epochs % self.recipe.evaluate_every == 0 or self.finished)

    def epoch(self) -> None:
        """Train for one epoch, and add it to the history."""
        with self._own_draws():
            for module in (self.model, self.objective):
                if isinstance(module, nn.Module):
                    module.train()
            for module in self._frozen:
                module.training = False
            batches = self.batches(self)
            total, seen = torch.zeros((), device=self.device), 0
            for number, chosen in enumerate(batches):
                lr = self.recipe.lr_at(self.history.epochs * len(batches) + number, len(batches))
                total += self._step(chosen, lr) * len(chosen)
                seen += len(chosen)
        self.history.loss.append(total.item() / seen)
        self.history.lr.append(lr)

    def _step(self, chosen: Tensor, lr: float) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["factor"]
        images = self.data.batch(chosen, self.generator if self.recipe.augment else None)
        images = normalise(images, self.data.mean, self.data.std, self.dtype, self.layout)
        rows = [each[chosen] for each in self.rows]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.objective(self.model, images, self.data.labels[chosen], *rows)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def evaluate(self) -> None:
        """Score the network on the test images, and on the held-out ones if there are any, and add to the history."""
        if self.test is None:
            raise ValueError("this training was given no test images to evaluate on")
        with self._own_draws():
            scores = evaluate(self.model, self.test, precision=self.recipe.precision)
            self.history.evaluated.append(self.history.epochs)
            for name in ("top1", "top5", "top10"):
                getattr(self.history, name).append(scores[name])
            self.history.test_loss.append(scores["loss"])
            if self.validation is not None:
                held_out = evaluate(self.model, self.validation, precision=self.recipe.precision)
                self.history.validation.append(held_out["top1"])

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Set torch's global generators to this training's, and back afterwards."""
        cuda = [self.device] if "cuda" in self._drawn else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self._drawn["cpu"])
            for device in cuda:
                torch.cuda.set_rng_state(self._drawn["cuda"], device)
            yield
            self._drawn = {"cpu": torch.get_rng_state()}
            for device in cuda:
                self._drawn["cuda"] = torch.cuda.get_rng_state(device)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that the next epoch depends on: tensors and extra state by name, and facts that JSON can hold.

        Trainings in lock step keep theirs in one file, so that after an interruption none is an epoch ahead.
        """
        own = self.objective.state_dict() if isinstance(self.objective, nn.Module) else {}
        held = {"model": self.model.state_dict(), "objective": own}
        tensors = {f"{part}.{name}": value for part, state in held.items() for name, value in state.items()}
        tensors |= checkpoints.flat("optimiser", self.optimiser.state_dict()["state"])
        tensors |= checkpoints.flat("generator", self._drawn | {"own": self.generator.get_state()})
        return tensors, {"identity": self.identity, "history": asdict(self.history)}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any], path: str | PathLike = "") -> None:
        """Go on from what `state` gave, maybe in another process; `path` says where it was kept.

        Raises
        ------
        ValueError
            If it is another training's; nothing is changed then.
        """
        # Four things decide the next epoch: weights, the optimiser's moments, the order and augmentation (`generator`),
        # and dropout, which draws from torch's global generators (`_drawn`). Learning rates follow from the history.
        checkpoints.check(str(path), facts.get("identity", {}), self.identity)
        self.history = History(**facts["history"])
        self.model.load_state_dict(checkpoints.under("model", tensors))
        if isinstance(self.objective, nn.Module):
            self.objective.load_state_dict(checkpoints.under("objective", tensors))
        checkpoints.load_optimiser(self.optimiser, checkpoints.under("optimiser", tensors))
        drawn = checkpoints.under("generator", tensors)
        self.generator.set_state(drawn.pop("own"))
        self._drawn = drawn

    def save(self, path: str | PathLike) -> None:
        """Write a checkpoint; `OSError` if it cannot be written, and the previous one is intact."""
        save_tensors(path, *self.state())

    def resume(self, path: str | PathLike) -> None:
        """Go on from a checkpoint if there is one; a damaged one is named in a warning and not used.

        Raises
        ------
        ValueError
            If it is another training's, or this one holds extra state that no checkpoint keeps; nothing is changed.
        """
        as_tensors(self.state()[0])
        if (found := checkpoints.read(path)) is not None:
            self.restore(*found, path)
