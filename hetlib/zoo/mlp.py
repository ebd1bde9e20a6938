"""Multilayer perceptrons, the networks of OTFusion's and CLAFusion's MNIST experiments."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from hetlib.errors import positive, whole_numbers
from hetlib.zoo.layers import scaled


def mlp(
    num_classes: int,
    in_channels: int,
    width: float,
    *,
    hidden: Sequence[int] = (400, 200, 100),
    in_features: int | None = None,
    bias: bool = True,
) -> nn.Sequential:
    """Flatten, [Linear, ReLU] for each hidden layer, Linear; the layers are called `fc1`, `fc2`, ...

    The output are logits; the papers' log-softmax belongs to the loss.

    Parameters
    ----------
    num_classes, in_channels, width
        As `hetlib.zoo.build`; `width` scales the hidden layers.
    hidden : sequence of int
        Neurons of each hidden layer; none gives a linear classifier.
    in_features : int, optional
        Numbers an image holds: 784 for MNIST, 64 for digits. Default `in_channels` * 32 * 32.
    bias : bool
        A bias in every Linear.
    """
    inputs = in_channels * 32 * 32 if in_features is None else positive("in_features", in_features)
    model = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    hidden = whole_numbers("hidden", hidden, 1)
    for number, neurons in enumerate(hidden, 1):
        outputs = scaled(neurons, width)
        model[f"fc{number}"] = nn.Linear(inputs, outputs, bias=bias)
        model[f"relu{number}"] = nn.ReLU()
        inputs = outputs
    model[f"fc{len(hidden) + 1}"] = nn.Linear(inputs, num_classes, bias=bias)
    return nn.Sequential(model)
