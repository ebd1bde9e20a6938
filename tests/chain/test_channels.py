"""Groups of channels, against the function of the network: permuted, selected, and gathered as in Net2Net."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hetlib import zoo
from hetlib.chain import chain, resized
from tests.chain.networks import ODDITIES, SUPPORTED, Net, conv, outputs, supported
from tests.conftest import redraw


def shuffled(group, generator):
    return torch.randperm(group.size, generator=generator)


@pytest.mark.parametrize("name", SUPPORTED)
@given(seed=st.integers(0, 10**6), part=st.sampled_from([1.0, 0.3]))
@settings(max_examples=3)
def test_permuting_by_the_reported_axes_changes_nothing(name, seed, part):
    model, images, expected = supported(name)
    generator = torch.Generator().manual_seed(seed)
    groups = [group for group in chain(model).axes if group.fixed is None]
    chosen = [g for g in groups if torch.rand((), generator=generator) <= part] or groups[:1]
    state = model.state_dict()
    for group in chosen:
        group.permute_(state, shuffled(group, generator))
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, state[key])]
    assert moved or max(group.size for group in chosen) < 8
    torch.testing.assert_close(
        outputs(model, state, images), expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item()
    )


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_channel_of_every_tensor_is_in_one_group_and_only_the_ends_are_fixed(name):
    model, _, _ = supported(name)
    groups = chain(model).axes
    counts = {
        (key, axis): torch.zeros(value.shape[axis], dtype=torch.int64)
        for key, value in model.state_dict().items()
        for axis in range(min(value.dim(), 2))
    }
    for group in groups:
        for member in group.members:
            assert member.index.shape[0] == group.size
            counts[member.name, member.axis].index_add_(
                0, member.index.flatten(), torch.ones_like(member.index.flatten())
            )
    depthwise = {f"{layer.name}.weight" for layer in chain(model).layers if getattr(layer.module, "groups", 1) > 1}
    for (key, axis), count in counts.items():
        assert (count == (0 if key in depthwise and axis == 1 else 1)).all(), (key, axis)
    assert {group.fixed for group in groups} == {None, "network input", "network output"}


@pytest.mark.parametrize("name", ["flatten of 2-D maps", "dense block", "resnet20", "torchvision/mobilenet_v2"])
def test_a_member_left_out_changes_the_function(name):
    model, images, expected = supported(name)
    generator = torch.Generator().manual_seed(0)
    group = next(group for group in chain(model).axes if group.fixed is None and len(group.members) > 1)
    for left_out in group.members:
        state = model.state_dict()
        group.permute_(state, shuffled(group, generator).roll(1))
        state[left_out.name] = model.state_dict()[left_out.name]
        assert not torch.allclose(outputs(model, state, images), expected), left_out


def test_a_shortcut_without_parameters_ties_the_middle_channels():
    groups = [group for group in chain(zoo.build("resnet20")).axes if not group.fixed]
    places = {
        (group.size, member.index[0, 0].item())
        for group in groups
        for member in group.members
        if member.name == "layer2.0.bn2.weight"
    }
    assert places == {(16, 8), (16, 0)}  # tied to stage 0, and the sixteen beside them that see zeros there
    stream = next(group for group in groups if any(member.name == "conv1.weight" for member in group.members))
    last = next(member for member in stream.members if member.name == "linear.weight")
    assert last.index.flatten().tolist() == list(range(24, 40))


def test_concatenation_and_flatten_give_segments_and_blocks():
    dense, flat = (chain(ODDITIES[name]()) for name in ("dense block", "flatten of 2-D maps"))
    segments = [
        member.index.flatten().tolist()
        for group in dense.axes
        for member in group.members
        if member.name == "norm.weight"
    ]
    assert segments == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    columns = next(m for g in flat.axes for m in g.members if m.name == "fc.weight" and m.axis == 1)
    assert columns.index.tolist() == torch.arange(80).view(5, 16).tolist()


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda m, x: m.fc(m.one(x).flip(1).mean((2, 3))), "flip is not followed"),
        (lambda m, x: m.fc(F.local_response_norm(m.one(x), 3).mean((2, 3))), "is not followed"),
        (lambda m, x: m.fc((m.one(x) * x[:, :1]).mean((2, 3))), "network input"),
        (lambda m, x: m.fc((m.one(x) * m.one(x)[:, :1]).mean((2, 3))), "joins different numbers of channels"),
        (
            lambda m, x: m.fc(m.group(m.one(x).flatten(1)).unflatten(1, (8, -1)).mean(2)),
            "groups of channels and pixels",
        ),
        (lambda m, x: m.fc((m.one(x) * m.fixed).mean((2, 3))), "the tensor fixed takes part directly"),
        (lambda m, x: m.fc(m.one(x).transpose(1, 3).mean((2, 3))[:, :8]), "mean is not followed"),
    ],
)
def test_what_is_not_followed_stays_where_it_is(rule, reason):
    model = Net(rule, one=conv(3, 8), group=nn.GroupNorm(2, 8 * 36), fc=nn.Linear(8, 2))
    model.fixed = nn.Parameter(torch.ones(1, 8, 1, 1))
    groups = chain(model).axes
    group = next(g for g in groups if any((m.name, m.axis) == ("one.weight", 0) for m in g.members))
    assert reason in group.fixed
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"one\.weight are fixed"):
        group.permute_(before, range(group.size))


def test_permutations_are_checked_and_the_model_is_left_alone():
    model = ODDITIES["dense block"]()
    group = next(group for group in chain(model).axes if not group.fixed)
    before = copy.deepcopy(model.state_dict())
    state = model.state_dict()
    for wrong in ([0, 1, 2], [0, 0, 1, 2, 3], [1, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match=r"permutation of 0 \.\. 4"):
            group.permute_(state, wrong)
    group.permute_(state, [4, 3, 2, 1, 0])
    assert torch.equal(state["one.weight"], before["one.weight"].flip(0))
    assert torch.equal(state["norm.running_mean"][5:], before["norm.running_mean"][5:])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_tied_tensors_move_under_all_their_names():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    model[2].weight = model[0].weight
    model = nn.Sequential(nn.Linear(3, 4).double(), *model)
    state, x = model.state_dict(), torch.randn(5, 3, dtype=torch.float64)
    group = next(group for group in chain(model).axes if not group.fixed)
    assert {"1.weight", "3.weight"} <= {member.name for member in group.members}
    expected = model(x)
    group.permute_(state, [2, 0, 3, 1])
    model.load_state_dict(state)
    torch.testing.assert_close(model(x), expected)


def free(model):
    return [group for group in chain(model).axes if group.fixed is None]


def picks(size, generator):
    """Every channel at least once, in any order, and one to `size` more."""
    more = torch.randint(size, (int(torch.randint(1, size + 1, (), generator=generator)),), generator=generator)
    every = torch.cat([torch.arange(size), more])
    return every[torch.randperm(len(every), generator=generator)]


def widened(state, group, index):
    """Net2Net: channels are copied, and what takes them in is divided by the number of copies."""
    state, counts = dict(state), torch.bincount(index, minlength=group.size).double()
    for member in group.reads:
        state[member.name] = member.scaled(state[member.name], 1 / counts)
    return group.gather(state, index)


def lies_among_others(name, group):
    """Whether these are channels of a ResNet-20 that a shortcut pads, on both sides of those of the stage before."""
    padded = ("layer2.0.conv2.weight", "layer3.0.conv2.weight")
    return name == "resnet20" and any(m.name in padded and m.index[0] == 0 for m in group.writes)


WIDE = {
    "mlp": lambda: zoo.build("mlp", 10, 3, hidden=(9, 7), in_features=192),
    "vgg": lambda: zoo.build("vgg11", width=1 / 8, bn=False),
    "vgg with batch norm": lambda: zoo.build("vgg11", width=1 / 8),
    "resnet20": lambda: zoo.build("resnet20", width=1 / 4),
    "mobilenetv2": lambda: zoo.build("mobilenetv2", width=1 / 8),
    **{
        name: ODDITIES[name]
        for name in (
            "flatten of 2-D maps", "depthwise with two filters a channel", "gate", "squeeze and excite",
            "joined with itself", "the same module twice", "dense block", "residual",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=2)
def test_widening_keeps_the_function(name, seed):
    generator = torch.Generator().manual_seed(seed)
    model = redraw(WIDE[name]().double().eval(), generator)
    images = torch.randn(2, 3, *((8, 8) if name == "mlp" else (32, 32)), generator=generator, dtype=torch.float64)
    expected = model(images).detach()

    def widen(model, group):
        wider = resized(model, widened(model.state_dict(), group, picks(group.size, generator)))
        torch.testing.assert_close(wider(images).detach(), expected, rtol=1e-8, atol=1e-9)
        return wider

    groups = [group for group in free(model) if not lies_among_others(name, group)]
    for group in groups:
        widen(model, group)
    for _ in range(3):  # one after the other: where channels stand has changed
        drawn = int(torch.randint(len(groups), (), generator=generator))
        model = widen(model, [group for group in free(model) if not lies_among_others(name, group)][drawn])


def test_channels_among_others_are_not_widened():
    model = WIDE["resnet20"]()
    among = [group for group in free(model) if lies_among_others("resnet20", group)]
    assert len(among) == 2
    for group in among:
        with pytest.raises(ValueError, match="their order can change, their number cannot"):
            group.gather(model.state_dict(), [*range(group.size), 0])


@pytest.mark.parametrize("name", [*ODDITIES, "resnet20", "mobilenetv2"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
def test_permutations_compose_and_gather_like_any_index(name, seed):
    model, _, _ = supported(name)
    generator, before = torch.Generator().manual_seed(seed), model.state_dict()
    for group in free(model):
        first, second = (torch.randperm(group.size, generator=generator) for _ in range(2))
        stepwise, at_once = dict(before), dict(before)
        group.permute_(stepwise, first)
        assert equal(stepwise, group.gather(before, first))
        assert equal(stepwise, group.select(before, first))
        group.permute_(stepwise, second)
        group.permute_(at_once, first[second])
        assert equal(stepwise, at_once)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", WIDE)
def test_what_widening_added_can_be_selected_away(name):
    model = WIDE[name]()
    groups = free(model)
    for number in range(0, len(groups), len(groups) // 8 + 1):  # at most eight, since each is traced anew
        if lies_among_others(name, group := groups[number]):
            continue
        wider = resized(model, group.gather(model.state_dict(), torch.arange(group.size).repeat(2)))
        doubled = free(wider)[number]
        assert doubled.size == 2 * group.size
        assert equal(doubled.select(wider.state_dict(), range(group.size)), model.state_dict())


def test_channels_that_stand_nowhere_or_twice_are_refused():
    model = ODDITIES["dense block"]()
    group, state = free(model)[0], model.state_dict()
    for wrong in ([], [5], [-1, 0]):
        with pytest.raises(ValueError, match="expected channels from 0 to 4"):
            group.gather(state, wrong)
    with pytest.raises(ValueError, match="each once"):
        group.select(state, [0, 1, 1])
    assert {member.name for member in group.reads} == {"two.weight", "fc.weight"}
    assert "norm.weight" in {member.name for member in group.writes}


@pytest.mark.parametrize(
    ("rule", "joint"),
    [
        (lambda m, x: m.one(x).softmax(1), "softmax"),
        (lambda m, x: F.log_softmax(m.one(x), dim=-3), "log_softmax"),
        (lambda m, x: m.softmax(m.one(x)), "softmax"),
        (lambda m, x: m.group(m.one(x)), "group"),
        (lambda m, x: m.one(x).softmax(-1), None),
        (lambda m, x: m.single(m.one(x)), None),
    ],
)
def test_channels_that_an_operation_takes_together_are_not_copied(rule, joint):
    model = Net(
        lambda m, x: m.fc(rule(m, x).mean((2, 3))),
        one=conv(3, 4), softmax=nn.Softmax(1), group=nn.GroupNorm(1, 4), single=nn.GroupNorm(4, 4), fc=nn.Linear(4, 2),
    )  # fmt: skip
    group, state = free(model)[0], model.state_dict()
    assert group.joint == joint
    group.permute_(state, [2, 0, 3, 1])
    for index in ([0, 1, 2, 3, 0], [0, 1, 2, 2], [0, 1, 2]):
        if joint is None:
            group.gather(state, index)
        else:
            with pytest.raises(ValueError, match=rf"{joint} takes the channels of one\.weight together: .* a copy or"):
                group.gather(state, index)


def test_resized_networks_know_their_sizes_and_share_what_was_shared():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[3].weight = model[1].weight
    (group,) = free(model)
    wider = resized(model, group.gather(model.state_dict(), range(3)))
    assert wider[3].weight is wider[1].weight
    assert (wider[0].out_features, wider[1].in_features) == (3, 3)
    with pytest.raises(ValueError, match=r"1\.bias stands only in the network"):
        resized(model, {name: value for name, value in model.state_dict().items() if name != "1.bias"})
    with pytest.raises(ValueError, match="other stands only in the state"):
        resized(model, {"other": torch.zeros(1), **model.state_dict()})
