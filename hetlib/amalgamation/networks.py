"""The paper's networks: torchvision's ResNet-18, as wide as the paper has it."""

from torch import nn


def resnet18(outputs: int, first: int = 64) -> nn.Module:
    """torchvision's ResNet-18 for images of 224 pixels, with random weights.

    Parameters
    ----------
    outputs : int
        Of the last Linear.
    first : int
        Channels of the first stage, of which the others have 2, 4 and 8 times as many: 64 in the paper's sources and
        components, 90 in its targets for attributes, 72 in those for classes.

    Returns
    -------
    nn.Module
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=outputs)
    if first == 64:
        return model
    scaled = lambda channels: channels * first // 64 if channels % 64 == 0 else channels
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.in_channels, module.out_channels = scaled(module.in_channels), scaled(module.out_channels)
            shape = (module.out_channels, module.in_channels, *module.kernel_size)
            module.weight = nn.Parameter(module.weight.new_empty(shape))
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for block in model.modules():
        for name, norm in block.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                setattr(block, name, nn.BatchNorm2d(scaled(norm.num_features)))
    model.fc = nn.Linear(8 * first, outputs)
    return model
