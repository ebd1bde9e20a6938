"""The model zoo: the networks of the five papers by name, made for small images.

>>> from hetlib import zoo
>>> model = zoo.build("resnet20", num_classes=100, width=0.5)
"""

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature

from torch import nn

from hetlib.errors import finite, known, of_kind, positive, unknown
from hetlib.zoo import plain, resnet
from hetlib.zoo.layers import FeatureGuard, ImageGuard
from hetlib.zoo.mlp import mlp
from hetlib.zoo.mobilenet import mobilenetv2
from hetlib.zoo.torchvision_width import WIDENED, widen

_TORCHVISION = "torchvision/"
_BUILDERS: dict[str, Callable[..., nn.Sequential]] = {
    "mlp": mlp,
    "plainnet5": plain.plainnet5,
    "vgg8": partial(plain.vgg, widths=plain.VGG8),
    "vgg11": partial(plain.vgg, widths=plain.VGG11),
    "vgg13": partial(plain.vgg, widths=plain.VGG13),
    "vgg16": partial(plain.vgg, widths=plain.VGG16),
    "vgg19": partial(plain.vgg, widths=plain.VGG19),
    "resnet8": resnet.resnet8,
    "resnet20": partial(resnet.resnet_cifar, 3),
    "resnet32": partial(resnet.resnet_cifar, 5),
    "resnet44": partial(resnet.resnet_cifar, 7),
    "resnet56": partial(resnet.resnet_cifar, 9),
    "resnet110": partial(resnet.resnet_cifar, 18),
    "resnet18": partial(resnet.resnet_wide, (2, 2, 2, 2)),
    "resnet34": partial(resnet.resnet_wide, (3, 4, 6, 3)),
    "mobilenetv2": mobilenetv2,
}


def names() -> list[str]:
    """List the zoo's own models; "torchvision/<name>" reaches torchvision's besides."""
    return list(_BUILDERS)


def build(name: str, num_classes: int = 10, in_channels: int = 3, width: float = 1.0, **options: object) -> nn.Module:
    """Build a network with fresh random weights.

    Parameters
    ----------
    name : str
        One of `names()`, or "torchvision/<name>" for a classifier of torchvision (weights not pretrained).
    num_classes : int
        Outputs of the last Linear.
    in_channels : int
        Channels of the images.
    width : float
        Factor on every hidden layer's number of channels or neurons, rounded; of torchvision's networks for the
        ResNet-18 and 34 only.
    **options
        What the family takes: `bn` and `bias` (the mlp only `bias`, mobilenetv2 neither), `hidden` and
        `in_features` (mlp), `kernel_size` (plainnet5), `widths` and `image_size` (vgg), `shortcut`
        (resnet20 to resnet110). The builders in this package's modules describe them. Options of
        torchvision's models are torchvision's.

    Returns
    -------
    nn.Module
        Images of shape (n, in_channels, height, width) to logits of shape (n, num_classes). It can be traced
        with `torch.fx`. The zoo's own refuse images that do not fit with a ValueError that says which would.

    Raises
    ------
    ValueError
        If the name or an option is unknown (the nearest ones are named), or a number is out of range.
    """
    positive("num_classes", num_classes)
    positive("in_channels", in_channels)
    finite("width", width, above=0)
    of_kind("the name of a model", name, str)
    if name.startswith(_TORCHVISION):
        return _from_torchvision(name, num_classes, in_channels, width, options)
    if name not in _BUILDERS:
        raise unknown("model", name, [*names(), f"{_TORCHVISION}<name>"])
    builder = _BUILDERS[name]
    parameters = signature(builder).parameters.values()
    valid = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        known(f"option of {name}", option, valid or ["(none)"])
    model = builder(num_classes, in_channels, width, **options)
    model.register_forward_pre_hook(_guard(name, model, in_channels))
    return model


def _guard(name: str, model: nn.Sequential, in_channels: int) -> ImageGuard | FeatureGuard:
    if name == "mlp":
        return FeatureGuard(name, next(m.in_features for m in model if isinstance(m, nn.Linear)))
    # Only pools need an image of a certain size: strided convolutions are padded and take a single pixel.
    pools = sum(isinstance(module, nn.MaxPool2d) for module in model.modules())
    return ImageGuard(name, in_channels, 2**pools)


def _from_torchvision(
    name: str, num_classes: int, in_channels: int, width: float, options: dict[str, object]
) -> nn.Module:
    from torchvision import models

    short = name.removeprefix(_TORCHVISION)
    known("torchvision model", short, models.list_models(module=models))
    if in_channels != 3 or (width != 1.0 and short not in WIDENED):
        raise ValueError(f"{name} takes in_channels=3 and width=1.0 only, got {in_channels} and {width}")
    try:
        model = models.get_model(short, weights=None, num_classes=num_classes, **options)
    except TypeError as error:
        raise ValueError(f"{name} does not take these options: {', '.join(options)}") from error
    return model if width == 1.0 else widen(model, width)
