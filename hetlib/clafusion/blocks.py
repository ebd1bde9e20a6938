"""The blocks in which layers of two networks are matched, and the groups within which they may be."""

from dataclasses import dataclass
from itertools import groupby

from torch.nn.modules import activation

from hetlib.chain import Call, Chain, Layer
from hetlib.merging.average import check_statistics

POOLS = ("maxpool2d", "avgpool2d", "lppool2d")
MIXING = ("groupnorm", "layernorm", "channelshuffle", "pixelshuffle", "pixelunshuffle", "softmax")
ACTIVATIONS = frozenset(name.lower() for name in activation.__all__)


@dataclass(frozen=True)
class Block:
    """What is matched as one: a residual block, or a layer outside of any.

    Attributes
    ----------
    layers : tuple of Layer
        In order of execution; those of a block include its shortcut.
    """

    layers: tuple[Layer, ...]

    @property
    def last(self) -> Layer:
        """The layer whose output stands for the block; `hetlib.chain.layer_outputs` gives a block's sum there."""
        return [layer for layer in self.layers if layer.kind != "shortcut"][-1]

    @property
    def is_residual(self) -> bool:
        """Whether it is a residual block."""
        return self.number is not None

    @property
    def number(self) -> int | None:
        """The index of the residual block, None outside of any."""
        return self.layers[0].block

    @property
    def name(self) -> str:
        """The common beginning of its layers' names."""
        parts = zip(*(layer.name.split(".") for layer in self.layers), strict=False)
        shared = [first for first, *rest in parts if all(other == first for other in rest)]
        return ".".join(shared) or self.last.name


def groups(found: Chain) -> list[list[Block]]:
    """Divide the hidden layers of a network into runs within which layers may stand beside one another.

    A run ends where the resolution changes (at a pool or stride), where residual blocks begin or end, and where linear
    layers follow convolutions. The last layer, the classifier, is in none.

    Parameters
    ----------
    found : Chain
        What `hetlib.chain.chain` read.

    Returns
    -------
    list of lists of Block

    Raises
    ------
    ValueError
        If the last layer ends a residual block.
    """
    *hidden, last = found.layers
    if last.block is not None:
        raise ValueError(f"{last.name} is the last layer and in a residual block: there is no classifier to keep")
    blocks: list[Block] = []
    for number, layers in groupby(hidden, lambda layer: layer.block):
        run = tuple(layers)
        blocks += [Block((layer,)) for layer in run] if number is None else [Block(run)]
    return [list(run) for _, run in groupby(blocks, lambda block: (block.last.stage, block.is_residual))]


def corresponding(deep: Chain, shallow: Chain) -> tuple[list[list[Block]], list[list[Block]]]:
    """The groups of two networks, of which the shallow one has as many, and none longer.

    Raises
    ------
    ValueError
        If that is not so, or if other pools or activations stand between the layers of one; both networks' are named.
    """
    between = [_between(found) for found in (deep, shallow)]
    if between[0] != between[1]:
        raise ValueError(
            f"between its layers the deep network ({type(deep.model).__name__}) has "
            f"{', '.join(between[0]) or 'nothing'}, and the shallow one ({type(shallow.model).__name__}) "
            f"{', '.join(between[1]) or 'nothing'}: both need the same"
        )
    ours, theirs = groups(deep), groups(shallow)
    kinds = [[(run[0].is_residual, type(run[0].last.module)) for run in side] for side in (ours, theirs)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the deep network ({type(deep.model).__name__}) has {_described(ours)}, the shallow one "
            f"({type(shallow.model).__name__}) {_described(theirs)}: layers are aligned within groups, between two "
            "pools or strides, so both need the same ones"
        )
    for a, b in zip(ours, theirs, strict=True):
        if len(a) < len(b):
            raise ValueError(
                f"{len(b)} blocks from {b[0].name} on in the shallow network, {len(a)} from {a[0].name} on in the "
                "deep: no group may be longer in the shallow one"
            )
    return ours, theirs


def check_modules(found: Chain) -> None:
    """Raise a ValueError that names what fusion cannot move: parameters and mixing of channels outside the layers.

    What moves are the layers of a chain, with the batch norm directly behind each.
    """
    check_statistics(found.model)
    moved = {f"{layer.name}.{what}" for layer in found.layers for what in ("weight", "bias")}
    norms = {f"{layer.norm}." for layer in found.layers if layer.norm is not None}
    held = [name for name, _ in (*found.model.named_parameters(), *found.model.named_buffers())]
    run = [str(node.target) for node in found.graph.nodes if node.op in ("call_module", "get_attr")]
    for name in held:
        owner = name.rpartition(".")[0]
        runs = any(f"{name}.".startswith(f"{target}.") for target in run)  # what does not, such as a spare head, stays
        if runs and name not in moved and f"{owner}." not in norms:
            kind = type(found.model.get_submodule(owner)).__name__
            raise ValueError(
                f"{name} belongs to a {kind}, which fusion cannot move: it moves Conv2d, Linear, BatchNorm"
            )
    for node in found.graph.nodes:
        if Call.of(found.model, node).name in MIXING:
            raise ValueError(f"{node.name} mixes channels ({node.target}): fusion cannot move what it puts out")
    plain = [layer.name for layer in found.layers[:-1] if getattr(layer.module, "groups", 1) == 1]
    outputs = {f"{name}.weight": name for name in plain}
    for group in found.axes:
        stuck = [outputs[member.name] for member in group.writes if member.name in outputs]
        if stuck and group.fixed not in (None, "grouped convolution"):  # those are named where they are fed
            raise ValueError(f"the channels of {stuck[0]} cannot be moved: {group.fixed}")


def _between(found: Chain) -> list[str]:
    """All pools, in order, and which activations there are."""
    names = [Call.of(found.model, node).name for node in found.graph.nodes]
    return [name for name in names if name in POOLS] + sorted(ACTIVATIONS.intersection(names))


def _described(side: list[list[Block]]) -> str:
    return f"{len(side)} groups ({', '.join(f'{len(run)} from {run[0].name}' for run in side)})"
