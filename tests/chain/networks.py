"""Networks that the tests of this folder read."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from hetlib import zoo
from tests.conftest import redraw


class Net(nn.Module):
    """Modules by name, and a function of them and the images."""

    def __init__(self, rule, **modules):
        super().__init__()
        self.rule = rule
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.rule(self, x)


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def gated(m, x):
    value, gate = m.conv(x).chunk(2, 1)
    return m.fc((value * torch.sigmoid(gate)).mean((2, 3)))


def excited(m, x):
    x = m.conv(x)
    gate = m.up(m.down(x.mean((2, 3), keepdim=True)).relu())
    return m.fc((x * torch.sigmoid(gate)).mean([-1, -2]))


def joined_with_itself(m, x):
    x = m.conv(x)
    return m.fc(torch.cat([x, x.relu(), -1 * x], dim=1).mean((2, 3)))


def parted(m, x):
    small, large = m.conv(x).split([3, 5], 1)
    return m.fc((m.one(small) + m.two(large)[:, 2:6]).mean((2, 3)))


def halved(m, x):
    x = m.conv(x)
    return m.fc(torch.cat([x[:, :4].relu(), x[:, 4:].tanh()], 1).mean((2, 3)))


def dense(m, x):
    x = m.one(x)
    return m.fc(m.flat(m.pool(m.norm(torch.cat([x, m.two(x.relu())], 1)))))


def residual(m, x):
    x = m.conv(x)
    return m.fc((x + m.two(m.one(x).relu())).mean((2, 3)))


HEAD = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
ODDITIES = {
    "flatten of 2-D maps": lambda: Net(
        lambda m, x: m.fc(m.norm(F.max_pool2d(m.conv(x), 8).flatten(1))),
        conv=conv(3, 5), norm=nn.BatchNorm1d(80), fc=nn.Linear(80, 4),
    ),
    "view with the batch size": lambda: Net(
        lambda m, x: m.fc(F.avg_pool2d(m.conv(x), 8).view(x.size(0), -1)), conv=conv(3, 5), fc=nn.Linear(80, 4)
    ),
    "depthwise with two filters a channel": lambda: Net(
        lambda m, x: m.fc(m.deep(m.conv(x).relu()).mean((2, 3))),
        conv=conv(3, 6), deep=conv(6, 12, groups=6), fc=nn.Linear(12, 4),
    ),
    "gate": lambda: Net(
        gated, conv=conv(3, 12), fc=nn.Linear(6, 4)
    ),
    "squeeze and excite": lambda: Net(
        excited, conv=conv(3, 8), down=conv(8, 3, 1), up=conv(3, 8, 1), fc=nn.Linear(8, 4)
    ),
    "joined with itself": lambda: Net(
        joined_with_itself, conv=conv(3, 5), fc=nn.Linear(15, 4)
    ),
    "the same module twice": lambda: Net(
        lambda m, x: m.fc(m.twice(m.twice(m.conv(x)).relu()).mean((2, 3))),
        conv=conv(3, 6), twice=conv(6, 6), fc=nn.Linear(6, 4),
    ),
    "uneven split and slice": lambda: Net(
        parted, conv=conv(3, 8), one=conv(3, 4), two=conv(5, 9), fc=nn.Linear(4, 4)
    ),
    "each half its own way": lambda: Net(
        halved, conv=conv(3, 8), fc=nn.Linear(8, 4)
    ),
    "softmax over channels": lambda: Net(
        lambda m, x: m.fc(m.conv(x).softmax(1).mean((2, 3))), conv=conv(3, 8), fc=nn.Linear(8, 4)
    ),
    "norms and slopes": lambda: Net(
        lambda m, x: m.fc(m.slope(m.group(m.two(m.instance(m.conv(x))))).mean((2, 3))),
        conv=conv(3, 6), instance=nn.InstanceNorm2d(6, affine=True), two=conv(6, 8),
        group=nn.GroupNorm(1, 8), slope=nn.PReLU(8), fc=nn.Linear(8, 4),
    ),
    "dense block": lambda: Net(
        dense, one=conv(3, 5), two=conv(5, 4), norm=nn.BatchNorm2d(9), **HEAD, fc=nn.Linear(9, 4),
    ),
    "residual": lambda: Net(
        residual, conv=conv(3, 6), one=conv(6, 4), two=conv(4, 6), fc=nn.Linear(6, 4),
    ),
}  # fmt: skip
TORCHVISION = ["vgg11", "vgg16_bn", "resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1", "densenet121"]
NARROW = {"vgg8", "vgg11", "vgg13", "vgg16", "vgg19", "resnet8", "resnet18", "resnet34", "mobilenetv2", "mlp"}
SUPPORTED = [*ODDITIES, *zoo.names(), *(f"torchvision/{name}" for name in TORCHVISION)]


def torchvision_model(name):
    """Without drawing weights that are overwritten anyway, and without VGG's 100 million in the classifier."""
    from torchvision import models

    options = (
        {} if "resnet" in name or "mobile" in name or "dense" in name or "squeeze" in name else {"init_weights": False}
    )
    with torch.device("meta"):
        model = models.get_model(name, num_classes=10, **options)
    if hasattr(model, "avgpool") and "vgg" in name:
        model.classifier[0], model.classifier[3] = nn.Linear(25088, 16), nn.Linear(16, 16)
        model.classifier[6] = nn.Linear(16, 10)
    return model.to_empty(device="cpu")


@cache
def supported(name):
    """The network in float64 with drawn weights and statistics, images for it, and its outputs."""
    generator = torch.Generator().manual_seed(0)
    if name in ODDITIES:
        model, size = ODDITIES[name](), 32
    elif name.startswith("torchvision/"):
        model, size = torchvision_model(name.removeprefix("torchvision/")), 64
    else:
        model, size = zoo.build(name, width=0.25 if name in NARROW else 1.0), 32
    model = redraw(model.double().eval(), generator)
    images = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    return model, images, outputs(model, model.state_dict(), images)


@torch.no_grad()
def outputs(model, state, images):
    return torch.func.functional_call(model, state, (images,))
