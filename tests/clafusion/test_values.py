"""Channels side by side, in parts, in groups and out of order: a network moved onto another one is still itself."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hetlib.chain import eval_chain
from hetlib.clafusion import fuse, map_layers, merge_layers, neuron_plans, transport_neurons
from hetlib.merging import update_bn
from tests.clafusion.networks import pictures
from tests.conftest import redraw


class Net(nn.Module):
    """Two convolutions on the images, a third on what a rule makes of the two, and a classifier."""

    def __init__(self, rule, comes, width=6, **modules):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(3, width, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module(width))
        self.c, self.fc, self.rule = nn.Conv2d(comes * width // 6, 6, 3, padding=1), nn.Linear(6, 4), rule

    def forward(self, x):
        h = self.rule(self, self.a(x).relu(), self.b(x).relu())
        return self.fc(self.c(h).relu().mean((2, 3)))


class Scaled(nn.Module):
    """A layer scale and a layer norm called as a function, behind channels that stand last."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.gain = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        tokens = F.layer_norm(x.permute(0, 2, 3, 1), (len(self.gain),), self.gain) * self.scale
        return tokens.permute(0, 3, 1, 2)


class Turned(nn.Module):
    """Channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Laid(nn.Module):
    """A layer scale that is laid along the channels of maps before it meets them, on their left or their right."""

    def __init__(self, width, first=False):
        super().__init__()
        self.scale, self.first = nn.Parameter(torch.ones(width)), first

    def forward(self, x):
        scale = self.scale.reshape(1, -1, 1, 1)
        return scale * x if self.first else x * scale


class NormAct(nn.BatchNorm2d):
    """A batch norm that holds the activation behind it, as in timm."""

    def __init__(self, width):
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class GroupNormAct(nn.GroupNorm):
    """Likewise, a norm in groups."""

    def __init__(self, width):
        super().__init__(2, width)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps))


class Blur(nn.Module):
    """Every map convolved with one filter that the module holds."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("filters", torch.full((width, 1, 3, 3), 1 / 9), persistent=False)

    def forward(self, x):
        x = F.pad(x, [1, 1, 1, 1], mode="reflect")
        return F.conv2d(x, self.filters, stride=1, groups=len(self.filters))


class Gained(nn.Conv2d):
    """A convolution with a gain of four axes for each filter."""

    def __init__(self, width):
        super().__init__(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(width, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.gain, self.bias, padding=1)


class OneGain(nn.Conv2d):
    """A convolution with one gain for all filters."""

    def __init__(self, width):
        super().__init__(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.gain


class Masked(nn.Conv2d):
    """A convolution with a number for each filter that is no parameter."""

    def __init__(self, width):
        super().__init__(width, width, 3, padding=1)
        self.register_buffer("mask", torch.ones(width, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class Shifted(nn.BatchNorm2d):
    """A batch norm with a second shift of its own."""

    def __init__(self, width):
        super().__init__(width)
        self.shift = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x):
        return (super().forward(x) + self.shift).relu()


class Factor(nn.Module):
    """A product with a number that is no parameter."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x):
        return x * self.factor


class Chosen(nn.Module):
    """A module that chooses its forward when it is made, as in timm."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)
        self.forward = self.simple

    def simple(self, x):
        return self.conv(x)


def conv(times=1, out=1, **options):
    return lambda width: nn.Conv2d(times * width, out * width, 3, padding=1, **options)


def shuffled(m, a, b):
    h = torch.cat([a, b], 1)
    n, c, height, width = h.shape
    return h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)


def dense(m, a, b):
    h = torch.cat([a, b], 1)
    h = torch.cat([h, m.d(m.n(h).relu())], 1)
    return m.o(h).relu()


def two_by_two(m, a, b):
    low, high = m.d(torch.cat([a, b], 1)).chunk(2, 1)
    return torch.cat([high.relu(), m.e(low).tanh()], 1)


def res2(m, a, b):
    low, high = m.d(a).chunk(2, 1)
    made = m.h(low)
    return torch.cat([made, m.i(high + made)], 1)


def context(m, a, b):
    """Global context: a sum over all places, by the weights that a map of one channel says."""
    weights = m.k(b).flatten(2).softmax(-1).unsqueeze(3)
    return a + (a.flatten(2).unsqueeze(1) @ weights).view(*a.shape[:2], 1, 1)


def some_added(m, a, b):
    h = m.d(b)
    return torch.cat([h[:, : a.shape[1]] + a, h[:, a.shape[1] :]], 1)


NETS = {
    "side by side": (lambda m, a, b: torch.cat([a, b], 1), 12, {}),
    "a norm on both": (lambda m, a, b: m.n(torch.cat([a, b], 1)), 12, {"n": lambda w: nn.BatchNorm2d(2 * w)}),
    "dense": (
        dense,
        18,
        {"n": lambda w: nn.BatchNorm2d(2 * w), "d": conv(2), "o": lambda w: nn.BatchNorm2d(3 * w)},
    ),
    "twice the same": (lambda m, a, b: torch.cat([a, b, a], 1), 18, {}),
    "depthwise on both": (lambda m, a, b: m.d(torch.cat([a, b], 1)), 12, {"d": lambda w: conv(2, 2, groups=2 * w)(w)}),
    "depthwise, two each": (lambda m, a, b: m.d(a + b), 12, {"d": lambda w: conv(1, 2, groups=w)(w)}),
    "a gate on both": (
        lambda m, a, b: (lambda h: h * m.d(h.mean((2, 3), keepdim=True)).sigmoid())(torch.cat([a, b], 1)),
        12,
        {"d": conv(2, 2)},
    ),
    "in groups": (lambda m, a, b: m.d(a + b).relu(), 6, {"d": conv(groups=2)}),
    "groups across both": (lambda m, a, b: m.d(torch.cat([b, a], 1)).relu(), 12, {"d": conv(2, 2, groups=4)}),
    "shuffled": (shuffled, 12, {}),
    "groups after a shuffle": (lambda m, a, b: m.d(shuffled(m, a, b)).relu(), 6, {"d": conv(2, groups=2)}),
    "torch's shuffle": (lambda m, a, b: m.s(torch.cat([a, b], 1)), 12, {"s": lambda w: nn.ChannelShuffle(3)}),
    "parts": (two_by_two, 6, {"d": conv(2), "e": lambda w: nn.Conv2d(w // 2, w // 2, 1)}),
    "halves that meet": (lambda m, a, b: (lambda h: h[0] * h[1].sigmoid())(m.d(a + b).chunk(2, 1)), 3, {"d": conv()}),
    "a sum with a part": (
        res2,
        6,
        {"d": conv(), "h": lambda w: nn.Conv2d(w // 2, w // 2, 1), "i": lambda w: nn.Conv2d(w // 2, w // 2, 1)},
    ),
    "slopes": (lambda m, a, b: m.p(a - b), 6, {"p": nn.PReLU}),
    "a norm in groups": (lambda m, a, b: m.g(a - b), 6, {"g": lambda w: nn.GroupNorm(2, w)}),
    "a norm over channels": (lambda m, a, b: m.g(torch.cat([a, b], 1)), 12, {"g": lambda w: nn.GroupNorm(1, 2 * w)}),
    "scales": (lambda m, a, b: m.s(a - b), 6, {"s": Scaled}),
    "crossed": (lambda m, a, b: torch.cat([a, b], 1) * torch.cat([b, a], 1), 12, {}),
    "scales on maps": (lambda m, a, b: m.s(torch.cat([a, b], 1)), 12, {"s": lambda w: Laid(2 * w)}),
    "scales before maps": (lambda m, a, b: m.s(torch.cat([a, b], 1)), 12, {"s": lambda w: Laid(2 * w, first=True)}),
    "scales before a stack": (
        lambda m, a, b: m.s(torch.stack([a, b]).amax(0)),
        6,
        {"s": lambda w: Laid(w, first=True)},
    ),
    "one gain for all": (lambda m, a, b: m.d(a - b).relu(), 6, {"d": OneGain}),
    "a norm that activates": (lambda m, a, b: m.n(torch.cat([a, b], 1)), 12, {"n": lambda w: NormAct(2 * w)}),
    "a norm in groups that activates": (lambda m, a, b: m.n(a - b), 6, {"n": GroupNormAct}),
    "blurred": (lambda m, a, b: m.f(a - b), 6, {"f": Blur}),
    "gained": (lambda m, a, b: m.d(a - b).relu(), 6, {"d": Gained}),
    "a forward that is chosen": (lambda m, a, b: m.d(a - b).relu(), 6, {"d": Chosen}),
    "stacked": (lambda m, a, b: torch.stack([a, b, a * b], 1).amax(1), 6, {}),
    "places weighed": (context, 6, {"k": lambda w: nn.Conv2d(w, 1, 1)}),
    "three branches": (
        lambda m, a, b: (m.d(a) + m.e(a) + a + b).relu(),
        6,
        {"d": conv(), "e": lambda w: nn.Conv2d(w, w, 1)},
    ),
    "a module called again": (
        lambda m, a, b: (lambda h: m.d(h) + m.r(h))(m.r(a) + b),
        6,
        {"d": conv(), "r": lambda w: nn.ReLU()},
    ),
    "a sum with some": (some_added, 12, {"d": conv(1, 2)}),
    "padded": (lambda m, a, b: F.pad(torch.cat([a, b], 1), (0, 0, 0, 0, 2, 1)), 15, {}),
}


SHORTCUTS = ("a sum with a part", "a sum with some", "a module called again", "three branches")


def net(kind, seed, width=6):
    rule, comes, modules = NETS[kind]
    torch.manual_seed(seed)
    made = Net(rule, comes, width, **modules)
    return redraw(made.double(), torch.Generator().manual_seed(seed)).eval()


@pytest.mark.parametrize("options", [{}, {"tie": True}, {"by": "weights"}, {"last": True}], ids=str)
@pytest.mark.parametrize("kind", NETS)
def test_a_moved_network_computes_what_it_did(kind, options):
    if kind in SHORTCUTS and "tie" not in options:
        pytest.skip("a shortcut, at which untied neurons may meet others")
    a, b, images = net(kind, 0), net(kind, 1), pictures(40, 3, 6, 6).double()
    wanted = copy.deepcopy(a)
    update_bn(wanted, images)
    moved = transport_neurons(a, b, images, **options)
    values = wanted(images)
    found = moved(images)
    if "last" in options:  # classes may have changed places
        values, found = values.sort(1).values, found.sort(1).values
    torch.testing.assert_close(found, values, rtol=1e-9, atol=1e-9)
    assert not all(map(torch.equal, moved.parameters(), a.parameters()))


@pytest.mark.parametrize("kind", NETS)
def test_a_network_fused_with_its_permuted_twin_is_itself(kind):
    a, images = net(kind, 0), pictures(40, 3, 6, 6).double()
    twin, state = copy.deepcopy(a), a.state_dict()
    free = [group for group in eval_chain(a, images).axes if not group.fixed]
    for group in free:
        group.permute_(state, torch.arange(group.size).roll(1))
    twin.load_state_dict(state)
    update_bn(a, images)
    torch.testing.assert_close(fuse([a, twin], images)(images), a(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in NETS if kind != "padded"])
def test_networks_of_other_widths_move_too(kind):
    a, b, images = net(kind, 0, 12), net(kind, 1, 6), pictures(40, 3, 6, 6).double()
    for pair in ((a, b), (b, a)):
        moved = transport_neurons(*pair, images)
        assert [p.shape for p in moved.parameters()] == [p.shape for p in pair[1].parameters()]
        assert moved(images).isfinite().all()


def laid(vector):
    return vector.view(1, -1, 1, 1)


UNMET = {
    "two scales multiplied": (lambda m, h: h * (laid(m.g) * laid(m.h)), 6),
    "two scales side by side": (lambda m, h: h * torch.cat([laid(m.g), laid(m.h)], 1), 3),
    "the mean of two scales": (lambda m, h: h * torch.stack([laid(m.g), laid(m.h)]).mean(0), 6),
    "a scale out of order": (lambda m, h: h * F.channel_shuffle(laid(m.g), 2) * m.h.sum(), 6),
    "a scale moved along": (lambda m, h: h * F.pad(laid(m.g), (0, 0, 0, 0, 1, 0))[:, :6] * m.h.sum(), 6),
    "half of a scale": (lambda m, h: h * laid(m.g).chunk(2, 1)[1] * m.h.sum(), 12),
    "a scale by a layer": (lambda m, h: h * laid(m.c(m.g.view(1, -1)).sigmoid().flatten()) * m.h.sum(), 6),
}


@pytest.mark.parametrize("kind", UNMET)
def test_vectors_that_meet_no_channels_themselves_are_named(kind):
    """Their channels may be free, but which plan they follow is not known."""
    rule, count = UNMET[kind]

    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 6), nn.Linear(6, 4)
            self.g, self.h = nn.Parameter(torch.ones(count)), nn.Parameter(torch.ones(count))

        def forward(self, x):
            return self.fc(self.b(rule(self, self.a(x))).relu().mean((2, 3)))

    nets = [redraw(Scales().double(), torch.Generator().manual_seed(seed)).eval() for seed in (0, 1)]
    with pytest.raises(ValueError, match=r"^[gh]( \(Scales\))? (meets no value|cannot be moved)"):
        fuse(nets, pictures(9, 3, 8, 8).double())


UNMOVED = {
    "another filter": (lambda m, a, b: m.d(a - b), Blur, r"d\.filters is another constant in the source"),
    "another number": (lambda m, a, b: m.d(a - b), Factor, r"d\.factor is another constant in the source"),
    "a mask": (lambda m, a, b: m.d(a - b), Masked, r"d\.mask \(Masked\) is a buffer with a number for each channel"),
    "a shift": (lambda m, a, b: m.d(m.o(a - b)), Shifted, r"d\.shift is in a norm directly behind a layer"),
}


@pytest.mark.parametrize("kind", UNMOVED)
def test_what_no_plan_moves_is_named(kind):
    rule, module, why = UNMOVED[kind]
    nets = []
    for seed in (0, 1):
        made = Net(rule, 6, d=module, o=conv()).double()
        nets.append(redraw(made, torch.Generator().manual_seed(seed)).eval())
    if kind == "another filter":
        nets[0].d.filters.mul_(torch.arange(9).view(3, 3))
    if kind == "another number":
        nets[0].d.factor.fill_(2)
    with pytest.raises(ValueError, match=why):
        transport_neurons(*nets, pictures(9, 3, 6, 6).double())


@pytest.mark.parametrize("last", [False, True])
def test_norms_behind_a_flatten_move_too(last):
    def network(seed):
        torch.manual_seed(seed)
        turned = [Turned()] if last else []
        tail = nn.Flatten(), nn.BatchNorm1d(5 * 16), nn.ReLU(), nn.Linear(5 * 16, 3)
        return redraw(nn.Sequential(nn.Conv2d(3, 5, 3), *turned, *tail).double(), torch.Generator().manual_seed(seed))

    a, b, images = network(0).eval(), network(1).eval(), pictures(40, 3, 6, 6).double()
    moved = transport_neurons(a, b, images)
    update_bn(a, images)
    torch.testing.assert_close(moved(images), a(images), rtol=1e-9, atol=1e-9)


def test_a_bias_that_one_network_alone_has_is_named():
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3)) for bias in (True, False)
    ]
    for pair in (nets, nets[::-1]):
        with pytest.raises(ValueError, match=r"only one of the two networks has 1\.bias"):
            transport_neurons(*pair, torch.rand(9, 1, 2, 2))


def test_a_scale_that_one_network_alone_has_is_named():
    def network(affine):
        return nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, affine=affine)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        )

    for pair in ((True, False), (False, True)):
        with pytest.raises(ValueError, match=r"only one of the two networks has 2\.weight"):
            transport_neurons(*map(network, pair), pictures(9, 3, 6, 6))


def test_plans_keep_neurons_in_their_groups():
    a, b, images = net("in groups", 0), net("in groups", 1), pictures(40, 3, 6, 6).double()
    plans = dict(zip([layer.name for layer in eval_chain(a).layers], neuron_plans(a, b, images), strict=False))
    assert plans["d"][:3, 3:].sum() == plans["d"][3:, :3].sum() == 0
    assert float(plans["d"].sum()) == pytest.approx(1)
    assert torch.equal(plans["d"] > 0, plans["d"] == plans["d"].max())


def test_norms_elsewhere_take_equal_depth():
    def network(*more):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *more, nn.BatchNorm2d(8), *head)

    deep = network(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    images = pictures(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"4\.weight is not directly behind a layer: that takes"):
        fuse([deep, network()], images)
    perceptrons = [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.PReLU(), *middle, nn.Linear(5, 3))
        for middle in ((nn.Linear(5, 5), nn.PReLU()), ())
    ]
    found = map_layers(*perceptrons, torch.rand(20, 1, 2, 2), mapping=(0,))
    with pytest.raises(ValueError, match=r"2\.weight, 4\.weight, 2\.weight are in no layer"):
        merge_layers(found, torch.rand(20, 1, 2, 2))
