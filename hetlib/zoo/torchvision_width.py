"""torchvision's ResNets of basic blocks made wider or narrower, which torchvision itself does not do."""

from typing import TYPE_CHECKING

from torch import nn

from hetlib.zoo.layers import scaled

if TYPE_CHECKING:
    from torchvision.models import ResNet

WIDENED = ("resnet18", "resnet34")


def widen(model: "ResNet", width: float) -> nn.Module:
    """Make every hidden layer of one of the networks `WIDENED` so many times as wide, with new random weights.

    Weights are drawn as torchvision draws them. Knowledge amalgamation's targets are ResNets of width 90/64 and 72/64.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            inputs, outputs = (scaled(channels, width) for channels in (module.in_channels, module.out_channels))
            module.in_channels, module.out_channels = 3 if module is model.conv1 else inputs, outputs
            weight = module.weight.new_empty(module.out_channels, module.in_channels, *module.kernel_size)
            module.weight = nn.Parameter(weight)
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for block in model.modules():
        for name, norm in block.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                setattr(block, name, nn.BatchNorm2d(scaled(norm.num_features, width)))
    model.fc = nn.Linear(scaled(model.fc.in_features, width), model.fc.out_features)
    return model
