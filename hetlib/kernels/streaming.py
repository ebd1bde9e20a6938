"""How alike layers represent more samples than a Gram can hold: debiased CKA, batch by batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hetlib.kernels.cka import cosines_, named, stacked, warn_of_still


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
        grams = stacked(names)
        cosines, norms = cosines_(grams.flatten(1), len(ks), names)
        if grams.diagonal(dim1=1, dim2=2).any():
            raise ValueError("averages over batches need Grams made with debiased=True")
        # An unbiased HSIC is a product of Grams over n (n - 3), and n is the batch's weight.
        weight = 1 / (len(ks[0]) - 3)
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
        warn_of_still(squares, named([*products], [*products.T], "ks", "ls"))
        norms = squares.sqrt()
        scale = norms[: len(products), None] * norms[len(products) :]
        return (products / scale.where(scale > 0, 1)).clamp_(-1, 1)
