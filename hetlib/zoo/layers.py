"""What the families share: scaled widths, checked numbers, and the guard that looks at a network's input."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from hetlib.errors import positive


def scaled(channels: int, width: float) -> int:
    """Number of channels of a layer in a network `width` times as wide, rounded half up.

    Raises
    ------
    ValueError
        If no channel would be left.
    """
    number = int(positive("a number of channels", channels) * width + 0.5)
    if number < 1:
        raise ValueError(
            f"width {width} leaves none of a layer's {channels} channels; "
            f"this layer needs a width of at least 1/{2 * channels}"
        )
    return number


def conv_norm(conv: nn.Conv2d, bn: bool) -> Iterable[nn.Module]:
    """Yield `conv` and, with `bn`, the BatchNorm of its output."""
    yield conv
    if bn:
        yield nn.BatchNorm2d(conv.out_channels)


def head(features: int, num_classes: int, bias: bool = True) -> dict[str, nn.Module]:
    """Global average pool, then one Linear: the end of every convolutional network of the zoo."""
    return {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(features, num_classes, bias=bias),
    }


@dataclass(frozen=True)
class ImageGuard:
    """Forward pre-hook that names the network, what it takes and what it got.

    A hook rather than a line in `forward`, because torch.fx would trace (and choke on) a test of shapes.
    """

    name: str
    channels: int
    smallest: int

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        images = next(iter(inputs), None)
        if not isinstance(images, Tensor):
            return
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != self.channels:
            raise ValueError(
                f"{self.name} takes images of {self.channels} channels, "
                f"shape (n, {self.channels}, height, width); got shape {shape}"
            )
        if min(shape[2:]) < self.smallest:
            raise ValueError(
                f"{self.name} takes images of {self.smallest} x {self.smallest} pixels or more; "
                f"got {shape[2]} x {shape[3]}"
            )


@dataclass(frozen=True)
class FeatureGuard:
    """The same for a network that flattens its input."""

    name: str
    features: int

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        images = next(iter(inputs), None)
        if not isinstance(images, Tensor):
            return
        features = images.shape[1:].numel()
        if features != self.features:
            raise ValueError(
                f"{self.name} takes {self.features} numbers an image; got {features}, "
                f"shape {tuple(images.shape)}: build it with in_features={features}"
            )
