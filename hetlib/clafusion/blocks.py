"""The blocks in which layers of two networks are matched, and the groups within which they may be."""

from dataclasses import dataclass
from itertools import accumulate, groupby, zip_longest

from torch import Tensor, nn
from torch.nn.modules import activation

from hetlib.chain import Call, Chain, Layer
from hetlib.chain.inherited import NORMS, per_output
from hetlib.clafusion.values import scaling
from hetlib.merging.average import check_statistics

POOLS = ("maxpool2d", "avgpool2d", "lppool2d")
MIXING = ("pixelshuffle", "pixelunshuffle")
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
        """The layer whose output stands for the block; `hetlib.chain.layer_outputs` gives a block's sum there.

        No shortcut, where there is another: of more than two branches that are added up, one may be a block by itself.
        """
        return ([layer for layer in self.layers if layer.kind != "shortcut"] or self.layers)[-1]

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

    Where only the deep network has residual blocks, and outside of any both have the same layers, those of the shallow
    one are divided as the deep one's are, and the group beside the blocks is empty.

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
        beside, why = _beside(deep, ours, theirs)
        if why:
            raise ValueError(
                f"the deep network ({type(deep.model).__name__}) has {_described(ours)}, the shallow one "
                f"({type(shallow.model).__name__}) {_described(theirs)}: layers are aligned within groups, between two "
                f"pools or strides, so both need the same ones, but for idle residual blocks; {why}"
            )
        theirs = beside
    for a, b in zip(ours, theirs, strict=True):
        if len(a) < len(b):
            raise ValueError(
                f"{len(b)} blocks from {b[0].name} on in the shallow network, {len(a)} from {a[0].name} on in the "
                "deep: no group may be longer in the shallow one"
            )
    return ours, theirs


def check_modules(found: Chain) -> None:
    """Raise a ValueError that names what fusion cannot move.

    What moves are the layers of a chain, and whatever has a number for each of their channels: norms, slopes, scales.
    """
    check_statistics(found.model)
    layers = {f"{layer.name}.{key}" for layer in found.layers for key in ("weight", *per_output(layer.module))}
    fixed = {member.name: group.fixed for group in found.axes for member in group.writes if group.fixed}
    writes = {member.name for group in found.axes for member in group.writes}
    run = [str(node.target) for node in found.graph.nodes if node.op in ("call_module", "get_attr")]
    for name, tensor in (*found.model.named_parameters(), *found.model.named_buffers()):
        runs = any(f"{name}.".startswith(f"{target}.") for target in run)  # what does not, such as a spare head, stays
        owner = found.model.get_submodule(name.rpartition(".")[0])
        kind = type(owner).__name__
        if runs and name in writes and not isinstance(tensor, nn.Parameter) and not isinstance(owner, NORMS):
            raise ValueError(
                f"{name} ({kind}) is a buffer with a number for each channel: fusion moves parameters alone"
            )
        if not runs or tensor.numel() == 1 or name in layers or is_one_for_all(tensor):
            continue
        if name not in writes:
            raise ValueError(f"{name} belongs to a {kind}, which is neither a layer nor has a number for each channel")
        if fixed.get(name) not in (None, "network input", "network output"):
            raise ValueError(f"{name} ({kind}) cannot be moved: {fixed[name]}")
    for norm in filter(None, (layer.norm for layer in found.layers)):
        for key, _ in found.model.get_submodule(norm).named_parameters():
            if key not in ("weight", "bias"):
                raise ValueError(
                    f"{norm}.{key} is in a norm directly behind a layer, and neither its gain nor its shift"
                )
    for (place, key), value in scaling(found).items():
        name = f"{place}.{key}".lstrip(".")
        if value is None and name in writes and name not in fixed and len(found.model.get_parameter(name)) > 1:
            raise ValueError(f"{name} meets no value with as many channels directly: fusion cannot move it")
    for node in found.graph.nodes:
        name = Call.of(found.model, node).name
        if name in MIXING or (name == "softmax" and found.joins_channels(node)):
            raise ValueError(f"{node.name} mixes channels ({node.target}): fusion cannot move what it puts out")
    for layer in found.layers[:-1]:
        if why := fixed.get(f"{layer.name}.weight"):
            why = "they meet the network's input, which does not move" if why == "network input" else why
            raise ValueError(f"the channels of {layer.name} cannot be moved: {why}")


def is_one_for_all(tensor: Tensor) -> bool:
    """Whether a buffer holds one filter for all of several channels, as that of a blur does."""
    if isinstance(tensor, nn.Parameter) or tensor.ndim != 4 or len(tensor) == 1 or tensor.is_meta:
        return False
    return bool((tensor == tensor[:1]).all())


def _between(found: Chain) -> list[str]:
    """All pools, in order, and which activations there are."""
    names = [Call.of(found.model, node).name for node in found.graph.nodes]
    return [name for name in names if name in POOLS] + sorted(ACTIVATIONS.intersection(names))


def _beside(deep: Chain, ours: list[list[Block]], theirs: list[list[Block]]) -> tuple[list[list[Block]], str]:
    """The shallow network's blocks beside each group of the deep one, none beside idle ones; or why there are none."""
    plain = [[block for run in side for block in run if not block.is_residual] for side in (ours, theirs)]
    for pair in zip_longest(*plain):
        kinds = [f"{block.last.kind} in stage {block.last.stage}" if block else "nothing" for block in pair]
        if kinds[0] != kinds[1]:
            words = [f"{block.name} ({kind})" if block else kind for block, kind in zip(pair, kinds, strict=True)]
            return [], f"outside residual blocks the first layers that differ are {words[0]} and {words[1]}"
    left = [(place, run) for place, run in zip(_places(theirs), theirs, strict=True) if run[0].is_residual]
    beside: list[list[Block]] = []
    for place, run in zip(_places(ours), ours, strict=True):
        if not run[0].is_residual:
            beside.append(plain[1][place[0] : place[0] + len(run)])
        elif left and left[0][0] == place:
            beside.append(left.pop(0)[1])
        elif wrong := [block.name for block in run if deep.shortcuts[block.number or 0].kind != "identity"]:
            return [], f"nothing in the shallow one stands beside {wrong[0]}, whose shortcut is not bare"
        else:
            beside.append([])
    return beside, f"nothing in the deep one stands beside {left[0][1][0].name} of the shallow one" if left else ""


def _places(side: list[list[Block]]) -> list[tuple[int, int, type]]:
    """Where each group is: how many layers outside residual blocks come before it, its stage, and its kind."""
    before = accumulate((0 if run[0].is_residual else len(run) for run in side), initial=0)
    return [(count, run[0].last.stage, type(run[0].last.module)) for count, run in zip(before, side, strict=False)]


def _described(side: list[list[Block]]) -> str:
    return f"{len(side)} groups ({', '.join(f'{len(run)} from {run[0].name}' for run in side)})"
