"""The grammar's stages one by one, the baselines made of them, and every pair of networks they are for."""

from copy import deepcopy
from functools import cache
from itertools import combinations, pairwise
from math import isclose, sqrt

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from hetlib import baselines, tlv, zoo
from hetlib.chain.nested import blocks, flatten, leaves, only
from hetlib.kernels.overlay import overlay
from hetlib.match import by_blocks, by_score, shape_score
from hetlib.transfer import Overlay, Pair, Transfer

PAIRS = [("vgg16", "resnet18"), ("resnet18", "resnet34"), ("resnet50", "mobilenet_v2"), ("squeezenet1_1", "resnet18")]
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def in_order(context):
    """Every layer of the target with the source's at the same place in the list."""
    pairs = zip(flatten(context.target), flatten(context.source), strict=True)
    return [Pair(target, source) for (target, _), (source, _) in pairs]


TRACE = Transfer(in_order, (Overlay("trace"),))
FIRST = Transfer(lambda context: [Pair("0", "0")], (Overlay("trace"),))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def drawn(name):
    torch.manual_seed(0)
    return getattr(torchvision.models, name)()


def born(name):
    """A new copy: to draw VGG-16's weights takes many times as long."""
    return deepcopy(drawn(name))


class TestStandardise:
    def test_every_layer_with_weights_stands_once_in_order(self):
        model = born("resnet18")
        names = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))]
        assert [name for name, _ in flatten(model)] == names
        assert [name for name, _ in leaves(blocks(model))] == names

    def test_residual_blocks_are_blocks_and_stages_are_laid_out(self):
        outline = [node if isinstance(node, str) else len(node) for node in self.outline(blocks(born("resnet18")))]
        assert outline == ["conv1", "bn1", 4, 4, 6, 4, 6, 4, 6, 4, "fc"]
        assert [len(node) for node in blocks(born("vgg16"))] == [13, 3]

    def outline(self, nodes):
        return [node if isinstance(node, list) else node[0] for node in nodes]

    def test_a_wrapper_adds_no_level_and_single_layers_are_laid_out(self):
        pair = lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
        model = nn.Sequential(
            nn.Sequential(nn.Sequential(pair())), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        )
        assert self.names(blocks(model)) == [["0.0.0.0", "0.0.0.2"], "1.0", "1.1"]
        assert self.names(blocks(nn.Sequential(nn.Sequential(pair())))) == ["0.0.0", "0.0.2"]
        # Three single layers and one block: flattened, because this group is not the whole network.
        crowded = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), pair())
        assert self.names(blocks(nn.Sequential(crowded, nn.Linear(3, 2)))) == [
            ["0.0", "0.1", "0.2", "0.3.0", "0.3.2"],
            "1",
        ]

    def names(self, nodes):
        return [self.names(node) if isinstance(node, list) else node[0] for node in nodes]

    def test_a_shared_module_stands_at_its_first_name(self):
        conv = nn.Conv2d(3, 3, 1)
        assert [name for name, _ in leaves(blocks(nn.Sequential(conv, nn.ReLU(), conv)))] == ["0"]

    def test_a_batch_norm_without_weights_is_no_layer(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3))
        assert [name for name, _ in flatten(model)] == [name for name, _ in leaves(blocks(model))] == ["0", "2"]
        assert len(baselines.transfer(deepcopy(model), model).plot().axes) == 1

    def test_a_network_may_be_a_single_layer(self):
        layer = nn.Linear(3, 2)
        assert flatten(layer) == blocks(layer) == [("", layer)]

    def test_only_one_kind_keeps_the_nesting(self):
        assert [len(node) for node in only(blocks(born("vgg16")), nn.Linear)] == [3]


class TestScore:
    def test_agrees_with_the_vectors(self, vectors):
        archive = np.load(vectors / "tlv.npz")
        keys = [key for key in archive.files if key.startswith("score/shape/")]
        assert keys
        for key in keys:
            a, b = (tuple(map(int, shape.split("x"))) for shape in key.rsplit("/", 1)[-1].split("__"))
            assert shape_score(a, b) == pytest.approx(float(archive[key]), rel=1e-12)

    @given(shapes, shapes)
    def test_is_symmetric_and_one_for_equal_shapes_alone(self, a, b):
        assert isclose(shape_score(a, b), shape_score(b, a))
        assert 0 <= shape_score(a, b) <= 1
        assert (shape_score(a, b) == 1) == (a == b)
        assert (shape_score(a, b) == 0) == (len(a) != len(b))


def flat_value(scores, picks):
    """What a flat matching earns, by its definition."""
    total, before = 0.0, 0
    for row, pick in zip(scores, picks, strict=True):
        if pick is not None:
            back = before - (pick + 1)
            total += row[pick] - (back + 1) / 2 * (back >= 0)
            before = pick + 1
    return total


def flat_oracle(scores):
    """The most that any matching earns, all of them tried."""
    choices = [None, *range(len(scores[0]))]
    best = 0.0
    for number in range(len(choices) ** len(scores)):
        picks = [choices[number // len(choices) ** i % len(choices)] for i in range(len(scores))]
        best = max(best, flat_value(scores, picks))
    return best


class TestFlatMatching:
    @given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**16))
    def test_nothing_earns_more(self, n_target, n_source, seed):
        scores = (
            torch.rand(n_target, n_source, generator=torch.Generator().manual_seed(seed)).double().round(decimals=2)
        )
        picks = by_score(scores)
        assert flat_value(scores.tolist(), picks) == pytest.approx(flat_oracle(scores.tolist()))

    def test_a_source_serves_again_only_where_that_pays(self):
        assert by_score(torch.tensor([[0.6, 0.2], [0.9, 0.95]])) == [0, 1]
        assert by_score(torch.tensor([[0.9], [0.8]])) == [0, 0]
        assert by_score(torch.tensor([[0.9], [0.4]])) == [0, None]

    def test_no_likeness_is_no_match(self):
        assert by_score(torch.zeros(3, 2)) == [None] * 3
        with pytest.raises(ValueError, match="the source has no layers"):
            by_score(torch.zeros(3, 0))


def block_oracle(sources, targets, score):
    """What the best matching of two lists earns: every division of the targets into runs, every choice of sources."""
    if not sources or not targets:
        return 0.0

    def alike(a, b):
        if isinstance(a, list) and isinstance(b, list):
            return block_oracle(a, b, score)
        return 0.0 if isinstance(a, list) or isinstance(b, list) else score(a, b)

    best, runs = 0.0, [(a, b) for a in range(len(targets)) for b in range(a + 1, len(targets) + 1)]
    for count in range(1, min(len(sources), len(targets)) + 1):
        for chosen in combinations(range(len(sources)), count):
            for taken in combinations(runs, count):
                if all(one[1] <= two[0] for one, two in pairwise(taken)):
                    earned = sum(
                        sum(alike(sources[j], targets[i]) for i in range(*run)) / sqrt(run[1] - run[0])
                        for j, run in zip(chosen, taken, strict=True)
                    )
                    best = max(best, earned)
    return best


items = st.lists(st.one_of(st.integers(1, 6), st.lists(st.integers(1, 6), min_size=1, max_size=3)), max_size=4)


class TestBlockMatching:
    @settings(max_examples=60)
    @given(items, items)
    def test_nothing_earns_more(self, sources, targets):
        from hetlib.match.likeness import _align

        score = lambda a, b: shape_score((a,), (b,))
        value, pairs = _align(sources, targets, score)
        assert value == pytest.approx(block_oracle(sources, targets, score))
        assert pairs == by_blocks(sources, targets, score)
        assert bool(pairs) == (value > 0)

    @settings(max_examples=60)
    @given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**16))
    def test_the_pairs_earn_what_was_promised(self, n_target, n_source, seed):
        scores = torch.rand(n_target, n_source, generator=torch.Generator().manual_seed(seed)).double()
        scores = scores.where(scores > 0.4, 0).tolist()  # some pairs are ruled out
        pairs = by_blocks(range(n_source), range(n_target), lambda j, i: scores[i][j])
        runs = [[i for i, j in pairs if j == source] for source in {j for _, j in pairs}]
        earned = sum(
            sum(scores[i][j] for i in run) / sqrt(run[-1] - run[0] + 1)
            for run, j in ((run, dict(pairs)[run[0]]) for run in runs)
        )
        assert pairs == sorted(pairs)
        assert earned == pytest.approx(block_oracle(range(n_source), range(n_target), lambda j, i: scores[i][j]))

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def test_a_list_is_matched_with_itself(self, layers):
        named = list(enumerate(layers))
        pairs = by_blocks(named, named, lambda a, b: shape_score((a[1],), (b[1],)))
        assert [target for target, _ in pairs] == named
        assert all(source[1] == target[1] for target, source in pairs)


class TestClip:
    @pytest.mark.parametrize("case", ["up", "down", "mixed"])
    def test_agrees_with_the_released_code(self, vectors, case):
        archive = np.load(vectors / "tlv.npz")
        source, before, after = (
            torch.from_numpy(archive[f"clip/{case}/{key}"]) for key in ("src", "tgt_before", "out")
        )
        kept = before.clone()
        assert torch.equal(overlay(source, before), after)
        assert torch.equal(before, kept)

    @given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=4))
    def test_there_and_back_is_the_identity(self, sizes):
        small = draw(*(size for size, _ in sizes))
        large = draw(*(size + more for size, more in sizes), seed=1)
        assert torch.equal(overlay(overlay(small, large), torch.zeros_like(small)), small)

    def test_other_numbers_of_axes_are_named(self):
        with pytest.raises(ValueError, match=r"\(3, 4\) cannot be laid over one of shape \(5,\)"):
            overlay(draw(3, 4), draw(5))

    @pytest.mark.parametrize("place", ["clip", "trace"])
    def test_the_layers_at_fault_are_named(self, place):
        source, target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5)), plain(4)
        before = deepcopy(target.state_dict())
        crossed = Transfer(lambda context: [Pair("0", "0"), Pair("3", "1")], (Overlay(place),))
        with pytest.raises(
            ValueError, match=r"1 \(5, 4\) -> 3 \(4, 4, 3, 3\): .* other numbers of axes|numbers of axes"
        ):
            crossed(source, target)
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def plain(width, depth=4):
    layers, inputs = [], 3
    for _ in range(depth):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)).eval()


class TestTrace:
    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
    def test_between_equal_networks_it_is_the_identity(self, name):
        torch.manual_seed(0)
        source, target = (getattr(torchvision.models, name)() for _ in range(2))
        for parameter in source.parameters():
            nn.init.normal_(parameter)
        TRACE(source, target)
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))

    @pytest.mark.parametrize("seed", range(5))
    def test_the_channels_that_matter_are_kept_all_the_way(self, seed):
        torch.manual_seed(seed)
        source, target = plain(12), plain(6)
        for module in source.modules():
            if isinstance(module, nn.Conv2d):
                dead = torch.randperm(12)[:6]
                module.weight.data[dead], module.bias.data[dead] = 0, 0
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
        TRACE(source, target)
        images = draw(4, 3, 8, 8)
        torch.testing.assert_close(target(images), source(images))

    def test_what_runs_first_decides_whatever_was_registered_first(self):
        class Reversed(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.head, self.body = nn.Conv2d(width, 5, 1), nn.Conv2d(3, width, 3)

            def forward(self, images):
                return self.head(self.body(images).relu())

        torch.manual_seed(0)
        source, target = Reversed(12), Reversed(6)
        dead = torch.randperm(12)[:6]
        source.body.weight.data[dead], source.body.bias.data[dead] = 0, 0
        TRACE(source, target)
        images = draw(4, 3, 8, 8)
        torch.testing.assert_close(target(images), source(images))

    def test_of_equal_norms_the_first_are_kept(self):
        source, target = plain(64, 1), plain(16, 1)
        nn.init.ones_(source[0].weight)
        source[0].bias.data = torch.arange(64.0)
        FIRST(source, target)
        assert target[0].bias.tolist() == list(range(16))

    def test_a_growing_layer_lies_in_the_middle(self):
        source, target = plain(4, 1), plain(8, 1)
        before = target[0].weight.clone()
        FIRST(source, target)
        assert torch.equal(target[0].weight[2:6], source[0].weight)
        assert torch.equal(target[0].weight[:2], before[:2])


class TestBaselines:
    @pytest.mark.parametrize("method", baselines.METHODS)
    @pytest.mark.parametrize(("first", "second"), PAIRS)
    def test_every_pair_runs_and_reports_every_layer(self, first, second, method):
        source, target = born(first), born(second)
        report = baselines.transfer(source, target, method)
        counted = [name for name, layer in flatten(target) if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert [row.target for row in report if row.kind != "norm"] == counted
        assert all(row.fed for row in report if row.kind == "norm")
        assert all(parameter.isfinite().all() for parameter in target.parameters())
        assert bool(report.matched) == (method != "he")

    @pytest.mark.parametrize("method", ["dpiat", "tli"])
    def test_a_network_feeds_its_twin_all_but_running_statistics(self, method):
        torch.manual_seed(0)
        source, target = zoo.build("resnet18", width=0.125), zoo.build("resnet18", width=0.125)
        for parameter in source.parameters():
            nn.init.normal_(parameter)
        for module in source.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(3.0)
        buffers = deepcopy(dict(target.named_buffers()))
        baselines.transfer(source, target, method)
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
        assert all(torch.equal(value, buffers[name]) for name, value in target.named_buffers())

    @pytest.mark.parametrize("method", ["dpiat", "tli"])
    def test_grouped_and_other_convolutions_are_fed(self, method):
        def build(width, kind=nn.Conv2d):
            return nn.Sequential(
                kind(3, width, 3), nn.ReLU(), kind(width, width, 3, groups=2), kind(width, width, 3, groups=width)
            )

        source, target, twin = build(8), build(4), build(8)
        assert len(baselines.transfer(source, target, method).matched) == 3
        baselines.transfer(source, twin, method)
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), twin.parameters(), strict=True))
        # Only layers of one kind are paired: no weight is ever laid over one with another number of axes.
        assert not baselines.transfer(source, build(4, nn.Conv1d), method).matched

    @pytest.mark.parametrize("wrapped", ["source", "target"])
    def test_a_wrapped_network_is_fed_like_the_bare_one(self, wrapped):
        source, target = plain(8), plain(4)
        nets = {"source": source, "target": target} | {
            wrapped: nn.Sequential({"source": source, "target": target}[wrapped])
        }
        assert len(baselines.transfer(nets["source"], nets["target"]).matched) == 9

    def test_he_draws_convolutions_alone_and_by_its_seed(self):
        model, again, other = (zoo.build("resnet8", width=0.5) for _ in range(3))
        head = next(m for m in model.modules() if isinstance(m, nn.Linear)).weight.clone()
        for target, seed in ((model, 1), (again, 1), (other, 2)):
            baselines.transfer(nn.Identity(), target, "he", seed)
        convs = [[m for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (model, again, other)]
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(*convs[:2], strict=True))
        assert not torch.equal(convs[0][0].weight, convs[2][0].weight)
        wide = max(convs[0], key=lambda conv: conv.weight.numel())
        fan_out = wide.out_channels * wide.kernel_size[0] ** 2
        assert wide.weight.std().item() == pytest.approx(sqrt(2 / fan_out), rel=0.05)
        assert torch.equal(next(m for m in model.modules() if isinstance(m, nn.Linear)).weight, head)

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"unknown method 'dpait'.*did you mean 'dpiat'"):
            baselines.transfer(plain(4), plain(4), "dpait")
        with pytest.raises(ValueError, match=r"the target \(Identity\) has no layer that carries weights"):
            baselines.transfer(plain(4), nn.Identity())
        with pytest.raises(ValueError, match=r"the source \(Identity\) has no layer that carries weights"):
            baselines.transfer(nn.Identity(), plain(4))


class TestStagesOfTLV:
    @pytest.mark.parametrize("standardise", ["flatten", "blocks"])
    @pytest.mark.parametrize("match", ["index", "score", "blocks"])
    @pytest.mark.parametrize("place", ["variance", "clip", "trace"])
    @pytest.mark.parametrize(("first", "second"), PAIRS[:3])
    def test_any_stage_goes_with_any_other(self, first, second, standardise, match, place):
        source, target = born(first), born(second)
        report = tlv.transfer(source, target, standardise=standardise, match=match, place=place, linear=False)
        convolutions = [name for name, module in target.named_modules() if isinstance(module, nn.Conv2d)]
        assert [row.target for row in report if row.kind == "convolution"] == convolutions
        assert report.matched
        assert all(parameter.isfinite().all() for parameter in target.parameters())

    def test_what_is_not_matched_keeps_its_weights(self):
        source, target = nn.Sequential(nn.Conv2d(3, 8, 3)), plain(8)
        before = deepcopy(target)
        report = tlv.transfer(source, target, match="score", linear=False)
        kept = [row.target for row in report if row.source is None]
        assert kept
        assert all(torch.equal(target.get_submodule(name).weight, before.get_submodule(name).weight) for name in kept)

    def test_without_convolutions_only_linear_layers_are_drawn(self):
        source, target = plain(8), plain(8)
        before = deepcopy(target)
        report = tlv.transfer(source, target, convolutions=False)
        assert [row.target for row in report if row.fed] == ["14"]
        changed = [
            name for name, value in target.named_parameters() if not torch.equal(value, before.get_parameter(name))
        ]
        assert changed == ["14.weight", "14.bias"]

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ({"standardise": "block"}, "unknown standardisation 'block'.*did you mean 'blocks'"),
            ({"match": "dp"}, "unknown match 'dp'"),
            ({"place": "var"}, "unknown place 'var'"),
            ({"shuffle": "input"}, "unknown shuffle 'input'.*did you mean 'inputs'"),
        ],
    )
    def test_bad_names_change_nothing(self, how, says):
        source, target = plain(8), plain(4)
        before = deepcopy(target.state_dict())
        with pytest.raises(ValueError, match=says):
            tlv.transfer(source, target, **how)
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def normed(width):
    first, second = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3)
    norms = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
    model = nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.Flatten(), nn.Linear(width, 4))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


class Subclass(nn.Conv2d):
    """Adds nothing."""


def subclassed(model):
    for name in "03":
        layer = model.get_submodule(name)
        made = Subclass(layer.in_channels, layer.out_channels, 3)
        made.load_state_dict(layer.state_dict())
        model.set_submodule(name, made)
    return model


def with_all(wrap):
    def wrapped(model):
        for layer in [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]:
            wrap(layer)
        return model

    return wrapped


KINDS_OF_SOURCES = {
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "weight norm": with_all(parametrizations.weight_norm),
    "subclass": subclassed,
    "pruned": with_all(lambda layer: prune.identity(layer, "weight")),
}


@pytest.mark.parametrize("kind", KINDS_OF_SOURCES)
@pytest.mark.parametrize("method", ["dpiat", "tli", "score", "blocks"])
def test_a_source_of_another_class_feeds_as_its_plain_like(method, kind):
    def run(source, target):
        if method in baselines.METHODS:
            return baselines.transfer(source, target, method)
        return tlv.transfer(source, target, match=method, place="clip")

    plain, other = normed(6), normed(8)
    targets = [deepcopy(other), deepcopy(other)]
    source = KINDS_OF_SOURCES[kind](deepcopy(plain))
    reports = [run(one, target) for one, target in zip((plain, source), targets, strict=True)]
    assert len(reports[0].matched) == (5 if method in baselines.METHODS else 2)
    pairs = [[(row.target, row.source) for row in report] for report in reports]
    assert pairs[0] == pairs[1]
    for one, two in zip(*(target.parameters() for target in targets), strict=True):
        torch.testing.assert_close(one, two)
    if kind in ("SyncBatchNorm", "subclass"):  # as a target it is fed alike
        back = KINDS_OF_SOURCES[kind](deepcopy(other))
        run(plain, back)
        assert all(torch.equal(*both) for both in zip(back.parameters(), targets[0].parameters(), strict=True))


@pytest.mark.parametrize("method", ["dpiat", "tli"])
def test_a_source_with_spectral_norm_stays_as_it_is_in_training(method):
    source = with_all(parametrizations.spectral_norm)(normed(6)).train()
    before = deepcopy(source.state_dict())
    assert len(baselines.transfer(source, normed(8), method).matched) == 5
    assert source.training
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, lambda layer: prune.identity(layer, "weight")])
@pytest.mark.parametrize("method", ["dpiat", "tli", "he"])
def test_a_target_s_computed_weights_are_named(method, wrap):
    target = normed(8)
    wrap(target[3])
    before = deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=r"^the target's 3 \(8, 8, 3, 3\) has a weight that is computed"):
        baselines.transfer(normed(6), target, method)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_batch_norms_of_other_numbers_of_axes_are_not_alike():
    source = nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm3d(6), nn.ConvTranspose2d(6, 6, 3))
    target = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3))
    assert not baselines.transfer(source, target).matched
