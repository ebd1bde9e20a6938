"""Plain chains of convolutions, without shortcuts: PlainNet5 and the VGGs.

Biases follow torchvision's VGG: with `bias`, every convolution has one even where a BatchNorm follows, so
that the `features` of `torchvision.models.vgg11_bn` and its kin load into ours under the same names.
"""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from hetlib.checks import check_sequence
from hetlib.errors import positive, whole_numbers
from hetlib.zoo.layers import conv_norm, head, scaled

Widths = Sequence[int | Literal["M"]]

PLAINNET5: Widths = (32, "M", 64, "M", 128, "M", 256)
# The eight-layer VGG of CIFAR distillation work: one convolution for each pool.
VGG8: Widths = (64, "M", 128, "M", 256, "M", 512, "M", 512, "M")
VGG11: Widths = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG13: Widths = (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG16: Widths = (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3, "M")
VGG19: Widths = (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M")

# The lists of CLAFusion's released runs, for `build("vgg11", widths=VGG11_HALF)`.
VGG11_HALF: Widths = (64, "M", 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M")
VGG13_HALF: Widths = (64, 32, "M", 64, 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M")
VGG13_DOUB: Widths = (64, 128, "M", 256, 256, "M", 512, 512, "M", 1024, 1024, "M", 1024, 512, "M")
VGG13_STUDENT: Widths = (64, 64, "M", 64, 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M")


def plainnet5(
    num_classes: int,
    in_channels: int,
    width: float,
    *,
    kernel_size: int = 5,
    bn: bool = True,
    bias: bool = True,
) -> nn.Sequential:
    """PlainNet5 of HMT: conv-BN-ReLU-maxpool on 32, 64 and 128 channels, conv-BN-ReLU on 256, then the head.

    Parameters
    ----------
    num_classes, in_channels, width
        As `hetlib.zoo.build`.
    kernel_size : int
        Odd, and padded by half. 5 is the target of HMT's runs, 3 the original.
    bn, bias : bool
        A BatchNorm after each convolution; a bias in each convolution and in the Linear.
    """
    if positive("kernel_size", kernel_size) % 2 == 0:
        raise ValueError(f"kernel_size must be odd, so that padding keeps the size, got {kernel_size}")
    return _chain(PLAINNET5, num_classes, in_channels, width, kernel_size, bn, bias)


def vgg(
    num_classes: int,
    in_channels: int,
    width: float,
    *,
    widths: Widths,
    image_size: int = 32,
    bn: bool = True,
    bias: bool = True,
) -> nn.Sequential:
    """VGG for small images: 3x3 convolutions, ReLU, 2x2 max-pools, global average pool, one Linear.

    Parameters
    ----------
    num_classes, in_channels, width
        As `hetlib.zoo.build`.
    widths : sequence of int or "M"
        Channels of each convolution, "M" for a pool; scaled by `width`.
    image_size : int
        Shorter side of the images it is for. Pools that it cannot take are left out, with a warning that
        names them.
    bn, bias : bool
        A BatchNorm after each convolution; a bias in each convolution and in the Linear.
        Both False gives CLAFusion's networks.
    """
    check_sequence("widths", widths, "numbers of channels, and M for pools")
    if not whole_numbers("widths", [entry for entry in widths if entry != "M"], 1):
        raise ValueError("widths: there is no convolution")
    kept = _pools_kept(widths, positive("image_size", image_size))
    return _chain(widths, num_classes, in_channels, width, 3, bn, bias, kept)


def _pools_kept(widths: Widths, image_size: int) -> int:
    pools = sum(entry == "M" for entry in widths)
    kept = min(pools, image_size.bit_length() - 1)
    if kept < pools:
        left_out = ", ".join(str(number) for number in range(kept + 1, pools + 1))
        warnings.warn(
            f"images of {image_size} x {image_size} can be halved {kept} times: left out pools {left_out} of {pools}",
            stacklevel=4,
        )
    return kept


def _chain(
    widths: Widths,
    num_classes: int,
    in_channels: int,
    width: float,
    kernel_size: int,
    bn: bool,
    bias: bool,
    pools: int | None = None,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, seen = in_channels, 0
    for entry in widths:
        if entry == "M":
            seen += 1
            # A left-out pool keeps its place, so that the keys of the layers after it stay the same.
            layers.append(nn.MaxPool2d(2) if pools is None or seen <= pools else nn.Identity())
            continue
        out = scaled(entry, width)
        conv = nn.Conv2d(channels, out, kernel_size, padding=kernel_size // 2, bias=bias)
        layers += [*conv_norm(conv, bn), nn.ReLU()]
        channels = out
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers), **head(channels, num_classes, bias)))
