"""What `chain` reads, against what we know of the networks, and its axes against the function of the network."""

import copy
import warnings
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hetlib import zoo
from hetlib.chain import chain, convolutions
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
        (lambda m, x: m.fc(m.two(m.one(x)).mean((2, 3))), "grouped convolution"),
        (lambda m, x: m.fc(m.one(x).flip(1).mean((2, 3))), "flip is not followed"),
        (lambda m, x: m.fc(F.local_response_norm(m.one(x), 3).mean((2, 3))), "is not followed"),
        (lambda m, x: m.fc((m.one(x) * x[:, :1]).mean((2, 3))), "network input"),
        (lambda m, x: m.fc((m.one(x) * m.one(x)[:, :1]).mean((2, 3))), "joins different numbers of channels"),
        (lambda m, x: m.fc(m.group(m.one(x)).mean((2, 3))), "normalised in groups"),
        (lambda m, x: m.fc((m.one(x) * m.fixed).mean((2, 3))), "the tensor fixed takes part directly"),
        (lambda m, x: m.fc(m.one(x).transpose(1, 3).mean((2, 3))[:, :8]), "transpose is not followed"),
    ],
)
def test_what_is_not_followed_stays_where_it_is(rule, reason):
    modules = {"one": conv(3, 8), "two": conv(8, 8, groups=2), "group": nn.GroupNorm(2, 8), "fc": nn.Linear(8, 2)}
    model = Net(rule, **modules)
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


@pytest.mark.parametrize(
    ("name", "layers", "convs", "longest", "stages"),
    [
        ("torchvision/resnet18", 21, 17, 17, [1, 4, 5, 5, 5, 1]),
        ("torchvision/resnet50", 54, 49, 49, [1, 11, 13, 19, 9, 1]),
        ("torchvision/vgg11", 11, 8, 8, [1, 1, 2, 2, 2, 3]),
        ("torchvision/vgg16_bn", 16, 13, 13, [2, 2, 3, 3, 3, 3]),
        ("torchvision/mobilenet_v2", 53, 52, 52, None),
        ("torchvision/squeezenet1_1", 26, 26, 18, None),
        ("torchvision/densenet121", 121, 120, 120, [1, 13, 25, 49, 32, 1]),
        ("mlp", 4, 0, 0, [4]),
        ("plainnet5", 5, 4, 4, [1, 1, 1, 1, 1]),
        ("resnet8", 11, 7, 7, [1, 3, 3, 3, 1]),
        ("resnet20", 20, 19, 19, [7, 6, 6, 1]),
        ("resnet34", 37, 33, 33, [7, 9, 13, 7, 1]),
        ("mobilenetv2", 58, 53, 53, None),
    ],
)
def test_layers_and_stages_of_known_networks(name, layers, convs, longest, stages):
    model, images, _ = supported(name)
    for found in (chain(model), chain(model, images)):
        assert (len(found.layers), len(found.convolutions()), len(found.longest())) == (layers, convs, longest)
        assert [(layer.name, layer.module) for layer in found.convolutions()] == convolutions(model)
        assert not any(layer.kind == "shortcut" for layer in found.longest())
        if stages:
            counts = Counter(layer.stage for layer in found.layers)
            assert [counts[stage] for stage in range(len(stages))] == stages


def test_kinds_blocks_norms_and_shortcuts_of_resnet18():
    found = chain(supported("torchvision/resnet18")[0])
    layers = {layer.name: layer for layer in found.layers}
    assert Counter(layer.kind for layer in found.layers) == {"conv": 17, "shortcut": 3, "linear": 1}
    assert (layers["conv1"].block, layers["fc"].block) == (None, None)
    assert [layers[f"layer{s}.{b}.conv2"].block for s in range(1, 5) for b in range(2)] == list(range(8))
    assert layers["layer2.0.downsample.0"].block == layers["layer2.0.conv1"].block
    assert layers["layer1.0.conv2"].norm == "layer1.0.bn2"
    assert layers["fc"].norm is None
    assert [shortcut.kind for shortcut in found.shortcuts] == ["identity"] * 2 + ["projection", "identity"] * 3
    assert [s.layers for s in found.shortcuts if s.layers] == [(f"layer{n}.0.downsample.0",) for n in (2, 3, 4)]
    first = found.shortcuts[0]
    assert (first.start, first.end, first.block) == ("maxpool", "add", 0)


def test_kinds_and_blocks_of_mobilenet_v2():
    found = chain(supported("torchvision/mobilenet_v2")[0])
    assert Counter(layer.kind for layer in found.layers) == {"conv": 35, "depthwise": 17, "linear": 1}
    assert {shortcut.kind for shortcut in found.shortcuts} == {"identity"}
    assert len(found.shortcuts) == 10
    assert sum(layer.block is not None for layer in found.layers) == 30


def test_shortcuts_without_parameters_are_told_from_identities():
    kinds = [shortcut.kind for shortcut in chain(zoo.build("resnet20")).shortcuts]
    assert kinds == ["identity"] * 3 + (["plain"] + ["identity"] * 2) * 2


def test_a_path_through_squeezenet_is_a_path():
    names = [layer.name for layer in chain(supported("torchvision/squeezenet1_1")[0]).longest()]
    assert names[:3] == ["features.0", "features.3.squeeze", "features.3.expand1x1"]
    assert not any("expand3x3" in name for name in names)


def block(**modules):
    """One residual block; modules are registered in the order given."""

    def rule(m, x):
        x = m.stem(x)
        return m.fc((m.b(m.a(x).relu()) + m.proj(x)).relu().mean((2, 3)))

    return Net(rule, **modules)


def test_order_of_execution_and_of_registration_differ():
    model = block(
        fc=nn.Linear(8, 2), b=conv(8, 8), proj=conv(4, 8, 1, stride=2), a=conv(4, 8, stride=2), stem=conv(3, 4)
    )
    found = chain(model)
    assert [layer.name for layer in found.layers] == ["stem", "a", "b", "proj", "fc"]
    assert [layer.name for layer in found.convolutions()] == ["b", "proj", "a", "stem"]
    assert [layer.name for layer in found.longest()] == ["stem", "a", "b"]
    assert [layer.kind for layer in found.layers] == ["conv", "conv", "conv", "shortcut", "linear"]
    assert [layer.block for layer in found.layers] == [None, 0, 0, 0, None]
    assert [layer.stage for layer in found.layers] == [0, 1, 1, 1, 2]
    assert found.shortcuts[0].layers == ("proj",)


def test_of_two_single_convolutions_the_smaller_kernel_is_the_shortcut():
    rule = lambda m, x: m.end((m.skip(x) + m.main(x)).relu())
    found = chain(Net(rule, skip=conv(3, 4, 1), main=conv(3, 4), end=conv(4, 2)))
    assert [layer.kind for layer in found.layers] == ["shortcut", "conv", "conv"]
    assert [layer.name for layer in found.longest()] == ["main", "end"]
    twins = chain(Net(rule, skip=conv(3, 4), main=conv(3, 4), end=conv(4, 2)))
    assert {layer.kind for layer in twins.layers} == {"conv"}
    assert twins.shortcuts == ()


def test_a_layer_called_twice_stands_at_its_first_call():
    model = Net(lambda m, x: m.b(m.a(m.b(m.stem(x)))), stem=conv(3, 4), a=conv(4, 4), b=conv(4, 4))
    assert [layer.name for layer in chain(model).layers] == ["stem", "b", "a"]


def test_decisions_on_shapes_need_an_example():
    def rule(m, x):
        n, _, height, _ = x.shape
        y = m.one(x)
        if height > 8:
            y = m.two(y)
        return m.fc(y.mean((2, 3)).reshape(n, -1))

    model = Net(rule, one=conv(3, 4), two=conv(4, 4), fc=nn.Linear(4, 2))
    with pytest.raises(
        ValueError, match=r"cannot read Net.*its own forward, test_read\.py:\d+: `if height > 8:`.*example="
    ):
        chain(model)
    for size, names in ((16, ["one", "two", "fc"]), (8, ["one", "fc"])):
        found = chain(model, torch.zeros(1, 3, size, size))
        assert [layer.name for layer in found.layers] == names
        assert {group.fixed for group in found.axes} == {None, "network input", "network output"}


def test_decisions_on_values_are_refused_and_named():
    gate = Net(lambda m, x: x if x.sum() > 0 else -x)
    model = nn.Sequential(conv(3, 4), gate, conv(4, 2))
    for example in (None, torch.zeros(1, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"module '1', test_read\.py:\d+: .*x\.sum\(\) > 0.*pass a submodule"):
            chain(model, example)
    assert len(chain(nn.Sequential(model[0], model[2])).layers) == 2


def test_an_example_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"module 'features\.0'.*\(1, 8, 8\)"):
        chain(zoo.build("vgg8", width=0.125), torch.zeros(1, 1, 8, 8))


def test_networks_without_layers_are_named():
    with pytest.raises(ValueError, match="ReLU calls no Conv2d or Linear"):
        chain(nn.ReLU())


def test_reading_changes_nothing_and_runs_no_hook():
    model = Net(lambda m, x: m.fc(m.norm(m.conv(x) + torch.ones(1)).mean((2, 3))),
                conv=conv(3, 4), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 2)).train()  # fmt: skip
    seen = []
    model.conv.register_forward_hook(lambda *args: seen.append(args))
    before, names = copy.deepcopy(model.state_dict()), set(vars(model))
    for example in (None, torch.ones(1, 3, 8, 8)):
        found = chain(model, example)
        assert [layer.name for layer in found.layers] == ["conv", "fc"]
        assert "the tensor _tensor_constant0 takes part directly" in {group.fixed for group in found.axes}
    assert not seen
    assert set(vars(model)) == names
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_zoo_networks_without_norms_are_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("vgg11", "resnet18"):
            found = chain(zoo.build(name, width=0.125, bn=False, bias=False))
            assert {layer.norm for layer in found.layers} == {None}
