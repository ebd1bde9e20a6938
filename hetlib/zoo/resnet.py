"""Residual networks of basic blocks for small images: HMT's ResNet-8, He's ResNet-20 to 110, CLAFusion's 18 and 34.

One stacker serves the three. Names are those of the published CIFAR weights (`conv1`, `bn1`, `layer1.0.conv1`,
..., `linear`); a projection is called `downsample` as in torchvision and comes after its block's convolutions.
Biases follow torchvision's ResNet: a convolution that a BatchNorm follows has none.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from hetlib.errors import known
from hetlib.zoo.layers import conv_norm, head, scaled


class PadShortcut(nn.Module):
    """Shortcut without parameters (option A of He et al.): every second pixel, zeros in the new channels.

    Parameters
    ----------
    extra : int
        How many channels to add, half of them before and half after the present ones.
    """

    def __init__(self, extra: int):
        super().__init__()
        self.before, self.after = extra // 2, extra - extra // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(f(x) + downsample(x)).

    The ReLUs are modules of their own and not in place, so that hooks can read what is before and after each.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    stride : int
        Of the first convolution and of the shortcut.
    shortcut : {"A", "B"}
        Where the shape changes: zero padding, or a 1x1 convolution.
    bn, bias : bool
        BatchNorm after every convolution; a bias in those that none follows.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, bn: bool, bias: bool):
        super().__init__()
        norm = nn.BatchNorm2d if bn else nn.Identity
        conv = partial(nn.Conv2d, bias=bias and not bn)
        self.conv1 = conv(inputs, outputs, 3, stride=stride, padding=1)
        self.bn1 = norm(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(outputs, outputs, 3, padding=1)
        self.bn2 = norm(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Sequential(*conv_norm(conv(inputs, outputs, 1, stride=stride), bn))
            self.downsample = projection if shortcut == "B" else PadShortcut(outputs - inputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.downsample(x))


def resnet8(num_classes: int, in_channels: int, width: float, *, bn: bool = True, bias: bool = True) -> nn.Sequential:
    """HMT's ResNet-8: a stem of 64 channels, then one block each of 64, 128 and 256, all of stride 2.

    Parameters
    ----------
    num_classes, in_channels, width
        As `hetlib.zoo.build`.
    bn, bias : bool
        BatchNorm after every convolution; a bias in the Linear and in convolutions that no BatchNorm follows.
    """
    stages = [(64, 1, 2), (128, 1, 2), (256, 1, 2)]
    return _resnet(64, stages, num_classes, in_channels, width, "B", bn, bias)


def resnet_cifar(
    blocks: int,
    /,
    num_classes: int,
    in_channels: int,
    width: float,
    *,
    shortcut: str = "A",
    bn: bool = True,
    bias: bool = True,
) -> nn.Sequential:
    """ResNet-(6 `blocks` + 2) of He et al. for CIFAR: stages of 16, 32 and 64 channels, Kaiming-normal weights.

    Parameters
    ----------
    blocks : int
        Blocks a stage.
    num_classes, in_channels, width
        As `hetlib.zoo.build`.
    shortcut : {"A", "B"}
        Where the shape changes: zero padding without parameters, or a 1x1 convolution.
    bn, bias : bool
        BatchNorm after every convolution; a bias in the Linear and in convolutions that no BatchNorm follows.
    """
    known("shortcut", shortcut, ["A", "B"])
    stages = [(16, blocks, 1), (32, blocks, 2), (64, blocks, 2)]
    model = _resnet(16, stages, num_classes, in_channels, width, shortcut, bn, bias)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


def resnet_wide(
    blocks: Sequence[int],
    /,
    num_classes: int,
    in_channels: int,
    width: float,
    *,
    bn: bool = True,
    bias: bool = True,
) -> nn.Sequential:
    """CLAFusion's ResNet-18 or 34: a 3x3 stem of stride 1, no pool, stages of 64, 128, 256 and 512 channels.

    Parameters
    ----------
    blocks : sequence of int
        Blocks of each of the four stages.
    num_classes, in_channels, width
        As `hetlib.zoo.build`. A width of 0.5 is the paper's "half", 0.25 its "fourth".
    bn, bias : bool
        BatchNorm after every convolution; a bias in the Linear and in convolutions that no BatchNorm follows.
        Both False gives CLAFusion's networks.
    """
    stages = list(zip((64, 128, 256, 512), blocks, (1, 2, 2, 2), strict=True))
    return _resnet(64, stages, num_classes, in_channels, width, "B", bn, bias)


def _resnet(
    stem: int,
    stages: Sequence[tuple[int, int, int]],
    num_classes: int,
    in_channels: int,
    width: float,
    shortcut: str,
    bn: bool,
    bias: bool,
) -> nn.Sequential:
    """Stack stem, stages of (channels, blocks, stride of the first block) and head."""
    channels = scaled(stem, width)
    model = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias and not bn),
        bn1=nn.BatchNorm2d(channels) if bn else nn.Identity(),
        relu=nn.ReLU(),
    )
    for number, (wanted, blocks, stride) in enumerate(stages, 1):
        outputs = scaled(wanted, width)
        shapes = [(channels, stride)] + [(outputs, 1)] * (blocks - 1)
        model[f"layer{number}"] = nn.Sequential(
            *(BasicBlock(inputs, outputs, step, shortcut, bn, bias) for inputs, step in shapes)
        )
        channels = outputs
    return nn.Sequential(OrderedDict(model, **head(channels, num_classes, bias)))
