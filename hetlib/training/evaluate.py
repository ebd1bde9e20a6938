"""How well a classifier does on a data set, and in which precision it is run."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from hetlib.chain import eval_mode
from hetlib.checks import check_network
from hetlib.data import Images, normalise
from hetlib.errors import known, of_kind, positive
from hetlib.training.check import answers, check_range, parameter_of
from hetlib.training.recipe import PRECISIONS

TOP = (1, 5, 10)


@torch.inference_mode()
def evaluate(model: nn.Module, data: Images, batch_size: int = 500, precision: str = "auto") -> dict[str, float]:
    """Score a classifier on every image of a data set, in evaluation mode; every module gets its own mode back.

    Parameters
    ----------
    model : nn.Module
        Gives logits (batch, classes); for images with attributes two for each, side by side.
    data : Images
        What to score on; normalised with its own mean and standard deviation. Every attribute of every image counts,
        and where classes are divided into tasks, only those of an image's own task.
    batch_size : int
        Images per forward pass.
    precision : {"auto", "fp32", "bf16"}
        As in `Recipe`.

    Returns
    -------
    dict
        "top1", "top5", "top10" in percent (100 where there are no more classes than that), "loss" in nats.

    Raises
    ------
    ValueError
        If there are no images, or the network gives something else than logits.
    """
    check_network("model", model, values=True)
    of_kind("data", data, Images)
    positive("batch_size", batch_size)
    if not len(data):
        raise ValueError(f"{data.name} ({data.split}) holds no images to score")
    like = parameter_of(model)
    device, data = like.device, data.to(like.device)
    hits, loss = torch.zeros(len(TOP), device=device), torch.zeros((), device=device)
    with eval_mode(model):
        for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
            pixels = normalise(images, data.mean, data.std, like.dtype, torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(precision, device.type)):
                logits = answers(model, pixels)
            logits, labels = data.scored(logits, labels)
            if labels.is_cpu:  # a GPU would have to be waited for
                check_range(data, labels, logits.shape[1], type(model).__name__)
            loss += F.cross_entropy(logits.float(), labels, reduction="sum")
            ranked = logits.topk(min(max(TOP), logits.shape[1])).indices.eq(labels[:, None])
            hits += torch.stack([ranked[:, :k].any(1).sum() for k in TOP])
    count = data.labels.numel()
    scores = (hits / count * 100).tolist()
    return {f"top{k}": score for k, score in zip(TOP, scores, strict=True)} | {"loss": loss.item() / count}


def use_bf16(precision: str, device: str) -> bool:
    """Whether `precision` means bf16 on a kind of device; "auto" asks the device for bf16 arithmetic."""
    known("precision", precision, PRECISIONS)
    return precision == "bf16" if precision != "auto" else _has_bf16(device)


@cache
def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in probes)
