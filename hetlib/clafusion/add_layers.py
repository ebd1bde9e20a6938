"""A shallow network made as deep as another one, by layers that do nothing."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import Call, Chain, Layer, evaluating, is_leaf, neurons, set_sizes_
from hetlib.clafusion.blocks import Block
from hetlib.clafusion.mapping import CrossMap, described
from hetlib.clafusion.values import scaling
from hetlib.errors import of_kind
from hetlib.merging import update_bn

RELU_LIKE = ("relu", "relu6")
PASSING = ("identity", "dropout", "maxpool2d", "avgpool2d", "adaptiveavgpool2d", "flatten")
"""Operations after which values that were not negative still are not."""
FEW = 2
"""Images on which the network with layers added is compared with the one before."""
UNLIKE = "between their layers the deep and the shallow network differ in what they do"


@torch.inference_mode(False)
def add_layers(found: CrossMap, images: Tensor | None = None) -> nn.Module:
    """Make the shallow network as deep as the deep one, without changing what it computes.

    The result has the modules of the deep network, at the widths of the shallow one. Where a deep layer has a partner,
    the partner stands; elsewhere an identity: a layer that passes every channel on (exact after a ReLU, for a ReLU
    of it changes nothing), or a residual block whose convolutions are all 0.

    Parameters
    ----------
    found : CrossMap
        What `hetlib.clafusion.map_layers` found. Neither network is changed.
    images : Tensor of shape (N, ...), optional
        What inserted batch norms take mean and variance from, so that they still pass on what comes once all
        statistics are taken anew, as by `fuse` and by training; and what the result is checked on. Without images they
        do so in evaluation only, and nothing is checked.

    Returns
    -------
    nn.Module
        Differs from the shallow network by exactly 0, but for networks with batch norm, where rounding differs, and for
        an identity before the very first layer, which the pins prevent: its ReLU clips inputs below 0. Once statistics
        are taken anew, as by `fuse`, a little more differs: values behind each inserted norm spread less than those
        statistics say, by 1/2n, n being the images times the pixels there, because a batch is normalised by its
        variance over n and evaluation by that over n - 1. All parameters take gradients.

    Raises
    ------
    ValueError
        If a layer cannot be the identity: it strides, has an even kernel, is grouped, or its block a projection; if
        what stands before or behind it is no ReLU; or if one of two partners alone has a batch norm. The layer is
        named. With images, also if the result does not compute what the shallow network does, because between their
        layers the two do different things.

    References
    ----------
    Nguyen et al., ICASSP 2023, section 3 ("layer balancing"); for residual blocks the released code.
    """
    of_kind("found", found, CrossMap, words="what map_layers gives")
    balanced = deepcopy(found.deep.model)
    inserted: list[str] = []  # batch norms of added layers
    donors = {layer.name: layer for layer in found.shallow.layers}
    width = _inputs(found.shallow.layers[0])
    for alignment in found.alignments:
        partners = dict(zip(alignment.picks, alignment.shallow, strict=True))
        # `near` is the partner, or else the last partner before: blocks that are added take their widths from it. In a
        # group without partners they pass on what came before it, and keep their own widths inside.
        near = alignment.shallow[0] if alignment.shallow else None
        width = _inputs(near.layers[0]) if near else width
        for number, block in enumerate(alignment.deep):
            near = partners.get(number, near)
            if near and number in partners:
                width = _outputs(near.last)
                _copy_shortcut_(balanced, found.deep, block, found.shallow, near)
            elif block.is_residual:
                _check_shortcut(found.deep, block)
                inside = _widths(near) if near else _own_widths(found.deep, block, width)
                _zero_block_(balanced, block, inside, width)
            else:
                _check_neighbours(found.deep, block.last)
                inserted += _identity_layer_(balanced, block.last, width)
    _copy_scales_(balanced, found)
    for layer in found.deep.layers:
        if layer.name in found.pairs:
            _copy_layer_(balanced, layer, found.shallow.model, donors[found.pairs[layer.name]])
    clips = found.alignments and found.alignments[0].picks[0]  # an identity on the input, whose ReLU is no identity
    if images is not None and not clips:
        _check_same(balanced, found.shallow.model, images[:FEW])
    if images is not None and inserted:
        _set_statistics_(balanced, inserted, images)
    return balanced.requires_grad_()


def _check_same(balanced: nn.Module, shallow: nn.Module, images: Tensor) -> None:
    """Raise unless two networks put out the same but for rounding."""
    with evaluating(balanced, shallow):
        wanted = shallow(images)
        if not isinstance(wanted, Tensor):
            kind = f"{type(shallow).__name__} gives a {type(wanted).__name__}"
            raise ValueError(f"{kind}, not logits: wrap it in a network that does")
        if not wanted.isfinite().all():
            raise ValueError("the shallow network puts out NaN or infinity: it or the images hold some")
        try:
            gap = (balanced(images) - wanted).abs().max().item()
        except RuntimeError as error:
            raise ValueError(f"{UNLIKE}: with layers added, the shallow one fails ({error})") from error
    most = torch.finfo(wanted.dtype).eps ** 0.5 * wanted.abs().max().item()
    if not gap <= most:
        raise ValueError(f"{UNLIKE}: with layers added, the shallow one is off by {gap:.2g}")


def _set_statistics_(balanced: nn.Module, norms: list[str], images: Tensor) -> None:
    """Give inserted batch norms the statistics of what reaches them, and what undoes these for gain and shift.

    What reaches them once all statistics are those of the images, as `update_bn` takes them: the norms before them may
    have come with those of other images.
    """

    def pass_on(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(neurons(inputs[0]), 1)
        _undo_(norm, mean, variance)

    anew = deepcopy(balanced)
    for name in norms:
        norm: Any = anew.get_submodule(name)
        if norm.weight is None or norm.bias is None:
            raise ValueError(f"{name} ({norm}) has no gain or no shift: it cannot be made to pass on what comes")
        norm.register_forward_pre_hook(pass_on)
    update_bn(anew, images)
    for name in norms:
        own: Any = balanced.get_submodule(name)
        taken: Any = anew.get_submodule(name)
        own.running_mean.copy_(taken.running_mean)
        own.running_var.copy_(taken.running_var)
        _undo_(own, taken.running_mean, taken.running_var)


def _undo_(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Give a batch norm the gain and shift that undo these statistics."""
    norm.weight.data.copy_((variance + norm.eps).sqrt())
    norm.bias.data.copy_(mean)


def _copy_layer_(balanced: nn.Module, layer: Layer, shallow: nn.Module, donor: Layer) -> None:
    if (layer.norm is None) != (donor.norm is None):
        raise ValueError(f"of {layer.name} and its partner {donor.name} only one has a batch norm: they do not balance")
    _put_(balanced, layer.name, deepcopy(donor.module))
    if layer.norm is not None and donor.norm is not None:
        _put_(balanced, layer.norm, deepcopy(shallow.get_submodule(donor.norm)))


def _copy_shortcut_(balanced: nn.Module, deep: Chain, block: Block, shallow: Chain, partner: Block) -> None:
    """Copy the modules that pad or pool on the partner's shortcut: they may hold a number of channels."""
    pairs = (deep, deep.shortcut_of(block.number)), (shallow, shallow.shortcut_of(partner.number))
    names, donors = (found.modules_on(shortcut) if shortcut else () for found, shortcut in pairs)
    if len(names) != len(donors):
        raise ValueError(
            f"{UNLIKE}: one shortcut has {', '.join(names) or 'nothing'}, its partner {len(donors)} modules"
        )
    for name, donor in zip(names, donors, strict=True):
        _put_(balanced, name, deepcopy(shallow.model.get_submodule(donor)))


def _copy_scales_(balanced: nn.Module, found: CrossMap) -> None:
    """Copy what scales or shifts channels elsewhere than directly behind a layer; it takes equally deep networks."""
    norms = {layer.norm for layer in found.deep.layers}
    given = found.shallow.model.state_dict(keep_vars=True)
    for owner, key in (each for each in scaling(found.deep) if each[0] not in norms):
        name, module = f"{owner}.{key}".lstrip("."), balanced.get_submodule(owner)
        if name not in given or any(deep != shallow for deep, shallow in found.pairs.items()):
            raise ValueError(f"{name} is not directly behind a layer: that takes two networks with the same layers")
        if is_leaf(module) or not any(module.children()):  # with its statistics
            _put_(balanced, owner, deepcopy(found.shallow.model.get_submodule(owner)))
        else:
            setattr(module, key, deepcopy(given[name]))


def _check_shortcut(found: Chain, block: Block) -> None:
    """Raise if a block that shall be idle has anything on its shortcut."""
    shortcut = found.shortcut_of(block.number)
    if shortcut is None or shortcut.kind != "identity":
        raise ValueError(
            f"{block.name} has no partner, but {described(shortcut)}: only a block with a bare shortcut can be idle"
        )


def set_weight_(balanced: nn.Module, layer: Layer, weight: Tensor) -> None:
    """Give a layer another weight, of any shape, and a bias of zeros if it has one."""
    module: Any = deepcopy(layer.module)
    module.weight = nn.Parameter(weight)
    if module.bias is not None:
        module.bias = nn.Parameter(weight.new_zeros(len(weight)))
    set_sizes_(module)
    _put_(balanced, layer.name, module)


def _put_(balanced: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in another's place, under each of that one's names."""
    old = balanced.get_submodule(name)
    for other in [other for other, held in balanced.named_modules(remove_duplicate=False) if held is old]:
        balanced.set_submodule(other, module)


def _identity_layer_(balanced: nn.Module, layer: Layer, width: int) -> list[str]:
    """Make a layer pass on every channel, and its batch norm too, whose name is returned if there is one."""
    set_weight_(balanced, layer, _identity_weight(layer, width))
    if layer.norm is None:
        return []
    _put_(balanced, layer.norm, _identity_norm(balanced.get_submodule(layer.norm), width))
    return [layer.norm]


def _identity_weight(layer: Layer, width: int) -> Tensor:
    module: Any = layer.module
    eye = torch.eye(width, dtype=module.weight.dtype, device=module.weight.device)
    if isinstance(module, nn.Linear):
        return eye
    kernel, plain = module.kernel_size, module.groups == 1 and set(module.stride) == set(module.dilation) == {1}
    padded = module.padding == "same" or module.padding == tuple(side // 2 for side in kernel)
    if not plain or not padded or any(side % 2 == 0 for side in kernel):
        raise ValueError(
            f"{layer.name} has no partner and cannot be the identity: that takes an odd kernel padded by half, "
            f"stride 1 and one group, not {module}. Pin it, or give the map by hand"
        )
    weight = eye.new_zeros(width, width, *kernel)
    weight[:, :, kernel[0] // 2, kernel[1] // 2] = eye
    return weight


def _own_widths(found: Chain, block: Block, width: int) -> list[int]:
    """The widths of a block itself, but for layers tied to what passes by it, such as a depthwise one on its input."""
    last = f"{block.last.name}.weight"
    groups = [{member.name for member in group.writes} for group in found.axes]
    tied = set().union(*(names for names in groups if last in names))
    return [width if f"{layer.name}.weight" in tied else _outputs(layer) for layer in block.layers]


def _widths(block: Block) -> list[int]:
    return [_outputs(layer) for layer in block.layers if layer.kind != "shortcut"]


def _zero_block_(balanced: nn.Module, block: Block, inside: list[int], width: int) -> None:
    """Zeros for all convolutions of a block, which then is its shortcut; `inside` are its inner widths."""
    widths = [width, *inside[: len(block.layers) - 1], width]
    for layer, inputs, outputs in zip(block.layers, widths, widths[1:], strict=False):
        old = layer.module.weight
        set_weight_(balanced, layer, old.new_zeros(outputs, 1 if layer.kind == "depthwise" else inputs, *old.shape[2:]))
        if layer.norm is not None:
            _put_(balanced, layer.norm, _identity_norm(balanced.get_submodule(layer.norm), outputs))


def _identity_norm(norm: Any, width: int) -> nn.Module:
    """A copy of a batch norm, of another width, that in evaluation passes on what comes."""
    if norm.running_var is None:
        raise ValueError(f"{norm} keeps no statistics: without them it cannot pass on what comes")
    made = deepcopy(norm)
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        if getattr(norm, name) is not None:
            setattr(made, name, nn.Parameter(getattr(norm, name).new_full((width,), value)))
    made.running_mean = norm.running_mean.new_zeros(width)
    made.running_var = norm.running_var.new_full((width,), 1 - norm.eps)
    made.num_batches_tracked.zero_()
    set_sizes_(made)
    return made


def _check_neighbours(found: Chain, layer: Layer) -> None:
    """Raise unless an identity layer would stand between ReLUs, or on the network's input."""
    node = next(node for node in found.graph.nodes if node.op == "call_module" and node.target == layer.name)
    above = node.all_input_nodes[0]
    while Call.of(found.model, above).name in PASSING and above.op != "placeholder":
        above = above.all_input_nodes[0]
    if above.op != "placeholder" and Call.of(found.model, above).name not in RELU_LIKE:
        raise ValueError(
            f"{layer.name} has no partner, and {above.name} stands before it: an identity needs a ReLU there"
        )
    names = followers(found, layer)
    if not names <= {*RELU_LIKE, *PASSING}:
        raise ValueError(
            f"{layer.name} has no partner, and {', '.join(sorted(names))} follows it: an identity layer changes "
            "nothing only between ReLUs"
        )


def followers(found: Chain, layer: Layer) -> set[str]:
    """What operations take a layer's output, or that of its batch norm."""
    name = layer.norm or layer.name
    node = next(node for node in found.graph.nodes if node.op == "call_module" and node.target == name)
    return {Call.of(found.model, user).name for user in node.users}


def _inputs(layer: Layer) -> int:
    return layer.module.weight.shape[1] * getattr(layer.module, "groups", 1)


def _outputs(layer: Layer) -> int:
    return layer.module.weight.shape[0]
