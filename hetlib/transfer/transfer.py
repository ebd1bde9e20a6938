"""The mechanism that every paper is a sentence of: match -> fit -> blend, planned first, checked, then written once.

>>> HMT = Transfer(ByPosition(), (Cyclic(),))
>>> TLV = Transfer(ByRatio(), (ByVariance(), LinearStatistics()))
>>> mix = Transfer(Align("cka"), (ByVariance(),), blend=0.5)  # a step of one paper in another
>>> print(mix(source, target, images))                        # modifies target, says what was done

A *match* says which source layer feeds which target layer. A *fit* says what each tensor of the target becomes. A
*blend* says how much the target keeps of its own. Each is a frozen dataclass with `__call__`, or a plain function.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import Chain, Network, eval_chain, reading
from hetlib.chain.nested import Leaf, check, kind_of, with_weights
from hetlib.checks import check_network, check_sequence
from hetlib.errors import check_callable, finite, known, of_kind, seed_of
from hetlib.kernels.fill import Fill
from hetlib.kernels.write import write
from hetlib.transfer.fills import check_fills, once
from hetlib.transfer.report import TransferReport, described, report


@dataclass(frozen=True)
class Pair:
    """One target layer and the source layer that feeds it, by name.

    Attributes
    ----------
    target, source : str
        Dotted names of modules. A layer may stand in several pairs, or in none.
    """

    target: str
    source: str


@dataclass(frozen=True, eq=False)
class Context:
    """All that a step may look at.

    Attributes
    ----------
    source, target : nn.Module
        The networks; no step changes them.
    images : Tensor of shape (N, ...) or None
        Inputs that layers can be compared on.
    generator : torch.Generator
        On the CPU; every random draw of a step comes from it.
    """

    source: nn.Module
    target: nn.Module
    images: Tensor | None = None
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @classmethod
    def of(cls, source: Network, target: Network, images: Tensor | None, seed: int) -> "Context":
        """A context of two networks; where one is given as its `Chain`, it is not traced again."""
        roles = {"source": source, "target": target}
        models = {role: each.model if isinstance(each, Chain) else each for role, each in roles.items()}
        for role, model in models.items():
            check_network(role, model)
        context = cls(**models, images=images, generator=torch.Generator().manual_seed(seed_of(seed)))
        read = {"source_chain": source, "target_chain": target}
        vars(context).update({name: found for name, found in read.items() if isinstance(found, Chain)})
        return context

    @cached_property
    def source_chain(self) -> Chain:
        """The source as `hetlib.chain.chain` reads it in evaluation mode; traced when first asked for."""
        return eval_chain(self.source, self.images)

    @cached_property
    def target_chain(self) -> Chain:
        """The target, likewise; the source's chain where both are one network."""
        return self.source_chain if self.target is self.source else eval_chain(self.target, self.images)

    @cached_property
    def source_modules(self) -> dict[str, Any]:
        """Every module of the source by name, a shared one under each of its names."""
        return dict(self.source.named_modules(remove_duplicate=False))

    @cached_property
    def target_modules(self) -> dict[str, Any]:
        """Those of the target, likewise."""
        return dict(self.target.named_modules(remove_duplicate=False))

    def reading(self) -> AbstractContextManager[None]:
        """Both networks, with weights that can be looked at: see `hetlib.chain.reading`."""
        return reading(*self.source_modules.values(), *self.target_modules.values())

    @cached_property
    def with_weights(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The layers that carry weights, by name, of the source and of the target, in order of registration."""
        return with_weights(self.source_modules), with_weights(self.target_modules)

    def layers_of(self, kind: type[nn.Module]) -> tuple[list[Leaf], list[Leaf]]:
        """Those of one kind."""
        source, target = ([leaf for leaf in found.items() if isinstance(leaf[1], kind)] for found in self.with_weights)
        return source, target

    def layers(self, pair: Pair) -> tuple[Any, Any]:
        """The modules of a pair: the source's, and the target's."""
        return self.source_modules[pair.source], self.target_modules[pair.target]


Match = Callable[[Context], list[Pair]]
Fit = Callable[[Context, list[Pair]], Iterable[Fill]]
Blend = Callable[[list[Fill]], Sequence[float | Tensor]]


@dataclass(frozen=True)
class Transfer:
    """A sentence: how the weights of one network get into another. It is the call, the cache key and the toggles.

    Attributes
    ----------
    match : callable
        ``match(context) -> list[Pair]``.
    fits : tuple of callables
        ``fit(context, pairs) -> iterable of Fill``, each given all pairs, one after the other. Of two fills for one
        tensor the last counts, and stands in the report of every layer that holds it.
    blend : float or callable
        How much the target keeps of its own, from 0 (nothing) to 1: one number for all, or
        ``blend(fills) -> sequence`` with one number, or tensor, for each fill that writes.
    """

    match: Match
    fits: tuple[Fit, ...]
    blend: Blend | float = 0.0

    def __post_init__(self):
        check_sequence("fits", self.fits, "functions")
        object.__setattr__(self, "fits", tuple(self.fits))
        check_callable("match", self.match)
        for fit in self.fits:
            check_callable("each of the fits", fit)
        if not callable(self.blend):
            finite("blend", self.blend, 0, 1)

    def __str__(self) -> str:
        fits = " + ".join(map(described, self.fits))
        blend = "" if self.blend == 0 else f" -> {described(self.blend)}"
        return f"{described(self.match)} -> {fits}{blend}"

    def plan(self, source: Network, target: Network, images: Tensor | None = None, seed: int = 0) -> list[Fill]:
        """Work out and check what every tensor of the target becomes; nothing is written.

        Parameters
        ----------
        source, target : nn.Module or Chain
            The network that has learned something, and the one to be fed. Neither is changed.
        images : Tensor of shape (N, ...), optional
            For steps that compare layers or neurons on images.
        seed : int
            Of all random draws.

        Returns
        -------
        list of Fill
            For `hetlib.kernels.write.write`, alone or together with other plans.

        Raises
        ------
        ValueError
            If a step cannot do its work, a pair names no layer, a weight is missing, computed or lazy, or shapes do not
            fit; the layer is named with its shapes.
        """
        context = Context.of(source, target, images, seed)
        with context.reading(), torch.no_grad():
            return self._plan(context)[1]

    def __call__(self, source: Network, target: Network, images: Tensor | None = None, seed: int = 0) -> TransferReport:
        """Feed a target, in place, once everything has been planned and checked.

        Parameters
        ----------
        source, target, images, seed
            As for `plan`; the target is modified.

        Returns
        -------
        TransferReport
            One row per convolution and linear layer of the target, and per other layer that was written.

        Raises
        ------
        ValueError
            As `plan` does; nothing is modified then.
        """
        context = Context.of(source, target, images, seed)
        with context.reading(), torch.no_grad():
            pairs, fills = self._plan(context)
            write(fills)
            modules = context.source_modules, context.target_modules
            partners = {pair.target: pair.source for pair in pairs}
            return report(str(self), modules, context.with_weights, partners, fills)

    def _plan(self, context: Context) -> tuple[list[Pair], list[Fill]]:
        pairs = _given("match", self.match, self.match(context), Pair)
        _check_pairs(context, pairs)
        fills = [fill for fit in self.fits for fill in _given("fit", fit, fit(context, pairs), Fill)]
        check_fills(context.target_modules, fills)
        fills = once(context.with_weights[1], fills)
        if callable(self.blend):
            kind = lambda fill: kind_of(context.target_modules.get(fill.layer))
            fills = [fill if fill.kind else replace(fill, kind=kind(fill)) for fill in fills]
        return pairs, blended(fills, self.blend)


def _given(role: str, step: Any, found: Any, kind: type) -> list[Any]:
    """What a step gave, as a list; TypeError, which names the step, if that is something else than it must give."""
    listed = list(found) if isinstance(found, Iterable) else [found]
    for each in listed:
        if not isinstance(each, kind):
            of_kind(f"what the {role} {described(step)} gives", each, kind, words=f"a list of {kind.__name__}s")
    return listed


@contextmanager
def naming(context: Context, pair: Pair) -> Iterator[None]:
    """Put the names and shapes of a pair before the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        weights = [getattr(layer, "weight", None) for layer in context.layers(pair)]
        here, there = (type(w).__name__ if w is None else tuple(w.shape) for w in weights)
        layers = f"{pair.source} {here} -> {pair.target} {there}"
        raise ValueError(f"{layers}: {error}; nothing was transferred") from error


def _check_pairs(context: Context, pairs: list[Pair]) -> None:
    """Refuse pairs of layers that do not exist, or whose weights are not there or cannot be written."""
    for role, modules in (("source", context.source_modules), ("target", context.target_modules)):
        for name in dict.fromkeys(getattr(pair, role) for pair in pairs):
            known(f"layer of the {role} ({type(modules['']).__name__})", name, modules)
            if isinstance(getattr(modules[name], "weight", None), Tensor):
                check([(name, modules[name])], role)


def blended(fills: list[Fill], blend: Blend | float) -> list[Fill]:
    """The fills with their share of the target's own values; those of several targets can be blended together.

    Raises
    ------
    ValueError
        If the blend gives another number of coefficients than there are fills that write, or one that is not from 0 to
        1, or a tensor is of a type that has no fractions.
    """
    if not callable(blend) and blend == 0:
        return fills
    writing = [fill for fill in fills if not fill.keeps]
    shares = _shares(blend, writing) if callable(blend) else [blend] * len(writing)
    if len(shares) != len(writing):
        raise ValueError(f"the blend gave {len(shares)} coefficients for {len(writing)} tensors")
    for fill, share in zip(writing, shares, strict=True):
        if not isinstance(share, Tensor):
            finite(f"{fill.layer}: its coefficient of the blend", share, 0, 1)
        if not (fill.out.is_floating_point() or fill.out.is_complex()):
            kind = f"{fill.layer} {tuple(fill.out.shape)} holds {fill.out.dtype}"
            raise ValueError(f"{kind}, which cannot be blended")
    taken = iter(shares)
    return [fill if fill.keeps else replace(fill, alpha=next(taken)) for fill in fills]


def _shares(blend: Blend, writing: list[Fill]) -> list[float | Tensor]:
    found = blend(writing)
    of_kind("what the blend gives", found, Iterable, words="a list of coefficients")
    return list(found)
