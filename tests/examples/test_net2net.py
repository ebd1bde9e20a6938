"""Net2Net's widening: the wider network computes what the source does, and what does not fit is named beforehand."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from examples import net2net
from examples.net2net import Widen
from hetlib import zoo
from hetlib.transfer import SameName, Transfer, unpaired
from tests.conftest import redraw

WIDER = Transfer(SameName(), (Widen(),))
OWN_HEAD = Transfer(SameName(), (Widen(head="keep"),))
FAMILIES = {
    "mlp": {"in_features": 12, "hidden": (40, 60)},
    "vgg11": {"bn": False},
    "vgg11 with batch norm": {"bn": True},
    "resnet20": {},
    "resnet20 without batch norm": {"bn": False},
    "resnet20 with projections": {"shortcut": "B"},
    "mobilenetv2": {},
}


def net(family, width, seed=0, **options):
    model = zoo.build(family.split()[0], width=width, **FAMILIES[family] | options).double()
    return redraw(model, torch.Generator().manual_seed(seed)).eval()


def images(family):
    shape = (12,) if family == "mlp" else (3, 32, 32)
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def distance(source, target, family):
    """Largest difference of the outputs, relative to the largest output."""
    wanted = source(images(family))
    return float((target(images(family)) - wanted).abs().max() / wanted.abs().max())


def same(a, b):
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def padded(model):
    """How many zero channels the shortcuts of a ResNet-20 add: of rounded widths, fewer in a wider network."""
    first, *others = (stage[0].conv2.out_channels for stage in (model.layer1, model.layer2, model.layer3))
    return [after - before for before, after in zip([first, *others], others, strict=False)]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@example(narrow=0.140625, factor=1.125, seed=0)
@given(narrow=st.floats(0.125, 0.2), factor=st.floats(1, 2.5), seed=st.integers(0, 9))
def test_the_function_is_kept(family, narrow, factor, seed):
    source, target = net(family, narrow), net(family, narrow * factor, seed=1)
    assume(
        not family.startswith("resnet20")
        or all(new >= old for old, new in zip(padded(source), padded(target), strict=True))
    )
    untouched = deepcopy(source)
    report = WIDER(source, target, seed=seed)
    assert distance(source, target, family) < 1e-9
    assert same(source, untouched)
    assert {row.target for row in report} == {row.source for row in report}
    assert all(row.fed for row in report)


def test_a_network_of_equal_width_becomes_the_source():
    source, target = net("resnet20", 0.25), net("resnet20", 0.25, seed=1)
    WIDER(source, target)
    assert distance(source, target, "resnet20") == 0


def test_a_plain_loop_widens_the_same():
    """Section 2.2 on one hidden layer, number by number."""
    source = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    target = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
    WIDER(source, target, seed=4)
    generator = torch.Generator().manual_seed(4)
    # The axes come in the order of execution: the two inputs, which draw nothing, and then the three hidden neurons.
    g = [0, 1, 2, *torch.randint(3, (2,), generator=generator).tolist()]
    for j in range(5):
        assert torch.equal(target[0].weight[j], source[0].weight[g[j]])
        assert torch.equal(target[0].bias[j], source[0].bias[g[j]])
        assert torch.allclose(target[2].weight[:, j], source[2].weight[:, g[j]] / g.count(g[j]))
    assert torch.equal(target[2].bias, source[2].bias)


@pytest.mark.parametrize("family", ["mlp", "vgg11 with batch norm", "resnet20", "mobilenetv2"])
def test_for_other_classes_the_target_keeps_its_own_classifier(family):
    source, target = net(family, 0.125), net(family, 0.3, seed=1, num_classes=7)
    head, other = target[-1], source[-1]
    own = deepcopy(head)
    report = OWN_HEAD(source, target)
    assert same(head, own)
    assert [row.done for row in report if not row.fed] == ["kept: the target's own"]
    taken = {}
    for role, layer in (("source", other), ("target", head)):
        layer.register_forward_pre_hook(lambda _, given, role=role: taken.update({role: given[0]}))
    with torch.no_grad():
        source(images(family)), target(images(family))
    # Every feature of the wider network is one of the source's, and each of these is there.
    away = (taken["target"].T[:, None] - taken["source"].T).abs().amax(-1)
    assert away.amin(1).max() < 1e-9
    assert away.amin(0).max() < 1e-9


def test_noise_lets_copies_differ_and_leaves_the_first_of_each():
    source, plain = net("resnet20", 0.25), net("resnet20", 0.5)
    noisy = deepcopy(plain)
    WIDER(source, plain)
    Transfer(SameName(), (Widen(noise=1e-3),))(source, noisy)
    assert 0 < distance(plain, noisy, "resnet20") < 0.1
    difference = (noisy.conv1.weight - plain.conv1.weight).flatten(1).abs().amax(1)
    assert difference[:4].max() == 0
    assert (difference[4:] > 0).all()
    kernels = noisy.conv1.weight.flatten(1)
    assert len(kernels.unique(dim=0)) == len(kernels)
    assert torch.equal(noisy.linear.weight, plain.linear.weight)
    assert torch.equal(noisy.bn1.weight, plain.bn1.weight)


def test_draws_come_from_the_seed_alone():
    source = net("vgg11", 0.1)
    first, again, other = (net("vgg11", 0.3, seed=1) for _ in range(3))
    for target, seed in ((first, 5), (again, 5), (other, 6)):
        torch.manual_seed(seed + id(target))
        WIDER(source, target, seed=seed)
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        (("vgg11", 0.25), ("vgg11", 0.125), r"features\.0\.weight \(16, 3, 3, 3\) -> \(8, 3, 3, 3\): .*narrower"),
        (("mobilenetv2", 0.25), ("mobilenetv2", 0.125), r"conv1\.weight \(8, 3, 3, 3\) -> \(4, 3, 3, 3\)"),
        (("resnet20", 0.25), ("resnet32", 0.5), r"layer1\.3\.conv1\.weight \(8, 8, 3, 3\): both networks need"),
        (("resnet32", 0.25), ("resnet20", 0.5), r"layer1\.3\.conv1\.weight \(4, 4, 3, 3\): both networks need"),
        # Stages of 16 and 24 channels, both rounded to two, need no projection between them.
        (("mobilenetv2", 0.1), ("mobilenetv2", 0.2), r"layer2\.0\.downsample\.0\.weight .*: both networks need"),
        (("resnet20", 0.25), ("vgg11", 0.5), r"features\.0\.weight \(32, 3, 3, 3\): both networks need"),
        (
            ("vgg11", 0.1, 10),
            ("vgg11", 0.1, 7),
            r"linear\.weight \(10, 51\) -> \(7, 51\): cannot widen: network output",
        ),
        (
            ("vgg11", 0.1, 10),
            ("vgg11", 0.2, 12),
            r"linear\.weight \(10, 51\) -> \(12, 102\): cannot widen: network output",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_changed(source, target, told):
    source, target = (zoo.build(name, *classes, width=width) for name, width, *classes in (source, target))
    untouched = deepcopy(target)
    with pytest.raises(ValueError, match=told):
        WIDER(source, target)
    assert same(target, untouched)


class Joined(nn.Module):
    """Channels concatenated with themselves, then flattened, pixel by pixel."""

    def __init__(self, channels, size=3, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel, padding=kernel // 2)
        self.slope = nn.PReLU()
        self.fc = nn.Linear(2 * channels * size**2, 4)

    def forward(self, x):
        x = self.slope(self.conv(x))
        return self.fc(torch.flatten(torch.cat([x, x.sigmoid()], 1), 1))


def test_a_channel_may_be_read_at_several_places():
    torch.manual_seed(0)
    source, target = Joined(4).double(), Joined(7).double()
    source.slope.weight.data.fill_(0.7)
    WIDER(source, target)
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    assert torch.allclose(source(x), target(x), rtol=1e-9)


def test_channels_that_a_softmax_takes_together_are_not_widened():
    def network(width):
        return nn.Sequential(nn.Linear(3, width), nn.Softmax(1), nn.Linear(width, 2))

    source, target = network(4), network(6)
    untouched = deepcopy(target)
    told = r"0\.weight \(4, 3\) -> \(6, 3\): cannot widen: _1 takes its channels together"
    with pytest.raises(ValueError, match=told):
        WIDER(source, target)
    assert same(target, untouched)
    WIDER(source, equal := network(4))
    assert same(source, equal)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (Joined(7, size=4), r"conv\.weight \(4, 3, 3, 3\) -> \(7, 3, 3, 3\): cannot widen"),
        (Joined(7, kernel=5), r"conv: slices of shapes \(7, 3, 3, 3\) .* do not fit into \(7, 3, 5, 5\)"),
    ],
    ids=["larger images", "larger kernels"],
)
def test_only_the_number_of_channels_may_differ(target, told):
    untouched = deepcopy(target)
    with pytest.raises(ValueError, match=told):
        WIDER(Joined(4), target)
    assert same(target, untouched)


def test_a_bias_that_only_the_source_has_is_named():
    with pytest.raises(ValueError, match=r"fc1\.bias \(4,\): both networks need"):
        WIDER(net("mlp", 0.1), net("mlp", 0.2, bias=False))


def test_a_layer_must_be_paired_by_its_name():
    source, target = net("mlp", 0.1), net("mlp", 0.2)
    with pytest.raises(ValueError, match=r"fc1\.weight .* paired by its name"):
        Transfer(unpaired, (Widen(),))(source, target)


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="did you mean 'keep'"):
        Widen(head="keeps")


def test_the_method_fits_on_a_page():
    assert len(Path(net2net.__file__).read_text().splitlines()) <= 60
