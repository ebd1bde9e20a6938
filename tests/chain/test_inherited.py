"""Subclasses of torch's layers in the graph."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hetlib.chain import chain
from tests.chain.networks import Net, outputs
from tests.conftest import redraw


class Plain(nn.Conv2d):
    """Adds nothing."""


class Standardised(nn.Conv2d):
    """Weight standardisation with a gain for each filter."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x):
        spread, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(
            x, self.gain * (self.weight - mean) / spread, self.bias, padding=self.padding, groups=self.groups
        )


class Shuffling(nn.Conv2d):
    """Puts its channels out in another order each time it is asked for more."""

    def forward(self, x):
        return super().forward(x) * torch.arange(1, self.out_channels + 1).view(-1, 1, 1)


class NormAct(nn.BatchNorm2d):
    """A norm and its activation."""

    def forward(self, x):
        return super().forward(x).relu()


class Bent(nn.ReLU):
    """Adds nothing."""


def network(kind, norm=nn.BatchNorm2d):
    return Net(
        lambda m, x: m.fc(m.pool(m.act(m.norm(m.two(m.act(m.one(x)))))).flatten(1)),
        one=kind(3, 6, 3, padding=1), two=kind(6, 6, 3, padding=1), norm=norm(6), act=Bent(),
        pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(6, 3),
    )  # fmt: skip


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, NormAct])
@pytest.mark.parametrize("kind", [nn.Conv2d, Plain, Standardised])
def test_subclasses_are_what_they_inherit(kind, norm):
    model = redraw(network(kind, norm).double().eval(), torch.Generator().manual_seed(0))
    found = chain(model)
    assert [layer.name for layer in found.layers] == ["one", "two", "fc"]
    assert found.layers[1].norm == "norm"
    assert [layer.name for layer in found.longest()] == ["one", "two"]
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    free = [group for group in found.axes if not group.fixed]
    assert [group.size for group in free] == [6, 6]
    assert ("one.gain" in {member.name for member in free[0].members}) == (kind is Standardised)
    for group in free:
        state = model.state_dict()
        group.permute_(state, [1, 2, 3, 4, 5, 0])
        torch.testing.assert_close(outputs(model, state, images), model(images))


@pytest.mark.parametrize("kind", [nn.Conv2d, Plain, Standardised])
def test_subclasses_in_groups_are_what_they_inherit(kind):
    model = network(lambda *sizes, **how: kind(*sizes, groups=sizes[0] // 3, **how))
    model = redraw(model.double().eval(), torch.Generator().manual_seed(0))
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    free = [group for group in chain(model).axes if not group.fixed]
    assert [group.size for group in free] == [3, 3, 3, 3]
    for group in free:
        state = model.state_dict()
        group.permute_(state, [1, 2, 0])
        torch.testing.assert_close(outputs(model, state, images), model(images))


@pytest.mark.parametrize(("kind", "norm", "joint"), [(Standardised, nn.BatchNorm2d, "one"), (Plain, NormAct, "norm")])
def test_what_a_forward_of_its_own_looks_at_is_not_copied(kind, norm, joint):
    groups = [group for group in chain(network(kind, norm)).axes if not group.fixed]
    named = [group.joint for group in groups]
    assert joint in named
    with pytest.raises(ValueError, match=rf"{joint} takes the channels of .* together"):
        groups[named.index(joint)].gather(network(kind, norm).state_dict(), [0, 1, 2, 3, 4, 5, 0])


def test_a_forward_that_treats_channels_each_its_own_way_is_read_instead():
    found = chain(Net(lambda m, x: m.fc(m.one(x).mean((2, 3))), one=Shuffling(3, 4, 3), fc=nn.Linear(4, 2)))
    assert [layer.name for layer in found.layers] == ["fc"]
    assert not [group for group in found.axes if not group.fixed]


def test_arguments_with_defaults_are_what_they_are_in_a_plain_call():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.merge, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(12, 6, 1), nn.Linear(6, 4)

        def forward(self, x, skip=None, *rest, scale=1.0, **more):
            h = self.a(x).relu() * scale
            if skip is not None:
                h = self.merge(torch.cat([h, skip], 1))
            return self.fc(h.mean((2, 3)))

    images = torch.randn(2, 3, 8, 8)
    for example in (None, images):
        assert [layer.name for layer in chain(Decoder(), example).layers] == ["a", "fc"]


def test_two_inputs_wrappers_and_weights_to_come_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x, y):
            return self.fc(x + y)

    plain = nn.Sequential(nn.Linear(3, 2))
    for model, message in [
        (Two(), r"Two takes 2 inputs \(x, y\)"),
        (nn.DataParallel(plain), r"wrapped in DataParallel: pass model\.module"),
        (torch.optim.swa_utils.AveragedModel(plain), r"wrapped in AveragedModel: pass model\.module"),
        (torch.compile(plain, backend="eager"), r"OptimizedModule: pass model\._orig_mod"),
        (nn.Sequential(nn.DataParallel(plain)), r"0 is wrapped in DataParallel: pass model\.0\.module"),
        (nn.Sequential(nn.LazyLinear(3)), r"0 \(LazyLinear\) has no weights yet: run it once"),
    ]:
        with pytest.raises(ValueError, match=message):
            chain(model)


def test_extra_state_that_is_no_tensor_is_passed_over():
    class Extra(nn.Sequential):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass

    images = torch.randn(2, 3, 8, 8)
    for example in (None, images):
        found = chain(Extra(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), example)
        assert [group.size for group in found.axes if not group.fixed] == [4]
        assert ("0.weight", 0) in found.channel_numbers
