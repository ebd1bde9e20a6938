"""Training and evaluation: one loop, resumable to the bit, for every network and every paper."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetlib.data import Images, augment, normalise
from hetlib.files import DamagedFile, checksum, load_tensors, save_tensors
from hetlib.training.evaluate import evaluate, use_bf16
from hetlib.training.recipe import History, Recipe

__all__ = ["History", "Recipe", "evaluate", "fit", "use_bf16"]


def fit(
    model: nn.Module,
    data: Images,
    test: Images | None = None,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    validation: Images | None = None,
    alongside: Tensor | None = None,
    checkpoint: str | PathLike | None = None,
    on_epoch: Callable[[History], bool | None] | None = None,
    progress: str = "",
    **changes: Any,
) -> History:
    """Train a classifier in place, on the device its parameters are on, and tell its `History`.

    Parameters
    ----------
    model : nn.Module
        Takes normalised images (batch, channels, height, width), gives logits. Modified in place. Its loss is
        cross-entropy, unless it brings its own as a method ``training_loss(images, labels)``; see `hetlib.distill`.
    data, test : Images
        Training images, and test images to evaluate on (none: no evaluation).
    recipe : Recipe, optional
        Settings; keyword `changes` replace single ones, as in ``fit(model, data, epochs=3, lr=0.05)``.
    seed : int
        Of data order, augmentation and dropout. The global generators are left as they were.
    validation : Images, optional
        Held-out images, scored with the test images: they choose `History.selected`.
    alongside : Tensor of shape (len(data), ...), optional
        A row per training image, the model's last argument in training; see `hetlib.crossover`.
    checkpoint : path-like, optional
        Written after every epoch and resumed from, to exactly the same numbers; a damaged file is named and not used.
    on_epoch : callable, optional
        Called with the history after every epoch; returning True stops training there.
    progress : str
        Label of a progress bar with the time left; none by default.

    Raises
    ------
    ValueError
        For an unknown setting, a label without an output, rows `alongside` of another number, or another `checkpoint`.
    OSError
        If the checkpoint cannot be written; the previous one is intact.
    """
    recipe = (recipe or Recipe()).changed(**changes)
    if len(data) == 0:
        raise ValueError(f"{data.name} ({data.split}) holds no images to train on")
    if alongside is not None and alongside.shape[:1] != (len(data),):
        rows = len(alongside) if alongside.dim() else "no"
        raise ValueError(f"alongside has {rows} rows, {data.name} ({data.split}) has {len(data)} images")
    if validation is not None and test is None:
        raise ValueError("validation chooses the epoch whose test score counts: it needs test images as well")
    _check_labels(model, data, test, validation)
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices), _bar(progress, recipe.epochs) as tick:
        torch.manual_seed(seed)
        loop = _Loop(model, data, recipe, seed, validation, alongside)
        if checkpoint is not None:
            loop.resume(Path(checkpoint))
        tick(loop.history)
        while loop.history.epochs < recipe.epochs:
            loop.epoch()
            due = loop.history.epochs % recipe.evaluate_every == 0 or loop.history.epochs == recipe.epochs
            if test is not None and due:
                loop.evaluate(test)
            if checkpoint is not None:
                loop.save(Path(checkpoint))
            tick(loop.history)
            if on_epoch is not None and on_epoch(loop.history):
                break
    return loop.history


def _check_labels(model: nn.Module, data: Images, *scored: Images | None) -> None:
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if empty := [f"{images.name} ({images.split})" for images in scored if images is not None and not len(images)]:
        raise ValueError(f"{' and '.join(empty)} holds no images to score")
    highest = max(int(images.labels.max()) for images in (data, *scored) if images is not None)
    if heads and highest >= heads[-1].out_features:
        raise ValueError(
            f"{data.name} has label {highest}, but {type(model).__name__} ends in {heads[-1].out_features} outputs"
        )


class _Loop:
    """The state of one training: everything a checkpoint has to hold."""

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        recipe: Recipe,
        seed: int,
        validation: Images | None,
        alongside: Tensor | None,
    ):
        self.device = next(model.parameters()).device
        self.layout = memory_format(model)
        self.model = model.to(memory_format=self.layout)
        self.data, self.recipe, self.history = data.to(self.device), recipe, History()
        self.validation, self.alongside = validation, () if alongside is None else (alongside.to(self.device),)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.optimiser = _optimiser(model, recipe)
        self.bf16 = use_bf16(recipe.precision, self.device.type)
        self.identity: dict[str, Any] = {
            "recipe": asdict(recipe)
            | {"milestones": list(recipe.milestones), "precision": "bf16" if self.bf16 else "fp32"},
            "seed": seed,
            "data": [data.checksum, validation and validation.checksum]
            + [checksum({"alongside": rows}) for rows in self.alongside],
            "start": checksum(model.state_dict()),
            "model": repr(model),  # what is in no tensor: the settings of its layers
        }

    def epoch(self) -> None:
        self.model.train()
        order = torch.randperm(len(self.data), generator=self.generator, device=self.device)
        batches = order.split(self.recipe.batch_size)
        total = torch.zeros((), device=self.device)
        for number, chosen in enumerate(batches):
            lr = self.recipe.lr_at(self.history.epochs * len(batches) + number, len(batches))
            total += self._step(chosen, lr) * len(chosen)
        self.history.loss.append(total.item() / len(self.data))
        self.history.lr.append(lr)

    def _step(self, chosen: Tensor, lr: float) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        images = self.data.images[chosen]
        if self.recipe.augment:
            images = augment(images, self.generator)
        images = normalise(images, self.data.mean, self.data.std, memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self._loss(images, self.data.labels[chosen], *(rows[chosen] for rows in self.alongside))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor, *alongside: Tensor) -> Tensor:
        own = getattr(self.model, "training_loss", None)
        return own(images, labels, *alongside) if own else F.cross_entropy(self.model(images, *alongside), labels)

    def evaluate(self, test: Images) -> None:
        scores = evaluate(self.model, test, precision=self.recipe.precision)
        self.history.evaluated.append(self.history.epochs)
        for name in ("top1", "top5", "top10"):
            getattr(self.history, name).append(scores[name])
        self.history.test_loss.append(scores["loss"])
        if self.validation is not None:
            held_out = evaluate(self.model, self.validation, precision=self.recipe.precision)
            self.history.validation.append(held_out["top1"])

    def save(self, path: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items() if value is not None}
        tensors |= {"generator.own": self.generator.get_state(), "generator.global": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        save_tensors(path, tensors, {"identity": self.identity, "history": asdict(self.history)})

    def resume(self, path: Path) -> None:
        try:
            tensors, facts = load_tensors(path)
        except FileNotFoundError:
            return
        except DamagedFile as error:
            warnings.warn(f"{error}; training starts again from its first epoch", stacklevel=3)
            return
        self._check(path, facts.get("identity", {}))
        self.history = History(**facts["history"])
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "generator": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = value
        self.model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        parameters = self.optimiser.param_groups[0]["params"]
        for name, value in parts["optimiser"].items():
            index, _, rest = name.partition(".")
            like = parameters[int(index)]
            # Fused optimisers walk raw memory, so a moment has to lie in memory exactly as its parameter does.
            laid_out = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(index), {})[rest] = laid_out
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.generator.set_state(parts["generator"]["own"])
        torch.set_rng_state(parts["generator"]["global"])
        if "cuda" in parts["generator"]:
            torch.cuda.set_rng_state(parts["generator"]["cuda"], self.device)

    def _check(self, path: Path, found: dict[str, Any]) -> None:
        wanted = self.identity | self.identity["recipe"]
        found = found | found.get("recipe", {})
        differences = {
            "data": "trained on other data",
            "start": "started from other weights",
            "model": "trained a network with other layers or settings",
        }
        for name, what in differences.items():
            if found.get(name) != wanted[name]:
                raise ValueError(f"checkpoint {path} {what}; give another path, or delete it to start again")
        if differing := [n for n in (*self.identity["recipe"], "seed") if found.get(n) != wanted[n]]:
            pairs = ", ".join(f"{n} was {found.get(n)!r}, is {wanted[n]!r}" for n in differing)
            raise ValueError(f"checkpoint {path} belongs to other settings: {pairs}; give another path or delete it")


def memory_format(model: nn.Module) -> torch.memory_format:
    """The layout in which a network trains fastest without meeting a fault of oneDNN.

    Channels last, except on the CPU for networks with a strided 1x1 convolution of fewer than 16 input channels, such
    as the projection shortcuts of a very narrow ResNet: there oneDNN's gradient of the weight, in channels last, is
    wrong or overwrites foreign memory (oneDNN issue 6035; seen in torch 2.14).
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    narrow = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < 16
        for module in model.modules()
    )
    return torch.contiguous_format if on_cpu and narrow else torch.channels_last


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True)


@contextmanager
def _bar(label: str, epochs: int) -> Iterator[Callable[[History], None]]:
    if not label:
        yield lambda history: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(label, total=epochs)
        yield lambda history: bar.update(task, completed=history.epochs)
