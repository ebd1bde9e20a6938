"""How alike layers represent the same samples: linear centred kernel alignment (CKA) of all pairs of layers at once.

A layer enters only through its Gram matrix of samples by samples, so that is what is made, once per layer, and kept.
The features are centred before the product: centring the finished Gram subtracts large numbers that nearly cancel,
and digits of float32 go with them.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BLOCK = 2**18
"""Numbers of one layer that are centred at a time on a CPU: the layer is never copied whole."""
STRIP = 64
"""Rows of a Gram that are multiplied at a time on a CPU: what lies left of them is not computed."""
SQUARABLE = 1e-10, 1e15
"""Between these, squares of what matters to a norm fit into float32; float64 takes four times as long."""
TERMS = 2**13
"""Products that are added up in float32 at most; their sums are added in float64."""


@torch.no_grad()
def linear_cka(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool = False, *, bf16: bool = False) -> Tensor:
    """Linear CKA of every layer of one network with every layer of another.

    All Grams are held at once, about (len(xs) + len(ys)) N^2 / 2 numbers. Where the activations are too many to hold
    together, keep the `gram` of each instead and `compare` those; for more than some thousand samples see
    `hetlib.kernels.streaming`.

    Parameters
    ----------
    xs, ys : sequences of Tensor of shape (N, ...)
        Activations on the same N samples in the same order; axes after the first are features.
    debiased : bool
        Take the unbiased estimate of HSIC. The biased one comes near 1 for any two layers of many more features than
        there are samples: 0.99 for independent ones of 16,384 features and 200 samples, where this one gives 0.
    bf16 : bool
        See `gram`.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        From 0 to 1, or if debiased from -1 to 1; in the widest dtype of the activations, float32 at least, and in
        float32 within 1e-6 of float64. A layer that does not vary over the samples is like nothing, itself
        included: 0, and a RuntimeWarning names it. No gradients are kept.

    Raises
    ------
    ValueError
        If there are no layers, they differ in samples, there are fewer than 2 (debiased: 4) of these, or a layer,
        which is named, holds values that are not finite.

    References
    ----------
    Kornblith et al., *Similarity of Neural Network Representations Revisited*, ICML 2019; Song et al., *Feature
    Selection via Dependence Maximization*, JMLR 2012, for the unbiased estimate.
    """
    layers = named(xs, ys)
    check(layers, least=4 if debiased else 2)
    halves = _halves(len(layers), len(xs[0]), xs[0], _dtype(layers))
    for layer, half in zip(layers.values(), halves, strict=True):
        strips = _strips(half, len(layer))
        _gram_(half, strips, layer, debiased, bf16)
        _halve_(strips)
    cosines, norms = cosines_(halves, len(xs), layers)
    warn_of_still(norms, layers)
    return cosines.clamp_(-1 if debiased else 0, 1)


@torch.no_grad()
def gram(x: Tensor, debiased: bool = False, *, bf16: bool = False) -> Tensor:
    """A layer's centred Gram: all that CKA asks of it, in N^2 numbers however many features it has.

    Made where the activations are, say in a forward hook, it lets them go: with all N samples in one batch no two
    layers' activations are held at a time, and nothing is approximated.

    Parameters
    ----------
    x : Tensor of shape (N, ...)
        Activations; axes after the first are features.
    debiased : bool
        U-centre: a diagonal of zeros and rows that add up to 0, as the unbiased estimate of HSIC wants it. A Gram
        that is then below the rounding of the diagonal it had is 0: its samples are all equally far apart.
    bf16 : bool
        Multiply in bfloat16 what was centred in float32 or better. CKA is then right to about 1e-4. It pays on CPUs
        with matrix units for it (AMX) and on GPUs; elsewhere it may be slower.

    Returns
    -------
    Tensor of shape (N, N)
        In the dtype of x, float32 at least.

    Raises
    ------
    ValueError
        If there are no axes of features, or fewer than 2 (debiased: 4) samples.
    """
    layers = {"x": x}
    check(layers, least=4 if debiased else 2)
    (half,) = _halves(1, len(x), x, _dtype(layers))
    strips = _strips(half, len(x))
    _gram_(half, strips, x, debiased, bf16)
    whole = half.new_empty(len(x), len(x))
    for top, strip in strips:
        bottom = top + len(strip)
        whole[top:bottom, top:] = strip
        whole[bottom:, top:bottom] = strip[:, len(strip) :].T
    return whole


@torch.no_grad()
def compare(ks: Sequence[Tensor], ls: Sequence[Tensor]) -> Tensor:
    """CKA of every pair of Grams, as `linear_cka` does with layers.

    Parameters
    ----------
    ks, ls : sequences of Tensor of shape (N, N)
        What `gram` gave, all with the same `debiased`.

    Returns
    -------
    Tensor of shape (len(ks), len(ls))

    Raises
    ------
    ValueError
        If there are no Grams, they differ in samples, or one, which is named, holds values that are not finite.
    """
    grams = named(ks, ls, "ks", "ls")
    cosines, norms = cosines_(halved(grams), len(ks), grams)
    warn_of_still(norms, grams)
    return cosines.clamp_(-1, 1)


def named(xs: Sequence[Tensor], ys: Sequence[Tensor], first: str = "xs", second: str = "ys") -> dict[str, Tensor]:
    """Both networks' layers in one row, each by the name that errors give it."""
    if not len(xs) or not len(ys):
        raise ValueError(f"no pairs of layers to compare: {len(xs)} and {len(ys)}")
    return {f"{side}[{i}]": x for side, layers in ((first, xs), (second, ys)) for i, x in enumerate(layers)}


def check(layers: Mapping[str, Tensor], least: int) -> None:
    """Raise ValueError unless all are activations on the same samples, and on so many at least."""
    (first, samples), *_ = ((name, x.shape[:1]) for name, x in layers.items())
    for name, x in layers.items():
        if x.ndim < 2:
            raise ValueError(f"{name}: shape {tuple(x.shape)} is not (samples, features)")
        if x.shape[:1] != samples:
            raise ValueError(f"{name} has {len(x)} samples, {first} has {samples[0]}")
        if len(x) < least:
            raise ValueError(f"{name} has {len(x)} samples, at least {least} are needed")


def _halves(count: int, samples: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for so many Grams, of each the strips that `_strips` sees in it: a Gram is symmetric, so half will do."""
    rows = STRIP if like.device.type == "cpu" else samples
    numbers = sum(min(rows, samples - top) * (samples - top) for top in range(0, samples, rows))
    return like.new_empty(count, numbers, dtype=dtype)


def _strips(half: Tensor, samples: int) -> list[tuple[int, Tensor]]:
    """The rows of a Gram from its diagonal on, some at a time; with the first of them."""
    rows, strips, begin = STRIP if half.device.type == "cpu" else samples, [], 0
    for top in range(0, samples, rows):
        shape = min(rows, samples - top), samples - top
        strips.append((top, half[begin : begin + shape[0] * shape[1]].view(shape)))
        begin += shape[0] * shape[1]
    return strips


def _gram_(half: Tensor, strips: list[tuple[int, Tensor]], x: Tensor, debiased: bool, bf16: bool) -> None:
    """Write the centred Gram of `x` into its strips, a block of features at a time."""
    x, samples = x.flatten(1), len(x)
    few = max(256, BLOCK // samples) if x.device.type == "cpu" else max(1, x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        for number, block in enumerate(x.split(few, 1)):
            # First less one sample: a feature that never varies is then exactly 0, and a large mean costs no digits.
            deviation = block.to(half.dtype) - block[:1].to(half.dtype)
            deviation -= deviation.mean(0)
            deviation = deviation.bfloat16() if bf16 else deviation
            for top, strip in strips:
                rows, right, kept = deviation[top : top + len(strip)], deviation[top:].T, min(number, 1)
                if bf16:
                    strip.copy_(rows @ right + strip if kept else rows @ right)
                else:
                    torch.addmm(strip, rows, right, beta=kept, out=strip)
    if debiased:
        _u_centre_(half, strips, samples)


def _u_centre_(half: Tensor, strips: list[tuple[int, Tensor]], samples: int) -> None:
    diagonal = torch.cat([strip.diagonal() for _, strip in strips])
    sums = -diagonal
    for top, strip in strips:
        bottom = top + len(strip)
        sums[top:bottom] += strip.sum(1)
        sums[bottom:] += strip[:, len(strip) :].sum(0)
    means = sums / (samples - 2)
    others = means - means.sum() / (samples - 1)
    for top, strip in strips:
        strip.sub_(means[top : top + len(strip)].unsqueeze(1)).sub_(others[top:]).fill_diagonal_(0)
    rounding = 8 * torch.finfo(half.dtype).eps * diagonal.max()
    half.mul_(torch.linalg.vector_norm(half) / samples > rounding)


def _halve_(strips: list[tuple[int, Tensor]]) -> None:
    """Leave half of every product of two Grams: what is below the diagonal 0, the diagonal over the root of 2."""
    for _, strip in strips:
        strip.triu_().diagonal().mul_(0.5**0.5)


def halved(grams: Mapping[str, Tensor]) -> Tensor:
    """Copies of whole Grams, halved."""
    (first, shape), *_ = ((name, matrix.shape) for name, matrix in grams.items())
    for name, matrix in grams.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape != shape:
            raise ValueError(f"{name}: {tuple(matrix.shape)} is no Gram, or not of {first}'s samples: {tuple(shape)}")
    halves = _halves(len(grams), len(grams[first]), grams[first], _dtype(grams))
    for matrix, half in zip(grams.values(), halves, strict=True):
        strips = _strips(half, len(matrix))
        for top, strip in strips:
            strip.copy_(matrix[top : top + len(strip), top:])
        _halve_(strips)
    return halves


def cosines_(halves: Tensor, first: int, names: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines of the angles between the first Grams and the others; and norms of all halves, in float64."""
    products, norms = _moments(halves, first)
    if not ((norms > SQUARABLE[0]) & (norms < SQUARABLE[1])).all():
        norms = torch.stack([torch.linalg.vector_norm(half, dtype=torch.float64) for half in halves])
        scale = norms.to(halves.dtype)
        bad = [name for name, finite in zip(names, scale.isfinite().tolist(), strict=True) if not finite]
        if bad:
            raise ValueError(f"{', '.join(bad)}: values that are not finite, or too large to square")
        halves /= scale.where(scale > 0, 1)[:, None]
        return _moments(halves, first)[0].to(halves.dtype), norms
    return (products / norms[:first].outer(norms[first:])).to(halves.dtype), norms


def _moments(halves: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Inner products of the first rows with the others, and the norms of all, summed in float64."""
    products = halves.new_zeros(first, len(halves) - first, dtype=torch.float64)
    squares = halves.new_zeros(len(halves), dtype=torch.float64)
    with torch.autocast(halves.device.type, enabled=False):
        for part in halves.split(TERMS, 1):
            products += part[:first] @ part[first:].T
            squares += torch.linalg.vector_norm(part, dim=1).double().square()
    return products, squares.sqrt()


def warn_of_still(norms: Tensor, names: Mapping[str, Tensor]) -> None:
    """Warn of layers that do not vary, by name, two calls up."""
    still = [name for name, norm in zip(names, norms.tolist(), strict=True) if norm == 0]
    if still:
        warnings.warn(f"{', '.join(still)}: no variation over the samples, similarity 0", RuntimeWarning, stacklevel=4)


def _dtype(layers: Mapping[str, Tensor]) -> torch.dtype:
    dtype = torch.float32
    for layer in layers.values():
        dtype = torch.promote_types(dtype, layer.dtype)
    return dtype
