"""Weight matching against brute force, against known permutations, and against the function it must not change."""

import copy
from itertools import combinations, pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hetlib import zoo
from hetlib.chain import chain
from hetlib.merging import match_weights
from tests.conftest import redraw


class Recurrent(nn.Module):
    """One layer that is called twice, so that its rows and its columns are the same channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice, self.fc = nn.Conv2d(3, 7, 3), nn.Conv2d(7, 7, 3, padding=1), nn.Linear(7, 4)

    def forward(self, x):
        return self.fc(self.twice(self.twice(self.conv(x)).relu()).mean((2, 3)))


class Dense(nn.Module):
    """A batch norm and a Linear whose axes hold two groups each, and a Linear that reads a channel in many places."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.norm, self.pool, self.fc = nn.BatchNorm2d(9), nn.AdaptiveAvgPool2d(2), nn.Linear(36, 4)

    def forward(self, x):
        x = self.one(x)
        return self.fc(self.pool(self.norm(torch.cat([x, self.two(x.relu())], 1))).flatten(1))


def torchvision_resnet10():
    """ResNet-18 with one block a stage in place of two."""
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


MODELS = {
    "mlp": lambda: zoo.build("mlp", hidden=(20, 15, 10)),
    "deep mlp": lambda: zoo.build("mlp", hidden=(12,) * 6, bias=False),
    "vgg11": lambda: zoo.build("vgg11", width=1 / 16, bn=False),
    "vgg11 with batch norm": lambda: zoo.build("vgg11", width=1 / 16, bn=True),
    "resnet18": lambda: zoo.build("resnet18", width=1 / 16),
    "resnet20, padded shortcuts": lambda: zoo.build("resnet20"),
    "dense": Dense,
    "recurrent": Recurrent,
}


def network(name, seed):
    """Drawn weights and statistics, no two of a tensor alike."""
    return redraw(MODELS[name]().eval(), torch.Generator().manual_seed(seed))


def images(size=32, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def free(model):
    return [group for group in chain(model).axes if group.fixed is None]


def shuffled(model, seed):
    generator, other = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    state = other.state_dict()
    for group in free(other):
        group.permute_(state, torch.randperm(group.size, generator=generator))
    other.load_state_dict(state)
    return other


@torch.no_grad()
def distance(a, b):
    return sum(
        (one.double() - two.double()).square().sum() for one, two in zip(a.parameters(), b.parameters(), strict=True)
    ).sqrt()


def assert_same_state(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key


def assert_same_function(a, b, x):
    with torch.no_grad():
        expected = a.double()(x)
        torch.testing.assert_close(b.double()(x), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("name", MODELS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
def test_the_function_stays_and_the_networks_come_nearer(name, seed):
    source, target = network(name, seed), network(name, seed + 1)
    found = match_weights(source, target, seed=seed)
    assert all(after <= before for before, after in pairwise(found.distances))
    assert found.distances[-1] == found.distances[-2] <= found.distances[0]
    kept = all(order.tolist() == sorted(order.tolist()) for order in found.permutations)
    assert (found.distances[-1] == found.distances[0]) == kept  # the order at hand may be the best there is
    assert found.distances[0] == pytest.approx(float(distance(source, target)))
    assert found.distances[-1] == pytest.approx(float(distance(found.model, target)))
    assert_same_function(source, found.model, images())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in MODELS if name != "recurrent"])
def test_a_shuffled_copy_is_put_in_order_to_the_bit(name, seed):
    model = network(name, seed)
    found = match_weights(shuffled(model, seed + 1), model, seed=seed)
    assert found.distances[0] > 1
    assert found.distances[-1] == 0
    assert_same_state(found.model, model)


def test_torchvision_s_resnet_is_put_in_order_without_changing_its_function():
    torch.manual_seed(0)
    model = torchvision_resnet10().eval()
    source = shuffled(model, 1)
    found = match_weights(source, model)
    assert_same_state(found.model, model)
    assert_same_function(source, found.model, images())


@pytest.mark.parametrize("name", ["mlp", "vgg11 with batch norm", "dense"])
def test_no_exchange_of_two_channels_comes_nearer(name):
    target = network(name, 1)
    found = match_weights(network(name, 0), target)
    parameters = {name: value.detach() for name, value in target.named_parameters()}
    state = found.model.state_dict()
    for group in found.groups:
        names = {member.name for member in group.members} & parameters.keys()
        for i, j in list(combinations(range(group.size), 2))[:60]:
            order = torch.arange(group.size)
            order[[i, j]] = order[[j, i]]
            moved = dict(state)
            group.permute_(moved, order)
            gain = sum(float((parameters[n].double() * (moved[n].double() - state[n])).sum()) for n in names)
            assert gain < 1e-5


@given(n=st.integers(1, 5), inputs=st.integers(1, 3), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_with_one_hidden_layer_nothing_is_nearer(n, inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    source, target = (nn.Sequential(nn.Linear(inputs, n), nn.ReLU(), nn.Linear(n, 2)).double() for _ in range(2))
    for parameter in (*source.parameters(), *target.parameters()):
        parameter.data.normal_(generator=generator)
    (w1, b1, w2, _), (v1, c1, v2, _) = ([p.detach() for p in model.parameters()] for model in (source, target))
    least = min(
        float((w1[p] - v1).square().sum() + (b1[p] - c1).square().sum() + (w2[:, p] - v2).square().sum())
        for p in map(list, permutations(range(n)))
    )
    last = float((source[2].bias - target[2].bias).detach().square().sum())
    assert match_weights(source, target).distances[-1] ** 2 == pytest.approx(least + last, rel=1e-9)


@pytest.mark.parametrize("name", ["vgg11 with batch norm", "resnet18", "recurrent"])
def test_the_permutations_lead_from_the_source_to_the_model(name):
    source = network(name, 0)
    found = match_weights(source, network(name, 1))
    state = copy.deepcopy(source.state_dict())
    assert [group.size for group in found.groups] == [group.size for group in free(source)]
    for group, permutation in zip(found.groups, found.permutations, strict=True):
        group.permute_(state, permutation)
    source.load_state_dict(state)
    assert_same_state(found.model, source)


def test_equal_seeds_give_equal_results_whatever_the_global_one():
    source, target = network("resnet18", 0), network("resnet18", 1)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(match_weights(source, target, seed=3))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(results[0].model, results[1].model)
    assert results[0].distances == results[1].distances
    assert match_weights(source, target, seed=4).distances != results[0].distances


def test_running_statistics_move_but_do_not_decide():
    source, target = network("vgg11 with batch norm", 0), network("vgg11 with batch norm", 1)
    plain = match_weights(source, target)
    other = copy.deepcopy(target)
    for buffer in other.buffers():
        buffer.mul_(1000)
    for ours, theirs in zip(plain.permutations, match_weights(source, other).permutations, strict=True):
        assert torch.equal(ours, theirs)


def test_a_shared_tensor_counts_once():
    def build(seed):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
        model[4].weight = model[2].weight
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.normal_(generator=generator)
        return model

    found = match_weights(build(0), build(1))
    assert found.model[4].weight is found.model[2].weight
    assert found.distances[0] == pytest.approx(float(distance(build(0), build(1))))
    assert_same_function(build(0), found.model, torch.randn(5, 3, dtype=torch.float64))


def test_arguments_stay_as_they_are():
    source, target = network("resnet18", 0).train(), network("resnet18", 1)
    before = copy.deepcopy(source), copy.deepcopy(target)
    found = match_weights(source, target)
    assert_same_state(source, before[0])
    assert_same_state(target, before[1])
    assert found.model.training
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    assert not {p.data_ptr() for p in found.model.parameters()} & {p.data_ptr() for p in source.parameters()}


def test_a_network_near_itself_stays():
    model = network("vgg11", 0)
    found = match_weights(model, model)
    assert found.distances == (0.0, 0.0)
    assert all(torch.equal(order, torch.arange(len(order))) for order in found.permutations)


def test_neurons_that_are_all_alike_come_to_rest():
    source, target = (zoo.build("mlp", in_features=3, hidden=(6, 6)) for _ in range(2))
    for parameter in source.parameters():
        nn.init.constant_(parameter, 0.1)
    assert len(match_weights(source, target).distances) <= 3


def test_sweeps_are_counted():
    source, target = network("deep mlp", 0), network("deep mlp", 1)
    assert len(match_weights(source, target, sweeps=1).distances) == 2
    assert_same_state(match_weights(source, target, sweeps=0).model, source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_the_sources(dtype):
    model = network("mlp", 0)
    found = match_weights(shuffled(model, 1).to(dtype), model)
    assert_same_state(found.model, model.to(dtype))


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ({"hidden": (5, 4)}, {"hidden": (5, 3)}, r"fc2\.weight is \(4, 5\) and \(3, 5\)"),
        ({"hidden": (5, 4)}, {"hidden": (5,)}, r"fc2\.weight is \(4, 5\) and \(10, 5\)"),
        ({"hidden": (5,)}, {"hidden": (5, 10)}, r"fc3\.weight is missing and \(10, 10\)"),
        ({"hidden": (5,)}, {"hidden": (5,), "bias": False}, r"fc1\.bias is \(5,\) and missing"),
    ],
)
def test_networks_of_different_shape_are_refused(source, target, says):
    with pytest.raises(ValueError, match=says):
        match_weights(*(zoo.build("mlp", in_features=3, **options) for options in (source, target)))


def test_weights_that_are_no_numbers_are_refused():
    source, target = network("mlp", 0), network("mlp", 1)
    target.fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not finite where the channels of fc\d\.\w+ stand"):
        match_weights(source, target)
