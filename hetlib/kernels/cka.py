"""How alike layers represent the same samples: linear centred kernel alignment (CKA) of all pairs of layers at once.

A layer enters only through its Gram matrix of samples by samples, so that is what is made, once per layer, and kept.
The features are centred before the product: centring the finished Gram subtracts large numbers that nearly cancel,
and digits of float32 go with them.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hetlib.checks import check_real, check_tensors
from hetlib.kernels.scale import exponents, shifted

BLOCK = 2**18
"""Numbers of one layer that are centred at a time on a CPU: the layer is never copied whole."""
STRIP = 64
"""Rows of a Gram that are multiplied at a time on a CPU: what lies left of them is not computed."""
SQUARABLE = 1e-10, 1e15
"""Between these, squares of what matters to a norm fit into float32; float64 takes four times as long."""
MANY = 8
"""So many strips pay for what each costs besides; fewer samples have strips twice as high."""
TERMS = 2**13
"""Products that are added up in float32 at most; their sums are added in float64."""


@torch.no_grad()
def linear_cka(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool = False, *, bf16: bool = False) -> Tensor:
    """Linear CKA of every layer of one network with every layer of another.

    All Grams are held at once, (len(xs) + len(ys)) N^2 numbers, on a CPU half of that. Where the activations are too
    many to hold together, keep the `gram` of each instead and `compare` those.

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
    shapes = [(bottom - top, len(xs[0]) - top) for top, bottom in _rows(xs[0])]
    sizes = [rows * columns for rows, columns in shapes]
    halves = xs[0].new_empty(len(layers), sum(sizes), dtype=_dtype(layers))
    for layer, half in zip(layers.values(), halves, strict=True):
        strips = [part.view(shape) for part, shape in zip(half.split(sizes), shapes, strict=True)]
        _half_gram_(strips, layer, debiased, bf16)
    moments = _moments(halves, len(xs))
    odd = (~_squarable(moments[1])).nonzero().flatten().tolist()
    for layer, half in ((list(layers.values())[i], halves[i]) for i in odd):
        strips = [part.view(shape) for part, shape in zip(half.split(sizes), shapes, strict=True)]
        _half_gram_(strips, _near_one(layer, half.dtype), debiased, bf16)
    cosines, norms = cosines_(halves, len(xs), layers, _moments(halves, len(xs)) if odd else moments)
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
        In the dtype of x, float32 at least. Of values so small or large that products of theirs would be lost, it
        is the Gram times a power of two, on which CKA does not depend.

    Raises
    ------
    ValueError
        If there are no axes of features, or fewer than 2 (debiased: 4) samples.
    """
    check_real("x", x)
    layers = {"x": x}
    check(layers, least=4 if debiased else 2)
    whole, rows = x.new_empty(len(x), len(x), dtype=_dtype(layers)), _rows(x)
    strips = [whole[top:bottom, top:] for top, bottom in rows]
    _gram_(strips, x, debiased, bf16)
    if not _squarable(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(strip) for strip in strips]))):
        _gram_(strips, _near_one(x, whole.dtype), debiased, bf16)
    for top, bottom in rows:
        whole[bottom:, top:bottom] = whole[top:bottom, bottom:].T
    return whole


@torch.no_grad()
def compare(ks: Sequence[Tensor], ls: Sequence[Tensor]) -> Tensor:
    """CKA of every pair of Grams, as `linear_cka` does with layers.

    Parameters
    ----------
    ks, ls : sequences of Tensor of shape (N, N), or a Tensor of several
        What `gram` gave, all with the same `debiased`.

    Returns
    -------
    Tensor of shape (len(ks), len(ls))

    Raises
    ------
    ValueError
        If there are no Grams, they differ in samples, or one, which is named, holds values that are not finite.
    """
    ks, ls = (list(given) if isinstance(given, Tensor) and given.ndim == 3 else given for given in (ks, ls))
    grams = named(ks, ls, "ks", "ls")
    flat = stacked(grams).flatten(1)
    cosines, norms = cosines_(flat, len(ks), grams, _moments(flat, len(ks)))
    warn_of_still(norms, grams)
    return cosines.clamp_(-1, 1)


def named(xs: Sequence[Tensor], ys: Sequence[Tensor], first: str = "xs", second: str = "ys") -> dict[str, Tensor]:
    """Both networks' layers in one row, each by the name that errors give it."""
    for side, layers in ((first, xs), (second, ys)):
        check_tensors(side, layers)
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


def _rows(x: Tensor) -> list[tuple[int, int]]:
    """Where the strips of a Gram begin and end: a single one of all rows, but on a CPU."""
    samples = len(x)
    step = samples if x.device.type != "cpu" else STRIP if samples >= MANY * STRIP else 2 * STRIP
    return [(top, min(top + step, samples)) for top in range(0, samples, step)]


def _half_gram_(strips: list[Tensor], x: Tensor, debiased: bool, bf16: bool) -> None:
    """Write what counts once of the centred Gram, so that halves multiply to half of what whole Grams would."""
    _gram_(strips, x, debiased, bf16)
    for strip in strips:
        strip.triu_().diagonal().mul_(0.5**0.5)


def _near_one(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer times the power of two that makes its largest value one, or half of it."""
    flat = x.flatten(1).to(dtype)
    return shifted(flat, -exponents(flat.reshape(1, -1)))


def _squarable(norms: Tensor) -> Tensor:
    """Where norms of Grams say that neither their squares nor the products they are made of were lost."""
    return (norms > SQUARABLE[0]) & (norms < SQUARABLE[1])


def _gram_(strips: list[Tensor], x: Tensor, debiased: bool, bf16: bool) -> None:
    """Write the rows of the centred Gram of `x`, each from the diagonal on, a block of features at a time."""
    x, samples, dtype = x.flatten(1), len(x), strips[0].dtype
    few = max(256, BLOCK // samples) if x.device.type == "cpu" else max(1, x.shape[1])
    sums = x.new_zeros(samples, dtype=dtype)
    with torch.autocast(x.device.type, enabled=False):
        for number, block in enumerate(x.split(few, 1)):
            # First less one sample: a feature that never varies is then exactly 0, and a large mean costs no digits.
            wide = dtype if block.is_floating_point() else torch.float64  # float32 has no room for large whole numbers
            deviation = (block.to(wide) - block[:1].to(wide)).to(dtype)
            deviation -= deviation.mean(0)
            deviation = deviation.bfloat16() if bf16 else deviation
            if debiased:  # the Gram's row sums, X (X^T 1): two small products instead of looks at all of the Gram
                sums += deviation @ deviation.sum(0)
            for strip in strips:
                top, kept = samples - strip.shape[1], min(number, 1)
                rows, right = deviation[top : top + len(strip)], deviation[top:].T
                if bf16:
                    strip.copy_(rows @ right + strip if kept else rows @ right)
                else:
                    torch.addmm(strip, rows, right, beta=kept, out=strip)
    if debiased:
        _u_centre_(strips, sums)


def _u_centre_(strips: list[Tensor], sums: Tensor) -> None:
    """U-centre a Gram, given as its upper strips, whose rows, diagonal included, have these sums."""
    diagonal = torch.cat([strip.diagonal() for strip in strips])
    samples, means = len(diagonal), (sums - diagonal) / (len(diagonal) - 2)
    others = means - means.sum() / (samples - 1)
    for strip in strips:
        top = samples - strip.shape[1]
        strip.sub_(means[top : top + len(strip)].unsqueeze(1)).sub_(others[top:]).fill_diagonal_(0)
    largest = torch.stack([end for strip in strips for end in strip.aminmax()]).abs().max()
    rounding = 8 * torch.finfo(diagonal.dtype).eps * diagonal.max()
    kept = (largest > rounding).to(diagonal.dtype)
    for strip in strips:
        strip.mul_(kept)


def stacked(grams: Mapping[str, Tensor]) -> Tensor:
    """Copies of all Grams in one tensor."""
    (first, shape), *_ = ((name, matrix.shape) for name, matrix in grams.items())
    for name, matrix in grams.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape != shape:
            raise ValueError(f"{name}: {tuple(matrix.shape)} is no Gram, or not of {first}'s samples: {tuple(shape)}")
    dtype = _dtype(grams)
    return torch.stack([matrix.to(dtype) for matrix in grams.values()])


def cosines_(
    grams: Tensor, first: int, names: Mapping[str, Tensor], moments: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Cosines of the angles between the first Grams and the others, a row each; and all norms, in float64."""
    products, norms = moments
    if not _squarable(norms).all():
        norms = torch.stack([torch.linalg.vector_norm(row, dtype=torch.float64) for row in grams])
        scale = norms.to(grams.dtype)
        bad = [name for name, finite in zip(names, scale.isfinite().tolist(), strict=True) if not finite]
        if bad:
            raise ValueError(f"{', '.join(bad)}: values that are not finite, or too large to square")
        grams /= scale.where(scale > 0, 1)[:, None]
        return _moments(grams, first)[0].to(grams.dtype), norms
    return (products / norms[:first].outer(norms[first:])).to(grams.dtype), norms


def _moments(grams: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Inner products of the first rows with the others, and the norms of all, summed in float64."""
    products = grams.new_zeros(first, len(grams) - first, dtype=torch.float64)
    squares = grams.new_zeros(len(grams), dtype=torch.float64)
    with torch.autocast(grams.device.type, enabled=False):
        for part in grams.split(TERMS, 1):
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
