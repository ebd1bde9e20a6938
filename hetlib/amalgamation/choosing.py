"""Which source teaches which image: the sources' logits of a task on all images, and the subsets that follow."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hetlib.amalgamation.sources import Source
from hetlib.chain import evaluating
from hetlib.checks import check_floating
from hetlib.data import Images, normalise
from hetlib.errors import known, positive, seed_of
from hetlib.kernels.choice import RULES, choose_teacher
from hetlib.training.progress import progress_bar

SUBSETS = (*RULES, "average")


def task_logits(
    sources: Sequence[Source],
    task: str,
    data: Images,
    generator: torch.Generator | None = None,
    batch_size: int = 500,
    progress: str = "",
) -> Tensor:
    """What each source says of each image, for one task.

    Parameters
    ----------
    sources : sequence of Source
        All know the task. Run in evaluation mode and full precision, where their parameters are.
    task : str
    data : Images
        Normalised with its own mean and standard deviation; its labels are not looked at.
    generator : torch.Generator, optional
        Images are changed at random as in training, as in the released code; by default they are as they are.
    batch_size : int
        Images per forward pass.
    progress : str
        Label of a progress bar; none by default.

    Returns
    -------
    Tensor of shape (sources, images, classes)
        float32, on the CPU.
    """
    positive("batch_size", batch_size)
    device = next(sources[0].network.parameters()).device
    parts: list[Tensor] = []
    with evaluating(*(source.network for source in sources)), progress_bar(progress, len(data)) as tick:
        for chosen in torch.arange(len(data), device=data.images.device).split(batch_size):
            pixels = data.batch(chosen, generator).to(device)
            images = normalise(pixels, data.mean, data.std, memory_format=torch.channels_last)
            parts.append(torch.stack([source.network(images)[:, source.head(task)] for source in sources]))
            tick(int(chosen[-1]) + 1)
    return torch.cat(parts, 1).cpu()


def subsets(
    logits: Tensor,
    rule: str = "entropy",
    *,
    names: Sequence[str] = (),
    labels: Tensor | None = None,
    temperatures: Sequence[float] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Which images each source teaches.

    Parameters
    ----------
    logits : Tensor of shape (sources, images, classes)
        On the CPU; see `task_logits`.
    rule : str
        As for `hetlib.amalgamation.choose_teacher`, where "batch" chooses for every `batch_size` images in their order;
        or "average": every source teaches every image.
    names : sequence of str
        Of the sources, for messages.
    labels, temperatures
        As for `choose_teacher`.
    seed : int
        Of the rule "random".

    Returns
    -------
    Tensor of shape (images, sources), bool

    Raises
    ------
    ValueError
        As `choose_teacher`, or if a source is left without an image, which is named.
    """
    known("rule for choosing teachers", rule, SUBSETS)
    check_floating("logits", logits)
    if logits.ndim != 3:
        raise ValueError(f"logits must have the shape (sources, images, classes), got {tuple(logits.shape)}")
    positive("batch_size", batch_size)
    generator = torch.Generator().manual_seed(seed_of(seed))
    count, images, _ = logits.shape
    if rule == "average":
        return torch.ones(images, count, dtype=torch.bool)
    names = names or [f"source {number}" for number in range(count)]
    finite = logits.isfinite().all(2)
    if rule != "released" and not finite.all():
        source, image = torch.nonzero(~finite)[0].tolist()
        raise ValueError(f"{names[source]} gives image {image} logits that hold NaN or infinity")
    how: dict[str, Any] = {"temperatures": temperatures, "labels": labels, "generator": generator}
    if rule == "batch":
        chosen = torch.cat([choose_teacher(part, rule, **how) for part in logits.split(batch_size, 1)])
    else:
        chosen = choose_teacher(logits, rule, **how)
    member = chosen.unsqueeze(1) == torch.arange(count)
    for name, won in zip(names, member.any(0).tolist(), strict=True):
        if not won:
            raise ValueError(
                f"{name} wins none of {images} images by the rule {rule!r}, so that nothing can be learned from it: "
                "leave it out of the pool, or take another rule"
            )
    return member
