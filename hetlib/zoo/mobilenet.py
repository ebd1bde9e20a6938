"""MobileNetV2 for small images, as filter grafting trains it on CIFAR."""

from collections import OrderedDict

from torch import Tensor, nn

from hetlib.zoo.layers import head, scaled

# Expansion, channels, blocks, stride of the first block. Unlike in the ImageNet network, the stem and the stage
# of 24 channels have stride 1.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without activation; add a shortcut if stride is 1.

    Unlike in the ImageNet network, a block of stride 1 that changes the number of channels has a shortcut too,
    with a 1x1 convolution in it.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after.
    expansion : int
        Channels inside, as a multiple of `inputs`.
    stride : int
        Of the 3x3 convolution.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        inner = expansion * inputs
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.adds = stride == 1
        self.downsample: nn.Module = nn.Identity()
        if self.adds and inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        return out + self.downsample(x) if self.adds else out


def mobilenetv2(num_classes: int, in_channels: int, width: float) -> nn.Sequential:
    """MobileNetV2 with a stem of stride 1: 2.30 M parameters for ten classes.

    It has 57 convolutions. The 17,088 filters of the grafting paper are those of the 53 outside `downsample`.

    Parameters
    ----------
    num_classes, in_channels, width
        As `hetlib.zoo.build`; `width` scales stem, block outputs and the last 1,280 channels.
    """
    channels, last = scaled(32, width), scaled(1280, width)
    model = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(channels),
        relu1=nn.ReLU(),
    )
    for number, (expansion, wanted, blocks, stride) in enumerate(STAGES, 1):
        outputs = scaled(wanted, width)
        shapes = [(channels, stride)] + [(outputs, 1)] * (blocks - 1)
        model[f"layer{number}"] = nn.Sequential(
            *(InvertedResidual(inputs, outputs, expansion, step) for inputs, step in shapes)
        )
        channels = outputs
    model.update(conv2=nn.Conv2d(channels, last, 1, bias=False), bn2=nn.BatchNorm2d(last), relu2=nn.ReLU())
    return nn.Sequential(OrderedDict(model, **head(last, num_classes)))
