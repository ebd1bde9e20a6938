"""Networks and images that the tests of this folder share."""

import copy

import torch

from hetlib import zoo
from hetlib.chain import chain, evaluating
from hetlib.merging import update_bn


def build(name, seed=0, **options):
    """A network whose biases and batch norms are anything but idle."""
    torch.manual_seed(seed)
    model = zoo.build(name, 10, **options)
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if key.endswith("bias"):
                value.normal_(0, 0.1)
            elif value.ndim == 1 and value.is_floating_point() and "mean" not in key:
                value.uniform_(0.7, 1.4)
            elif value.ndim == 1 and value.is_floating_point():
                value.normal_(0, 0.1)
    return model


def mlp(*hidden, seed=0, bias=True, in_features=16):
    return build("mlp", seed, in_channels=1, in_features=in_features, hidden=hidden, bias=bias)


def plain(name, seed=0, width=1 / 16, **options):
    return build(name, seed, width=width, **{"bn": False, "bias": False} | options)


def pictures(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def digits(count=40):
    return pictures(count, 1, 4, 4)


def run(model, images):
    with evaluating(model):
        return model(images)


def gap(one, other, images):
    return (run(one, images) - run(other, images)).abs().max().item()


def permuted(model, seed=1):
    """A copy whose channels stand in another order, whatever moves together moving together."""
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(model)
    state = copied.state_dict()
    for group in chain(copied).axes:
        if group.fixed is None:
            group.permute_(state, torch.randperm(group.size, generator=generator))
    copied.load_state_dict(state)
    return copied


def settled(name, seed=0, width=1 / 8, **options):
    """A network whose batch norms have the statistics of some images."""
    torch.manual_seed(seed)
    model = zoo.build(name, width=width, **options)
    update_bn(model, pictures(40, 3, 32, 32, seed=seed + 10))
    return model.eval()
