"""Linear CKA of all pairs of layers beside what it replaces: Grams made for every pair, Grams centred too late."""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from benchmarks.harness import Bar, faster, has_matrix_units, milliseconds, without_bar
from hetlib.kernels.cka import linear_cka

SAMPLES = 512
SHALLOW = [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5
DEEP = [64] * 7 + [128] * 9 + [256] * 13 + [512] * 7
"""Channels of a ResNet-18's and a ResNet-34's layers."""
NAME = f"CKA {len(SHALLOW)} x {len(DEEP)} layers, n = {SAMPLES}"


def run() -> Iterator[Bar]:
    """Measure the bars of CKA; all errors are those of float64, from which nothing here may differ much."""
    yield per_pair(*activations())
    yield from late(1)
    yield from late(4)


def per_pair(xs: list[Tensor], ys: list[Tensor]) -> Bar:
    """The biased estimate beside the released code's way, without its checks."""
    ours = lambda: linear_cka(xs, ys)
    pairs = lambda: torch.stack([pair(x, y) for x, y in product(xs, ys)]).view(len(xs), len(ys))
    exact = linear_cka(doubles(xs), doubles(ys))
    torch.testing.assert_close(pairs().double(), exact, rtol=0, atol=1e-4)
    how = f"Grams once, error {error(ours(), exact, 1e-6)}"
    measured, reference = milliseconds(ours, pairs, repeats=5)
    return faster(NAME, how, "Grams for every pair", measured, reference, 15)


def late(pixels: int) -> list[Bar]:
    """The debiased estimate, in float32 and in bfloat16, beside pytorch-cka's way; that package is not installed.

    Its way has nothing to do but the products, of which it makes twice as many. Grams of one value a channel are
    small: in bfloat16 they are nothing to measure.
    """
    xs, ys = activations(pixels)
    ours, rough = (lambda bf16=bf16: linear_cka(xs, ys, debiased=True, bf16=bf16) for bf16 in (False, True))
    theirs = lambda: cancelling(xs, ys)
    exact = linear_cka(doubles(xs), doubles(ys), debiased=True)
    torch.testing.assert_close(cancelling(doubles(xs), doubles(ys)), exact, rtol=0, atol=1e-9)
    fine, coarse = error(ours(), exact, 1e-6), error(rough(), exact, 1e-4)
    others = [] if pixels == 1 else [rough]
    measured, reference, *of_rough = milliseconds(ours, theirs, *others, repeats=9)
    name = f"{NAME}, debiased, {pixels} values a channel"
    how, other = f"centred first, error {fine}", f"as pytorch-cka (not installed), error {error(theirs(), exact, 1e-1)}"
    bars = [faster(name, how, other, measured, reference, 1)]
    in_bf16 = f"bf16 Grams, error {coarse}"
    for time in of_rough:
        if has_matrix_units():
            bars.append(faster(name, in_bf16, other, time, reference, 2.5))
        else:
            bars.append(without_bar(name, f"{in_bf16}, no AMX", other, time, reference))
    return bars


def pair(x: Tensor, y: Tensor) -> Tensor:
    """One pair's CKA from two Grams of its own."""
    k, l = (double_centred(z @ z.T) for z in (x, y))  # noqa: E741  (its name in the papers)
    return (k * l).sum() / (torch.linalg.vector_norm(k) * torch.linalg.vector_norm(l))


def double_centred(matrix: Tensor) -> Tensor:
    """Take the means of rows and columns from a finished Gram."""
    means = matrix.mean(0)
    return matrix - means - (means - means.mean()).unsqueeze(1)


def cancelling(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """Unbiased HSIC as Song et al. write it: three sums of Grams that are not centred, far larger than what is left."""
    n = SAMPLES
    grams = xs[0].new_empty(len(xs) + len(ys), n, n)
    for x, out in zip((*xs, *ys), grams, strict=True):
        torch.mm(x, x.T, out=out).fill_diagonal_(0)
    ks, ls = grams[: len(xs)], grams[len(xs) :]
    rows, columns = ks.sum(2), ls.sum(2)
    hsic = hsic_of(ks.flatten(1) @ ls.flatten(1).T, rows @ columns.T, rows.sum(1).outer(columns.sum(1)), n)
    own = [
        hsic_of(torch.linalg.vector_norm(k, dim=(1, 2)).square(), sums.square().sum(1), sums.sum(1).square(), n).sqrt()
        for k, sums in ((ks, rows), (ls, columns))
    ]
    return hsic / own[0].outer(own[1])


def hsic_of(products: Tensor, of_rows: Tensor, of_totals: Tensor, n: int) -> Tensor:
    """The three sums put together, but for the factor that CKA cancels."""
    return products + of_totals / ((n - 1) * (n - 2)) - 2 * of_rows / (n - 2)


def error(found: Tensor, exact: Tensor, at_most: float) -> str:
    """The largest error, which has to be below a bound."""
    largest = (found.double() - exact).abs().max().item()
    assert largest <= at_most, f"error {largest:.1e}, at most {at_most:.0e} is allowed"
    return f"{largest:.0e}"


def activations(pixels: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Values after a ReLU, of so many pixels a channel; in part, all layers come from the same 64 numbers a sample."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(SAMPLES, 64, generator=generator)
    layers = [
        (common @ torch.randn(64, d, generator=generator) / 8 + torch.randn(SAMPLES, d, generator=generator)).relu()
        for d in (pixels * channels for channels in (*SHALLOW, *DEEP))
    ]
    return layers[: len(SHALLOW)], layers[len(SHALLOW) :]


def doubles(layers: list[Tensor]) -> list[Tensor]:
    """In float64."""
    return [layer.double() for layer in layers]
