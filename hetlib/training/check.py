"""Whether a network can be trained on images and scored on them, found out before the first step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import evaluating
from hetlib.checks import check_network, check_sequence
from hetlib.data import Images, normalise
from hetlib.errors import check_callable, of_kind
from hetlib.training.checkpoint import check_writable
from hetlib.training.recipe import Recipe


def run(model: nn.Module, images: Tensor) -> Any:
    """What a network gives; one that views its feature maps as vectors takes images in their plain layout.

    Raises
    ------
    ValueError
        If it takes something else than one batch of images.
    """
    try:
        return model(images)
    except TypeError as error:
        if ".forward() " not in str(error):
            raise
        raise ValueError(
            f"{type(model).__name__} does not take one batch of images alone ({error}): wrap it in a network that does"
        ) from error
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        # Not `contiguous`, which images of one channel are in either layout.
        return model(images.clone(memory_format=torch.contiguous_format))


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """The logits of a network, see `run`; ValueError if it gives something else than one row for each image."""
    found = run(model, images)
    if isinstance(found, Tensor) and found.dim() == 2 and len(found) == len(images):
        return found
    given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise ValueError(
        f"{type(model).__name__} gives {given} for {len(images)} images, not logits (images, classes): wrap it in a "
        "network that does, or leave out its auxiliary heads (aux_logits=False)"
    )


def parameter_of(model: nn.Module) -> Tensor:
    """A floating parameter of a network, which tells its device and precision; ValueError if there is none."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter
    raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train or to score")


def check_call(recipe: Any, on_epoch: Any, checkpoint: Any) -> None:
    """Refuse what `fit` is given beside what a loop is, before anything is changed; None is none of all."""
    of_kind("recipe", recipe, Recipe | None)
    check_steps(on_epoch=on_epoch)
    if checkpoint is not None:
        check_writable(checkpoint)


def check_steps(**steps: Any) -> None:
    """Refuse functions, by the names they are given under, that cannot be called; None is none."""
    for what, step in steps.items():
        if step is not None:
            check_callable(what, step)


def listed(rows: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What an objective is given of each image: one tensor, or several."""
    if isinstance(rows, Tensor):
        return (rows,)
    check_sequence("rows", rows, "tensors")
    return tuple(rows)


def check(
    model: nn.Module,
    data: Images,
    test: Images | None,
    validation: Images | None,
    rows: tuple[Tensor, ...],
    logits: bool,
) -> None:
    """Refuse by name what cannot be trained, before anything is changed; `logits` are needed to be scored, too."""
    if torch.is_inference_mode_enabled():
        raise ValueError("nothing can be trained under torch.inference_mode(): leave it first")
    check_network("model", model, values=True)
    for what, images in (("data", data), ("test", test), ("validation", validation)):
        if images is not None or what == "data":
            of_kind(what, images, Images)
    if len(data) == 0:
        raise ValueError(f"{data.name} ({data.split}) holds no images to train on")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"model: {name} holds values that are not finite")
    for each in rows:
        of_kind("rows", each, Tensor)
        if each.shape[:1] != (len(data),):
            count = len(each) if each.dim() else "no"
            raise ValueError(f"rows: a tensor has {count} rows, {data.name} ({data.split}) has {len(data)} images")
    if validation is not None and test is None:
        raise ValueError("validation chooses the epoch whose test score counts: it needs test images as well")
    scored = [images for images in (test, validation) if images is not None]
    if empty := [f"{images.name} ({images.split})" for images in scored if not len(images)]:
        raise ValueError(f"{' and '.join(empty)} holds no images to score")
    if not (logits or scored):
        return
    outputs = _tried(model, data, torch.contiguous_format).shape[1]
    for images in (data, *scored):
        if images.labels.dim() == 1:
            check_range(images, images.labels, outputs, type(model).__name__)


def check_range(data: Images, labels: Tensor, outputs: int, name: str) -> None:
    """Refuse labels for which a network of so many outputs has none."""
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= outputs:
        wrong = low if low < 0 else high
        raise ValueError(f"{data.name} has label {wrong}, but {name} ends in {outputs} outputs")


def memory_format(model: nn.Module, data: Images, tried: bool) -> torch.memory_format:
    """The layout in which a network trains fastest without meeting a fault of oneDNN; it is run if `tried`.

    Channels last, except for networks that view their feature maps as vectors, which that layout forbids; and except on
    the CPU for networks with a strided 1x1 convolution of fewer than 16 input channels, such as the projection
    shortcuts of a very narrow ResNet: there oneDNN's gradient of the weight, in channels last, is wrong or overwrites
    foreign memory (oneDNN issue 6035; seen in torch 2.14).
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    narrow = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < 16
        for module in model.modules()
    )
    if on_cpu and narrow:
        return torch.contiguous_format
    try:
        if tried:
            _tried(model, data, torch.channels_last)
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        return torch.contiguous_format
    return torch.channels_last


def _tried(model: nn.Module, data: Images, layout: torch.memory_format) -> Tensor:
    """What a network gives of one image, in evaluation mode: nothing in it changes."""
    like = parameter_of(model)
    pixels = data.batch(torch.zeros(1, dtype=torch.int64, device=data.images.device)).to(like.device)
    pixels = normalise(pixels, data.mean, data.std, like.dtype, layout)
    with evaluating(model), torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        return answers(model, pixels) if layout == torch.contiguous_format else model(pixels)
