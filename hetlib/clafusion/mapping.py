"""Which layer of a shallow network stands beside which of a deep one: blocks, their costs, and the map between them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from hetlib.chain import Chain, Network, Shortcut
from hetlib.clafusion.blocks import Block, check_modules, corresponding
from hetlib.clafusion.costs import MEASURES, chains_of, layer_costs
from hetlib.errors import known, seed_of, whole_numbers
from hetlib.match import align, legal_maps
from hetlib.match.align import check_pins
from hetlib.transfer import Context, Pair

MAPPINGS = ("align", "chain", "random")
SHORTCUTS = {"identity": "a bare shortcut", "projection": "a projection", "plain": "a shortcut that pads or pools"}


@dataclass(frozen=True, eq=False)
class Alignment:
    """How one group of the shallow network lies in that of the deep one.

    Attributes
    ----------
    deep, shallow : tuple of Block
        The blocks of the group; in the shallow network there may be none.
    picks : tuple of int
        The deep block of each shallow one, strictly increasing.
    legal : int
        How many maps keep the pins; 1 means that no cost had a say.
    cost : Tensor of shape (deep, shallow) or None
        What each pair costs; None where it was not asked.
    """

    deep: tuple[Block, ...]
    shallow: tuple[Block, ...]
    picks: tuple[int, ...]
    legal: int
    cost: Tensor | None = None


@dataclass(frozen=True, eq=False)
class CrossMap:
    """The map of all layers.

    Attributes
    ----------
    alignments : tuple of Alignment
        One per group.
    pairs : dict of str to str
        The shallow layer of each deep one that has one, by name; the classifiers are a pair.
    deep, shallow : Chain
        The two networks.
    """

    alignments: tuple[Alignment, ...]
    pairs: dict[str, str]
    deep: Chain
    shallow: Chain

    @property
    def legal(self) -> int:
        """How many maps keep the pins, of all groups together."""
        return prod(alignment.legal for alignment in self.alignments)

    def modules(self) -> dict[str, str]:
        """The pairs of layers, and with each pair that of their batch norms."""
        norms = {layer.name: layer.norm for layer in self.shallow.layers}
        paired = [(layer.norm, norms[self.pairs[layer.name]]) for layer in self.deep.layers if layer.name in self.pairs]
        return self.pairs | {mine: theirs for mine, theirs in paired if mine and theirs}

    def __str__(self) -> str:
        lines = [f"{self.legal} legal map{'s' * (self.legal != 1)}"]
        for alignment in self.alignments:
            taken = dict(zip(alignment.picks, alignment.shallow, strict=True))
            names = (f"{block.name}={taken[i].name if i in taken else '+'}" for i, block in enumerate(alignment.deep))
            lines.append("  ".join(names))
        return "\n".join(lines)


@dataclass(frozen=True)
class Align:
    """Pairs of layers from the cross-layer alignment of two networks, whichever of the two is the deeper.

    Each layer of the network with fewer layers is paired with one of the other, group by group, and the classifiers
    with each other. Layers that only the deeper network has stay unpaired.

    Attributes
    ----------
    measure, pins, mapping
        See `map_layers`.
    seed : int, optional
        Of the draw, for a "random" mapping; by default it is drawn from the transfer's.
    convolutions : bool
        Pair convolutions alone, without depthwise ones and shortcuts.

    References
    ----------
    Nguyen et al., ICASSP 2023, section 3.
    """

    measure: str = "cka"
    pins: tuple[int, int] = (1, 1)
    mapping: str | tuple[int, ...] = "align"
    seed: int | None = None
    convolutions: bool = False

    def __post_init__(self):
        known("measure", self.measure, MEASURES)
        object.__setattr__(self, "pins", check_pins(self.pins))
        mapping = _mapping(self.mapping)
        object.__setattr__(self, "mapping", mapping if isinstance(mapping, str) else tuple(mapping))
        if self.seed is not None:
            seed_of(self.seed)

    def map(self, context: Context) -> CrossMap:
        """The map of all layers, as `map_layers` gives it; of two equally deep networks the target counts as deep."""
        seed = self.seed
        if seed is None and self.mapping == "random":
            seed = int(torch.randint(2**31, (), generator=context.generator))
        deep, shallow = sorted((context.target_chain, context.source_chain), key=lambda found: -len(found.layers))
        how: dict[str, Any] = {"mapping": self.mapping, "measure": self.measure, "pins": self.pins}
        return map_layers(deep, shallow, context.images, **how, seed=seed or 0)

    def __call__(self, context: Context) -> list[Pair]:
        """The pairs, in the order of execution of the deeper network.

        Raises
        ------
        ValueError
            As `map_layers` does, or if images are needed and there are none, or no convolution is left.
        """
        found = self.map(context)
        kept = [layer.name for layer in found.deep.layers if not self.convolutions or layer.kind == "conv"]
        pairs = [(name, found.pairs[name]) for name in kept if name in found.pairs]
        if not pairs:
            raise ValueError(f"{type(found.shallow.model).__name__} has no convolution to pair")
        if found.deep is context.target_chain:
            return [Pair(deep, shallow) for deep, shallow in pairs]
        return [Pair(shallow, deep) for deep, shallow in pairs]


def map_layers(
    deep: Network,
    shallow: Network,
    images: Tensor | None,
    *,
    mapping: str | Sequence[int] = "align",
    measure: str = "cka",
    pins: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> CrossMap:
    """Lay the layers of a shallow network beside those of a deep one, in order, group by group.

    Parameters
    ----------
    deep, shallow : nn.Module or Chain
        Two networks of as many groups (`groups`).
    images : Tensor of shape (N, ...) or None
        What they are compared on; not looked at where the pins leave a single map, or the measure is one of sizes.
    mapping : {"align", "chain", "random"} or sequence of int
        At the least cost; the first ones; at random among those that keep the pins; or the deep block of each shallow
        one, by hand, counted over all groups.
    measure : {"cka", "debiased", "neurons", "wasserstein", "cca", "index"}
        See `layer_costs`.
    pins : (int, int)
        How many blocks at the beginning and the end of each group are paired whatever they cost. A single block that is
        pinned at both ends goes to the first deep one.
    seed : int
        Of the draw, for "random".

    Returns
    -------
    CrossMap

    Raises
    ------
    ValueError
        If the groups do not correspond, a pair has different layers, no map keeps the pins, the map by hand is not
        increasing or leaves its group, or a name is unknown.

    References
    ----------
    Nguyen et al., *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, ICASSP 2023.
    """
    known("measure", measure, MEASURES)
    mapping, pins, seed = _mapping(mapping), check_pins(pins), seed_of(seed)
    chains = chains_of(deep, shallow, images)
    for found in chains:
        check_modules(found)
    ours, theirs = corresponding(*chains)
    legal = [_legal(a, b, pins) for a, b in zip(ours, theirs, strict=True)]
    costs: list[Tensor | None] = [None] * len(legal)
    if mapping == "align" and max(legal, default=1) > 1:
        costs = [*layer_costs(*chains, images, measure)]
    if isinstance(mapping, str):
        sides, generator = zip(ours, theirs, costs, strict=True), torch.Generator().manual_seed(seed)
        picks = [_picked(a, b, mapping, cost, _pins(b, pins), generator) for a, b, cost in sides]
        if picks and picks[0][0]:
            name = ours[0][0].name
            warnings.warn(f"{name} has no partner: an identity in its place clips inputs below 0", stacklevel=2)
    else:
        picks = _by_hand(ours, theirs, mapping)
    rows = zip(ours, theirs, picks, legal, costs, strict=True)
    alignments = tuple(Alignment(tuple(a), tuple(b), tuple(p), n, c) for a, b, p, n, c in rows)
    pairs = {chains[0].layers[-1].name: chains[1].layers[-1].name}
    for group in alignments:
        for k in range(len(group.picks)):
            pairs |= _paired(chains, group, k)
    return CrossMap(alignments, pairs, *chains)


def described(shortcut: Shortcut | None) -> str:
    """A block's shortcut, in words for errors."""
    return SHORTCUTS[shortcut.kind] if shortcut else "no shortcut"


def _legal(deep: Sequence[Block], shallow: Sequence[Block], pins: tuple[int, int]) -> int:
    count = legal_maps(len(deep), len(shallow), _pins(shallow, pins)) if shallow else 1
    if not count:
        raise ValueError(
            f"{len(shallow)} blocks from {shallow[0].name} on into {len(deep)} from {deep[0].name} on: no map keeps "
            f"the pins {pins}"
        )
    return count


def _mapping(given: str | Sequence[int]) -> str | list[int]:
    """How layers are paired: by a name, which must exist, or by whole numbers."""
    if not isinstance(given, str):
        return whole_numbers("mapping", given)
    known("mapping", given, MAPPINGS)
    return given


def _paired(chains: tuple[Chain, Chain], group: Alignment, number: int) -> dict[str, str]:
    """The layers of one shallow block of a group, each with its partner; advice only where there is some."""
    deep, shallow = group.deep[group.picks[number]], group.shallow[number]
    (here, mine), (there, theirs) = _looks(chains[0], deep), _looks(chains[1], shallow)
    if (here, mine) != (there, theirs):
        helps = number == 0 and _looks(chains[0], group.deep[0]) == _looks(chains[1], group.shallow[0])
        raise ValueError(
            f"{deep.name} of the deep network has {len(here)} layers and {mine}, {shallow.name} of the shallow one "
            f"{len(there)} and {theirs}: only blocks of as many layers with the same kind of shortcut can be paired"
            + f"; {group.deep[0].name} can, where pins=(1, ...) or a map by hand puts it"
            * helps
        )
    return {one.name: other.name for one, other in zip(deep.layers, shallow.layers, strict=True)}


def _looks(found: Chain, block: Block) -> tuple[list[bool], str]:
    return [layer.kind == "shortcut" for layer in block.layers], described(found.shortcut_of(block.number))


def _pins(run: Sequence[Block], pins: tuple[int, int]) -> tuple[int, int]:
    """The pins of a group; a single block can be pinned only once, at the beginning if at all there."""
    return pins if len(run) > 1 else (min(pins[0], 1), 0 if pins[0] else min(pins[1], 1))


def _picked(
    deep: list[Block],
    shallow: list[Block],
    mapping: str,
    cost: Tensor | None,
    pins: tuple[int, int],
    generator: torch.Generator,
) -> list[int]:
    m, n = len(deep), len(shallow)
    if mapping == "chain" or n in (0, m):
        return list(range(n))
    if mapping == "align":
        return align(torch.zeros(m, n) if cost is None else cost, pins)
    first, last = pins
    drawn = torch.randperm(m - first - last, generator=generator)[: n - first - last]
    return [*range(first), *sorted(first + int(i) for i in drawn), *range(m - last, m)]


def _by_hand(ours: list[list[Block]], theirs: list[list[Block]], mapping: Sequence[int]) -> list[list[int]]:
    wanted = sum(map(len, theirs))
    if len(mapping) != wanted:
        raise ValueError(
            f"mapping: a map by hand names the deep block of each of {wanted} shallow ones, got {list(mapping)}"
        )
    picks, begin, rest = [], 0, list(mapping)
    for a, b in zip(ours, theirs, strict=True):
        mine, rest = [i - begin for i in rest[: len(b)]], rest[len(b) :]
        if mine != sorted(set(mine)) or min(mine, default=0) < 0 or max(mine, default=0) >= len(a):
            raise ValueError(
                f"mapping: {[i + begin for i in mine]} must increase from {begin} to {begin + len(a) - 1} at most, the "
                f"blocks of the deep network from {a[0].name} on"
            )
        picks.append(mine)
        begin += len(a)
    return picks
