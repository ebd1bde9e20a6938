"""Where channels stand after axes moved: networks of random operations, and operations that look alike and are not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hetlib.chain import chain
from tests.chain.networks import Net, conv, outputs
from tests.conftest import redraw

OPERATIONS = {
    "conv": lambda s: conv(s[1], 4) if len(s) == 4 else None,
    "depthwise": lambda s: conv(s[1], s[1], groups=s[1]) if len(s) == 4 else None,
    "in groups": lambda s: conv(s[1], 4, groups=2) if len(s) == 4 and s[1] % 2 == 0 else None,
    "batch norm": lambda s: {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(s)](s[1]),
    "group norm": lambda s: nn.GroupNorm(1, s[1]),
    "norm in groups": lambda s: nn.GroupNorm(2, s[1]) if s[1] % 2 == 0 else None,
    "layer norm": lambda s: nn.LayerNorm(s[-1]),
    "layer norm as a function": lambda s: Normalised(s[-1]),
    "slopes": lambda s: nn.PReLU(s[1]),
    "linear": lambda s: nn.Linear(s[-1], 4),
    "relu": lambda s: nn.ReLU(),
    "softmax": lambda s: nn.Softmax(1),
    "softmax over the last": lambda s: nn.Softmax(-1),
    "flatten": lambda s: lambda x: x.flatten(1),
    "flatten pixels": lambda s: lambda x: x.flatten(2),
    "flatten some": lambda s: lambda x: x.flatten(1, 2),
    "transpose": lambda s: lambda x: x.transpose(1, -1),
    "permute": lambda s: lambda x: x.permute(0, *range(len(s) - 1, 0, -1)),
    "pool": lambda s: nn.AdaptiveAvgPool2d((4, 1)) if len(s) == 4 else None,
    "pool to one": lambda s: nn.AdaptiveAvgPool2d(1) if len(s) == 4 else None,
    "squeeze": lambda s: lambda x: x.squeeze(),
    "squeeze the last": lambda s: lambda x: x.squeeze(-1),
    "mean": lambda s: lambda x: x.mean(-1),
    "mean of axis 1": lambda s: lambda x: x.mean(1, keepdim=True),
    "halves": lambda s: lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], 1) if s[1] > 1 else None,
    "halves the other way": lambda s: lambda x: torch.cat(x.chunk(2, 1)[::-1], 1) if s[1] > 1 else None,
    "both": lambda s: lambda x: torch.cat([x.relu(), x.tanh()], -1),
    "slice": lambda s: lambda x: x[:, 1:] if s[1] > 1 else None,
    "reshape": lambda s: lambda x: x.reshape(x.shape[0], s[1], -1),
    "rows": lambda s: lambda x: x.reshape(-1, s[-1]).reshape(-1, *s[1:]),
    "fold": lambda s: lambda x: x.reshape(-1, 4, x.shape[1]) if len(s) == 3 and s[2] == 4 else None,
    "shuffle": lambda s: table(s, lambda x: x.transpose(1, 2)),
    "torch's shuffle": lambda s: nn.ChannelShuffle(2) if len(s) == 4 and s[1] % 2 == 0 else None,
    "shuffle and more": lambda s: table(s, lambda x: x.transpose(1, 2).contiguous().relu().transpose(-1, -2)),
    "softmax in a table": lambda s: table(s, lambda x: x.softmax(2)),
    "mean in a table": lambda s: table(s, lambda x: x - x.mean(1, keepdim=True)),
    "turned in a table": lambda s: table(s, lambda x: x.permute(0, 2, *range(3, len(s) + 1), 1)),
    "stack ahead": lambda s: lambda x: torch.stack([x.relu(), x.tanh()], 1).amax(1),
    "stack behind": lambda s: lambda x: torch.stack([x.relu(), x.tanh()], 2).amax(2),
    "stack last": lambda s: lambda x: torch.stack([x.relu(), x.tanh()], -1).amax(-1),
    "scale laid out": lambda s: Laid(s[1], (1, -1, *[1] * (len(s) - 2))),
    "scale on the last": lambda s: Laid(s[-1], (*[1] * (len(s) - 1), -1)),
    "blur": lambda s: Blur(s[1]) if len(s) == 4 else None,
    "places weighed": lambda s: Context(s[1]) if len(s) == 4 else None,
    "codes of places": lambda s: Codes(s),
    "unsqueeze": lambda s: lambda x: x.unsqueeze(-1),
    "pad": lambda s: lambda x: F.pad(x, (1, 0)),
}
TAILS = {
    "none": lambda rank: lambda x: x,
    "flatten": lambda rank: lambda x: x.flatten(1),
    "means": lambda rank: [lambda x: x, lambda x: x.mean(1), lambda x: x.mean((2, 3))][rank - 2],
}


class Normalised(nn.Module):
    """A layer norm as a function, with a gain and no shift."""

    def __init__(self, size):
        super().__init__()
        self.weight, self.size = nn.Parameter(torch.ones(size)), (size,)

    def forward(self, x):
        return F.layer_norm(x, self.size, self.weight)


class Laid(nn.Module):
    """A scale laid along one axis before it meets the data."""

    def __init__(self, size, shape):
        super().__init__()
        self.scale, self.shape = nn.Parameter(torch.ones(size)), shape

    def forward(self, x):
        return self.scale.view(self.shape) * x


class Blur(nn.Module):
    """One filter, which the module holds, for every map."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("filters", torch.ones(size, 1, 3, 3) / 9, persistent=False)

    def forward(self, x):
        return F.conv2d(x, self.filters, padding=1, groups=len(self.filters))


class Context(nn.Module):
    """A sum over all places, by weights that a map of one channel says."""

    def __init__(self, size):
        super().__init__()
        self.weigh = nn.Conv2d(size, 1, 1)

    def forward(self, x):
        weights = self.weigh(x).flatten(2).softmax(-1).transpose(1, 2).unsqueeze(1)
        return x + (x.flatten(2).unsqueeze(1) @ weights).reshape(x.shape[0], x.shape[1], 1, 1)


class Codes(nn.Module):
    """Something added that depends on the sizes of the data alone, and on weights."""

    def __init__(self, size):
        super().__init__()
        self.linear, self.between = nn.Linear(2, size[-1]), [1] * (len(size) - 2)

    def forward(self, x):
        return x + self.linear(torch.ones((x.size(0), *self.between, 2), dtype=self.linear.weight.dtype))


def table(size, step):
    """An operation on channels that stand on two axes, two rows of them, or None where they do not fit."""
    if size[1] % 2 or size[1] < 4:
        return None
    return lambda x: step(x.reshape(x.shape[0], 2, size[1] // 2, *size[2:])).reshape(x.shape)


class Random(nn.Module):
    """Operations one after the other, and a Linear on the last axis of what its tail leaves."""

    def __init__(self, start, names, tail, size):
        super().__init__()
        x, self.steps = torch.randn(3, *size), []
        self.first = conv(size[0], 4) if start == "maps" else nn.Linear(size[-1], 4)
        x = self.first(x)
        for name in names:
            step = OPERATIONS[name](tuple(x.shape))
            try:
                made = step(x) if step else None
            except (RuntimeError, IndexError, ValueError):
                continue
            if made is None or made.ndim < 2 or made.ndim > 4 or made.shape[0] != 3 or made.numel() > 10_000:
                continue
            self.steps.append(step)
            if isinstance(step, nn.Module):
                self.add_module(f"step{len(self.steps)}", step)
            x = made
        self.tail = TAILS[tail](x.ndim)
        self.head = nn.Linear(self.tail(x).shape[-1], 3)

    def forward(self, x):
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        return self.head(self.tail(x))


def assert_groups_are_free(model, images, example):
    model = redraw(model.double().eval(), torch.Generator().manual_seed(0))
    expected = outputs(model, model.state_dict(), images)
    free = [group for group in chain(model, example).axes if not group.fixed]
    for group in free:
        state = model.state_dict()
        group.permute_(state, torch.arange(group.size).roll(1))
        torch.testing.assert_close(outputs(model, state, images), expected, rtol=1e-9, atol=1e-9)
    return free


@given(
    start=st.sampled_from(["maps", "tokens", "vectors"]),
    names=st.lists(st.sampled_from([*OPERATIONS]), max_size=5),
    tail=st.sampled_from([*TAILS]),
    given_shapes=st.booleans(),
)
@settings(max_examples=200)
def test_free_channels_of_random_networks_permute(start, names, tail, given_shapes):
    size = {"maps": (3, 4, 4), "tokens": (4, 3), "vectors": (3,)}[start]
    torch.manual_seed(0)
    model = Random(start, names, tail, size)
    images = torch.randn(3, *size, dtype=torch.float64)
    assert_groups_are_free(model, images, images if given_shapes else None)


def free_members(model, images, example=None):
    groups = assert_groups_are_free(model, images, example)
    return {member.name for group in groups for member in group.members}


def test_tokens_flattened_stand_over_and_over():
    model = Net(
        lambda m, x: m.head(m.mix(m.embed(x).relu()).relu().flatten(1)),
        embed=nn.Linear(12, 8), mix=nn.Linear(8, 8), head=nn.Linear(128, 4),
    )  # fmt: skip
    images = torch.randn(9, 16, 12, dtype=torch.float64)
    for example in (None, images):
        assert {"embed.weight", "mix.weight", "head.weight"} <= free_members(model, images, example)
    column = next(m for g in chain(model).axes for m in g.members if m.name == "head.weight" and m.axis == 1)
    assert column.index[0].tolist() == list(range(0, 128, 8))


@pytest.mark.parametrize("per_token", [nn.BatchNorm1d(4), nn.PReLU(4), nn.BatchNorm1d(8), nn.GroupNorm(1, 8)])
def test_norms_of_tokens_are_not_those_of_channels(per_token):
    tokens = len(per_token.weight)
    model = Net(lambda m, x: m.b(m.per(m.a(x)).relu()), a=nn.Linear(6, 4), per=per_token, b=nn.Linear(4, 3))
    images = torch.randn(7, tokens, 6, dtype=torch.float64)
    found = free_members(model, images, images)
    assert "a.weight" in found
    assert not any(name.startswith("per.") for name in found)
    assert not free_members(model, images)  # without an example it may be either
    reasons = {group.fixed for group in chain(model).axes}
    assert "how many axes per takes in is not known: pass example=" in reasons


def test_norms_of_vectors_are_those_of_channels_once_the_rank_is_known():
    def model(rule):
        return Net(rule, a=nn.Linear(12, 6), norm=nn.BatchNorm1d(6), b=nn.Linear(6, 3))

    images = torch.randn(7, 12, dtype=torch.float64)
    flat = model(lambda m, x: m.b(m.norm(m.a(x.flatten(1))).relu()))
    bare = model(lambda m, x: m.b(m.norm(m.a(x)).relu()))
    assert "norm.weight" in free_members(flat, images)
    assert "norm.weight" in free_members(bare, images, images)
    assert "norm.weight" not in free_members(bare, images)


def test_channels_last_with_a_layer_norm_and_a_layer_scale_are_followed():
    def block(m, x):
        x = m.stem(x)
        y = m.down(m.gelu(m.up(m.norm(m.deep(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return m.fc((x + m.scale * y).mean([-2, -1]))

    model = Net(
        block, stem=conv(3, 4), deep=conv(4, 4, groups=4), norm=nn.LayerNorm(4), up=nn.Linear(4, 16), gelu=nn.GELU(),
        down=nn.Linear(16, 4), fc=nn.Linear(4, 2),
    )  # fmt: skip
    model.scale = nn.Parameter(torch.rand(4, 1, 1))
    images = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    names = free_members(model, images)
    assert {"stem.weight", "deep.weight", "norm.weight", "up.weight", "down.weight", "scale", "fc.weight"} <= names


RULES = {
    "rows of another batch": lambda m, x: m.fc(
        m.conv(x).flatten(2).transpose(1, 2).flatten(0, 1).view(x.size(0), 4, -1).mean(2)
    ),
    "rows of a channel's pixels": lambda m, x: m.sixteen(m.conv(x).reshape(-1, 16)).reshape(-1, 20),
    "power of a tensor": lambda m, x: m.fc((m.conv(x).sigmoid() ** m.p).mean((2, 3))),
    "tensor to a power": lambda m, x: m.fc(torch.pow(m.p, m.conv(x)).mean((2, 3))),
    "clamped by a tensor": lambda m, x: m.fc(torch.clamp(m.conv(x), max=m.p).mean((2, 3))),
    "a weight used again": lambda m, x: (
        m.fc(m.conv(x).relu().mean((2, 3))) + m.gc(F.conv2d(x, m.conv.weight, m.conv.bias, dilation=1).mean((2, 3)))
    ),
    "one channel of a bare weight": lambda m, x: m.fc(m.conv(x).mean((2, 3))) + m.conv.bias.sum() * 0 + m.conv.bias[0],
}


@pytest.mark.parametrize("name", RULES)
def test_what_meets_a_tensor_or_changes_rows_stays(name):
    model = Net(RULES[name], conv=conv(3, 4), sixteen=nn.Linear(16, 5), fc=nn.Linear(4, 3), gc=nn.Linear(4, 3))
    model.p = nn.Parameter(torch.rand(1, 4, 1, 1))
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    for example in (None, images):
        assert "conv.weight" not in free_members(model, images, example)


@pytest.mark.parametrize("rule", [torch.pow, lambda x, y: torch.clamp(x, min=y)], ids=["pow", "clamp"])
def test_two_convolutions_that_meet_are_tied(rule):
    model = Net(
        lambda m, x: m.fc(rule(m.a(x).sigmoid(), m.b(x)).mean((2, 3))), a=conv(3, 4), b=conv(3, 4), fc=nn.Linear(4, 3)
    )
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    group = next(group for group in assert_groups_are_free(model, images, None) if len(group.reads) == 1)
    assert {"a.weight", "b.weight"} <= {member.name for member in group.writes}


def test_one_number_of_the_network_moves_nothing():
    model = Net(lambda m, x: m.fc((m.conv(x).relu() ** m.p).mean((2, 3))), conv=conv(3, 4), fc=nn.Linear(4, 3))
    model.p = nn.Parameter(torch.tensor([2.0]))
    assert "conv.weight" in free_members(model, torch.randn(6, 3, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("made", [torch.zeros, torch.ones], ids=["zeros", "ones"])
@pytest.mark.parametrize("given", [True, False], ids=["with an example", "without"])
def test_codes_of_places_that_are_made_from_sizes_have_channels_of_their_own(made, given):
    def rule(m, x):
        h = m.conv(x)
        codes = made((h.size(0), 2, h.size(2), h.size(3)), dtype=torch.float64)
        return m.fc((h + m.codes(codes)).relu().mean((2, 3)))

    model = Net(rule, conv=conv(3, 4), codes=conv(2, 4), fc=nn.Linear(4, 3))
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    group = next(g for g in assert_groups_are_free(model, images, images if given else None) if len(g.reads) == 1)
    assert {"conv.weight", "codes.weight"} <= {member.name for member in group.writes}


class Mixing(nn.GroupNorm):
    """A norm whose forward sees channels in their order besides."""

    def forward(self, x):
        return super().forward(x) + x.cumsum(1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_norms_that_see_the_order_of_channels_fix_it(groups):
    model = Net(lambda m, x: m.fc(m.n(m.a(x)).mean((2, 3))), a=conv(3, 4), n=Mixing(groups, 4), fc=nn.Linear(4, 3))
    assert "a.weight" not in free_members(model, images := torch.randn(6, 3, 4, 4, dtype=torch.float64), images)


def test_a_product_with_its_operands_by_name_is_read_by_name():
    def rule(m, x):
        square = m.one(x).flatten(2).reshape(x.size(0), 1, 4, 4)
        return m.fc(torch.matmul(other=m.a(x).flatten(2).unsqueeze(1)[..., :4, :], input=square).mean((1, 3)))

    model = Net(rule, a=conv(3, 4), one=conv(3, 1), fc=nn.Linear(4, 3))
    assert "a.weight" not in free_members(model, images := torch.randn(6, 3, 4, 4, dtype=torch.float64), images)


@pytest.mark.parametrize(
    "forward", [nn.ChannelShuffle(2).forward, nn.LocalResponseNorm(3).forward, nn.Identity().forward]
)
def test_a_forward_put_in_place_of_another_is_read(forward):
    model = Net(lambda m, x: m.fc(m.c(m.a(x)).mean((2, 3))), a=conv(3, 4), c=conv(4, 4), fc=nn.Linear(4, 3))
    model.c.forward = forward
    names = free_members(model, images := torch.randn(6, 3, 4, 4, dtype=torch.float64), images)
    assert ("a.weight" in names) == (not isinstance(forward.__self__, nn.LocalResponseNorm))
    model.forward = nn.Identity().forward
    with pytest.raises(ValueError, match="the forward of Net was replaced"):
        chain(model)


def test_a_blur_without_values_is_fixed():
    with torch.device("meta"):
        model = Net(lambda m, x: m.fc(m.f(m.a(x)).mean((2, 3))), a=conv(3, 4), f=Blur(4), fc=nn.Linear(4, 3))
    assert all(group.fixed for group in chain(model, torch.randn(6, 3, 4, 4)).axes)


def test_the_size_of_another_axis_counts_no_images():
    def rule(m, x):
        means = m.conv(x).mean((2, 3))
        return m.fc(means.view(means.transpose(0, 1).size(0), -1))  # of eight images, rows hold two

    model = Net(rule, conv=conv(3, 4), fc=nn.Linear(8, 3))
    assert "conv.weight" not in free_members(model, torch.randn(8, 3, 4, 4, dtype=torch.float64))
