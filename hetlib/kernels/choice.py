"""Which of several teachers an image learns from: the one that is surest of its answer.

Shen et al., *Customizing Student Networks From Heterogeneous Teachers via Adaptive Knowledge Amalgamation*, ICCV 2019.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hetlib.checks import check_floating, check_labels
from hetlib.errors import finite_numbers, known, shown

RULES = ("entropy", "batch", "random", "oracle", "released")
DEEPEST = -1e4
"""The least logarithm of a probability that is taken as it is: such a probability is 0, and so is its part of a sum."""


def choose_teacher(
    logits: Tensor,
    rule: str = "entropy",
    *,
    temperatures: Sequence[float] | Tensor | None = None,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """For every image, the number of the teacher whose softmax has the least entropy; of equal ones, the first.

    Parameters
    ----------
    logits : Tensor of shape (teachers, batch, classes)
        What each teacher says of each image, for one task. Half precision is computed in float32.
    rule : {"entropy", "batch", "random", "oracle", "released"}
        "batch" gives all images to the teacher whose mean entropy is least. "random" draws a teacher for each image.
        "oracle" takes the teacher that gives the true label the highest probability. "released" computes entropies as
        the released code does, see `released_entropy`: where one is NaN, that teacher is chosen.
    temperatures : sequence of float or Tensor of shape (teachers,), optional
        What each teacher's logits are divided by first; see `calibrate`.
    labels : Tensor of shape (batch,), optional
        int64, the true labels; only "oracle" needs them.
    generator : torch.Generator, optional
        What "random" draws from; by default torch's global one for the device.

    Returns
    -------
    Tensor of shape (batch,), int64
        On the device of the logits. The host does not wait for it.

    Raises
    ------
    ValueError
        If the logits have another shape, the rule is unknown, or the oracle lacks labels. On the CPU also if a logit is
        NaN or infinite, which names the first such teacher and image; "released" takes these as they come. On a GPU the
        host would have to wait to see it: there, a teacher without a finite entropy is chosen only if none has one.
    """
    check_floating("logits", logits)
    shape = logits.shape
    if len(shape) != 3 or not shape[0]:
        raise ValueError(f"logits must have the shape (teachers, batch, classes), got {tuple(shape)}")
    known("rule for choosing teachers", rule, RULES)
    if rule == "random":
        device = generator.device if generator else logits.device
        return torch.randint(shape[0], shape[1:2], generator=generator, device=device).to(logits.device)
    logits = logits.detach()
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    if temperatures is not None:
        if not isinstance(temperatures, Tensor):
            temperatures = finite_numbers("temperatures", temperatures, shape[0], above=0)
        logits = logits / torch.as_tensor(temperatures, dtype=logits.dtype, device=logits.device).view(-1, 1, 1)
    if rule == "released":
        return released_entropy(logits).min(0).indices
    check_finite(logits)
    if rule == "oracle":
        if labels is None:
            raise ValueError("the oracle needs the true labels: give labels=")
        check_labels("labels", labels, *shape[1:])
        chances = logits.log_softmax(2).gather(2, labels.expand(len(logits), -1).unsqueeze(2))[:, :, 0]
        return chances.nan_to_num(-torch.inf).max(0).indices
    found = _certainty(logits)
    if not logits.is_cpu:
        found = found.nan_to_num(-torch.inf)
    if rule == "batch":
        return found.mean(1).max(0).indices.expand(logits.shape[1])
    return found.max(0).indices


def softmax_entropy(logits: Tensor) -> Tensor:
    """The entropy of the softmax over the last axis, in nats: (..., classes) -> (...)."""
    return -_certainty(logits)


def _certainty(logits: Tensor) -> Tensor:
    logarithms = logits.log_softmax(-1)
    return torch.linalg.vecdot(logarithms.exp(), logarithms.clamp_min_(DEEPEST))


def released_entropy(logits: Tensor) -> Tensor:
    """`softmax_entropy` as the released code computes it, without subtracting the largest logit.

    It is NaN where an exponential overflows or a probability is 0.
    """
    powers = logits.exp()
    shares = powers / powers.sum(-1, keepdim=True)
    return -(shares * shares.log()).sum(-1)


def check_finite(logits: Tensor, names: Sequence[str] = ()) -> None:
    """Refuse, on a CPU, logits (teachers, batch, classes) that hold NaN or infinity; the teachers may have names."""
    if not logits.is_cpu:
        return
    finite = np.isfinite(logits.numpy())  # NumPy's, because torch would count it as a wait for the device
    if np.count_nonzero(finite) < finite.size:  # of few numbers, half the time of `all`
        teacher, image, _ = np.argwhere(~finite)[0]
        name = names[teacher] if names else f"teacher {teacher}"
        raise ValueError(f"{name} gives image {image} logits that hold NaN or infinity")


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which a network's logits have the least cross-entropy with the labels, from 0.05 to 20.

    Least entropy chooses well only among teachers that are right as often as they are sure. Dividing its logits by this
    temperature calibrates a network without changing any answer.

    Parameters
    ----------
    logits : Tensor of shape (batch, classes)
        On held-out images.
    labels : Tensor of shape (batch,)
        int64.

    Returns
    -------
    float

    References
    ----------
    Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.
    """
    check_floating("logits", logits)
    if logits.ndim != 2 or not logits.isfinite().all():
        raise ValueError(f"logits must be finite and of shape (batch, classes), got {shown(logits)}")
    check_labels("labels", labels, *logits.shape)
    logits = logits.detach().double()
    wanted = logits.gather(1, labels.unsqueeze(1)).mean()
    low, high = 0.05, 20.0
    # The cross-entropy is convex in 1 / T; its slope, what is expected less what is wanted, falls as T grows.
    for _ in range(50):
        middle = (low * high) ** 0.5
        expected = ((logits / middle).softmax(1) * logits).sum(1).mean()
        low, high = (middle, high) if expected > wanted else (low, middle)
    return (low * high) ** 0.5
