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
STRIP = 128
"""Rows of a Gram that are multiplied at a time on a CPU: what lies left of them is mirrored, not computed."""
SQUARABLE = 1e-10, 1e15
"""Between these, squares of what matters to a norm fit into float32; float64 takes four times as long."""
TERMS = 2**13
"""Products that are added up in float32 at most; their sums are added in float64."""


@torch.no_grad()
def linear_cka(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool = False, *, bf16: bool = False) -> Tensor:
    """Linear CKA of every layer of one network with every layer of another.

    All layers' Grams are held at once, (len(xs) + len(ys)) N^2 numbers. Where the activations are too many to hold
    together, keep the `gram` of each instead and `compare` those; for more than some thousand samples see
    `MinibatchCKA`.

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
    grams = xs[0].new_empty(len(layers), len(xs[0]), len(xs[0]), dtype=_dtype(layers))
    for layer, out in zip(layers.values(), grams, strict=True):
        _gram_(out, layer, debiased, bf16)
    cosines, norms = _cosines_(grams, len(xs), layers)
    _warn_of_still(norms, layers)
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
    return _gram_(x.new_empty(len(x), len(x), dtype=_dtype(layers)), x, debiased, bf16)


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
    cosines, norms = _cosines_(_stacked(grams), len(ks), grams)
    _warn_of_still(norms, grams)
    return cosines.clamp_(-1, 1)


class MinibatchCKA:
    """Debiased linear CKA of all pairs of layers over any number of samples, batch by batch.

    The Gram of N samples needs the products of every two of them, so exact CKA over batches would have to keep
    all activations. The unbiased estimate of HSIC needs not: its average over batches is unbiased too, whatever
    their size, so only sums over batches are kept. Batches weigh by their samples. One batch gives `linear_cka`,
    debiased; the biased estimate depends on the batch size and is not offered.

    References
    ----------
    Nguyen et al., *Do Wide and Deep Networks Learn the Same Things?*, ICLR 2021, section 2.

    Examples
    --------
    >>> x, running = torch.randn(64, 10), MinibatchCKA()
    >>> for batch in x.split(16):
    ...     running.update([gram(batch, debiased=True)], [gram(batch @ torch.eye(10), debiased=True)])
    >>> running.value()
    tensor([[1.0000]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def update(self, ks: Sequence[Tensor], ls: Sequence[Tensor]) -> None:
        """Add one batch.

        Parameters
        ----------
        ks, ls : sequences of Tensor of shape (b, b)
            The ``gram(activations, debiased=True)`` of each layer of either network on the same b samples.

        Raises
        ------
        ValueError
            As `compare`; or if the Grams were not made with ``debiased=True``, or the numbers of layers change.
        """
        names = named(ks, ls, "ks", "ls")
        grams = _stacked(names)
        cosines, norms = _cosines_(grams, len(ks), names)
        if grams.diagonal(dim1=1, dim2=2).any():
            raise ValueError("averages over batches need Grams made with debiased=True")
        # An unbiased HSIC is a product of Grams over n (n - 3), and n is the batch's weight.
        weight = 1 / (grams.shape[1] - 3)
        products, squares = weight * cosines * norms[: len(ks), None] * norms[len(ks) :], weight * norms.square()
        if self._sums is None:
            self._sums = products, squares
        elif products.shape != self._sums[0].shape:
            raise ValueError(f"{tuple(products.shape)} pairs of layers after {tuple(self._sums[0].shape)}")
        else:
            self._sums = self._sums[0] + products, self._sums[1] + squares

    @torch.no_grad()
    def value(self) -> Tensor:
        """CKA of all pairs, (len(ks), len(ls)) in float64, over the batches so far; 0 where a layer never varied.

        Raises
        ------
        ValueError
            Before the first batch.
        """
        if self._sums is None:
            raise ValueError("no batch yet: update comes first")
        products, squares = self._sums
        _warn_of_still(squares, named([*products], [*products.T], "ks", "ls"))
        norms = squares.sqrt()
        scale = norms[: len(products), None] * norms[len(products) :]
        return (products / scale.where(scale > 0, 1)).clamp_(-1, 1)


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


def _gram_(out: Tensor, x: Tensor, debiased: bool, bf16: bool) -> Tensor:
    """Write the centred Gram of `x`, a block of features at a time."""
    x, samples = x.flatten(1), len(x)
    few, strip = (max(256, BLOCK // samples), STRIP) if x.device.type == "cpu" else (max(1, x.shape[1]), samples)
    with torch.autocast(x.device.type, enabled=False):
        for number, block in enumerate(x.split(few, 1)):
            # First less one sample: a feature that never varies is then exactly 0, and a large mean costs no digits.
            deviation = block.to(out.dtype) - block[:1].to(out.dtype)
            deviation -= deviation.mean(0)
            deviation = deviation.bfloat16() if bf16 else deviation
            for top in range(0, samples, strip):
                rows, right = deviation[top : top + strip], deviation[top:].T
                part, kept = out[top : top + strip, top:], min(number, 1)
                if bf16:
                    part.copy_(rows @ right + part if kept else rows @ right)
                else:
                    torch.addmm(part, rows, right, beta=kept, out=part)
    for below in range(strip, samples, strip):
        out[below:, below - strip : below] = out[below - strip : below, below:].T
    return _u_centre_(out) if debiased else out


def _u_centre_(matrix: Tensor) -> Tensor:
    samples = len(matrix)
    rounding = 8 * torch.finfo(matrix.dtype).eps * matrix.diagonal().max()
    rows = matrix.fill_diagonal_(0).sum(1) / (samples - 2)
    matrix.sub_(rows.unsqueeze(1)).sub_(rows - rows.sum() / (samples - 1))
    typical = torch.linalg.vector_norm(matrix.fill_diagonal_(0)) / samples
    return matrix.mul_(typical > rounding)


def _stacked(grams: Mapping[str, Tensor]) -> Tensor:
    """Copies of all Grams in one tensor."""
    (first, shape), *_ = ((name, matrix.shape) for name, matrix in grams.items())
    for name, matrix in grams.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape != shape:
            raise ValueError(f"{name}: {tuple(matrix.shape)} is no Gram, or not of {first}'s samples: {tuple(shape)}")
    dtype = _dtype(grams)
    return torch.stack([matrix.to(dtype) for matrix in grams.values()])


def _cosines_(grams: Tensor, first: int, names: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines of the angles between the first Grams and the others; and all norms, in float64 as their squares are."""
    # Row by row, because over a whole Gram the error of a sum in float32 passes 1e-6.
    norms = torch.linalg.vector_norm(torch.linalg.vector_norm(grams, dim=2).double(), dim=1)
    if ((norms > SQUARABLE[0]) & (norms < SQUARABLE[1])).all():
        lengths = norms
    else:
        norms = torch.stack([torch.linalg.vector_norm(matrix, dtype=torch.float64) for matrix in grams])
        scale = norms.to(grams.dtype)
        bad = [name for name, finite in zip(names, scale.isfinite().tolist(), strict=True) if not finite]
        if bad:
            raise ValueError(f"{', '.join(bad)}: values that are not finite, or too large to square")
        grams /= scale.where(scale > 0, 1)[:, None, None]
        lengths = torch.ones_like(norms)
    products = _products(grams[:first].flatten(1), grams[first:].flatten(1))
    return (products / lengths[:first].outer(lengths[first:])).to(grams.dtype), norms


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of all rows, in float64."""
    total = a.new_zeros(len(a), len(b), dtype=torch.float64)
    with torch.autocast(a.device.type, enabled=False):
        for some, others in zip(a.split(TERMS, 1), b.split(TERMS, 1), strict=True):
            total += some @ others.T
    return total


def _warn_of_still(norms: Tensor, names: Mapping[str, Tensor]) -> None:
    still = [name for name, norm in zip(names, norms.tolist(), strict=True) if norm == 0]
    if still:
        warnings.warn(f"{', '.join(still)}: no variation over the samples, similarity 0", RuntimeWarning, stacklevel=4)


def _dtype(layers: Mapping[str, Tensor]) -> torch.dtype:
    dtype = torch.float32
    for layer in layers.values():
        dtype = torch.promote_types(dtype, layer.dtype)
    return dtype
