"""HMT as a whole: agreement with the released code, what it leaves alone, its report and its errors."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hetlib import hmt, zoo
from hetlib.chain import chain, convolutions
from hetlib.transfer import Context
from tests import oracles


def conv_net(*shapes):
    return nn.Sequential(*(nn.Conv2d(shape[1], shape[0], tuple(shape[2:])) for shape in shapes))


def weights(model):
    return [layer.weight.detach().clone() for _, layer in convolutions(model)]


@pytest.mark.parametrize(("key", "order"), [("sequential", "chain"), ("shuffle", "shuffle"), ("interval", "interval")])
def test_agrees_with_the_released_code(vectors, key, order):
    with np.load(vectors / "hmt.npz") as file:
        get = lambda name: torch.from_numpy(file[f"hmt/chain/{name}"])
        given, before = [get(f"src_w{i}") for i in range(8)], [get(f"tgt_before_w{i}") for i in range(4)]
        expected = [get(f"{key}_w{i}") for i in range(4)]
    source, target = (conv_net(*(w.shape for w in group)) for group in (given, before))
    for model, group in ((source, given), (target, before)):
        model.load_state_dict({f"{i}.weight": w for i, w in enumerate(group)}, strict=False)
    hmt.transfer(source, target, order)
    assert all(torch.equal(found, wanted) for found, wanted in zip(weights(target), expected, strict=True))


def test_the_chain_leaves_projection_shortcuts_out():
    assert len(convolutions(zoo.build("vgg11"))) == 8
    assert len(convolutions(zoo.build("plainnet5"))) == 4
    names = [name for name, _ in convolutions(zoo.build("resnet8"))]
    assert len(names) == 7
    assert not any("downsample" in name for name in names)


@given(st.sampled_from(["chain", "shuffle", "interval"]), st.booleans(), st.integers(0, 3))
@settings(max_examples=15)
def test_only_matched_convolutions_change(order, align, seed):
    torch.manual_seed(seed)
    source, target = zoo.build("vgg8", width=0.125), zoo.build("resnet8", width=0.125)
    given, before = copy.deepcopy(source.state_dict()), copy.deepcopy(target.state_dict())
    report = hmt.transfer(source, target, order, align)
    fed = {f"{row.target}.weight" for row in report.matched}
    assert fed
    for name, value in source.state_dict().items():
        assert torch.equal(value, given[name])
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name]) != (name in fed), name


def test_same_shapes_are_copied_but_the_function_is_not():
    torch.manual_seed(0)
    source, target = zoo.build("vgg8", width=0.125), zoo.build("vgg8", width=0.125)
    report = hmt.transfer(source, target)
    assert {row.done for row in report if row.kind == "convolution"} == {"copied"}
    assert all(torch.equal(a, b) for a, b in zip(weights(source), weights(target), strict=True))
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(source.eval()(images), target.eval()(images))


def test_corrected_gain_keeps_the_response_to_a_constant():
    source = conv_net((4, 3, 3, 3))
    nn.init.constant_(source[0].weight, 0.5)
    plain, corrected = conv_net((8, 6, 5, 5)), conv_net((8, 6, 5, 5))
    hmt.transfer(source, plain)
    hmt.transfer(source, corrected, correct_gain=True)
    response = source[0].weight[0].sum()
    torch.testing.assert_close(corrected[0].weight[0].sum(), response)
    torch.testing.assert_close(plain[0].weight[0].sum(), response * 150 / 27)


def test_noise_touches_repeated_filters_only_and_is_seeded():
    source = conv_net((4, 3, 3, 3))
    found = []
    for seed in (0, 0, 1):
        target = conv_net((6, 3, 3, 3))
        hmt.transfer(source, target, noise=0.1, seed=seed)
        found.append(target[0].weight.detach())
    kept = source[0].weight.detach()
    assert all(torch.equal(w[:4], kept) for w in found)
    assert not torch.equal(found[0][4:], kept[:2])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert float((found[0][4:] - kept[:2]).std()) == pytest.approx(0.1 * float(kept.std()), rel=0.35)


def test_batch_norms_follow_their_convolutions():
    torch.manual_seed(0)
    source, target = zoo.build("vgg8", width=0.125), zoo.build("resnet8", width=0.0625)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.data.uniform_(0.5, 2)
    hmt.transfer(source, target, batch_norm=True)
    norms = [module for module in source.modules() if isinstance(module, nn.BatchNorm2d)]
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(target.bn1, name), getattr(norms[0], name)[:4])
        assert torch.equal(getattr(target.layer1[0].bn1, name), getattr(norms[1], name)[:4])
    assert torch.equal(target.layer1[0].downsample[1].weight, torch.ones(4))


def test_depthwise_targets_take_the_first_input_channel():
    source, target = conv_net((4, 4, 3, 3)), nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    hmt.transfer(source, target)
    assert torch.equal(target[0].weight, source[0].weight[:, :1])


def test_the_report_names_layers_shapes_and_what_was_done():
    report = hmt.transfer(zoo.build("vgg11", width=0.25), zoo.build("plainnet5", width=0.25))
    first = report.rows[0]
    assert first.source_shape == (16, 3, 3, 3)
    assert first.target_shape == (8, 3, 5, 5)
    assert first.done == "kernel 3 -> 5, outputs cropped 16 -> 8"
    text, html = str(report), report._repr_html_()
    for row in report:
        assert row.target in text
        assert row.target in html
    assert "HMT, chain order: 4 of 5 layers fed (4 of 4 convolutions, 0 of 1 linear layer)" in text
    assert len(report.sources) == 9


def test_the_report_draws_one_arrow_per_pair():
    report = hmt.transfer(zoo.build("vgg11", width=0.25), zoo.build("resnet8", width=0.25), "interval")
    figure = report.plot()
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == len(report.matched) == 4


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        (((4, 3, 3, 3),), ((4, 3, 3, 3), (4, 4, 3, 3)), {"order": "chian"}, "did you mean 'chain'"),
        (((4, 3, 3, 3),), ((4, 3, 3, 3),), {"order": [1]}, r"\[1\] out of range, the source has layers 0 to 0"),
        (((4, 3, 3, 3), (4, 4, 3, 3)), ((4, 3, 3, 3),), {"order": [1, 1]}, "repeated"),
        (((4, 3, 3, 3),), ((4, 3, 3, 3),), {"noise": -1}, "noise"),
        (((4, 3, 3, 3),), ((4, 3, 5, 5),), {"resizer": "zeros"}, "did you mean 'zero'"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(source, target, options, message):
    source, target = conv_net(*source), conv_net(*target)
    before = weights(target)
    with pytest.raises(ValueError, match=message):
        hmt.transfer(source, target, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(target), strict=True))


def test_a_convolution_whose_weight_has_other_axes_is_named_with_both_shapes():
    source, target = conv_net((4, 3, 3, 3), (4, 4, 3, 3)), conv_net((4, 3, 3, 3), (4, 4, 3, 3))
    source[1].weight = nn.Parameter(torch.ones(4, 36))
    before = weights(target)
    with pytest.raises(
        ValueError, match=r"1 \(4, 36\) -> 1 \(4, 4, 3, 3\): .*same 1, 2 or 4 axes; nothing was transferred"
    ):
        hmt.transfer(source, target)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(target), strict=True))


@pytest.fixture(scope="module")
def torchvision():
    torch.manual_seed(0)
    names = ("resnet18", "resnet34", "convnext_tiny", "regnet_x_400mf", "squeezenet1_1")
    return {name: zoo.build(f"torchvision/{name}").eval() for name in names}


def paired(source, target, order):
    """The layers that HMT pairs, target first; nothing is written."""
    return [(pair.target, pair.source) for pair in hmt.ByPosition(order)(Context(source, target))]


@pytest.mark.parametrize("source", ["resnet18", "resnet34", "convnext_tiny"])
@pytest.mark.parametrize("target", ["resnet18", "resnet34", "convnext_tiny"])
def test_the_longest_path_is_the_chain_where_projections_are_called_downsample_or_there_are_none(
    torchvision, source, target
):
    networks = torchvision[source], torchvision[target]
    assert paired(*networks, "longest") == paired(*networks, "chain")


@pytest.mark.parametrize("name", ["regnet_x_400mf", "squeezenet1_1"])
def test_the_longest_path_leaves_out_what_the_chain_does_not(torchvision, name):
    """RegNet's projections are called `proj`, and half of SqueezeNet's 3x3 convolutions stand beside the path."""
    source, target = torchvision["resnet34"], copy.deepcopy(torchvision[name])
    found = chain(target)
    path = [layer.name for layer in found.longest()]
    aside = {layer.name for layer in found.layers if isinstance(layer.module, nn.Conv2d)} - set(path)
    assert any(word in layer for layer in aside for word in ("proj", "expand3x3"))
    assert aside & {layer for layer, _ in paired(source, target, "chain")}
    before = {layer: target.get_submodule(layer).weight.detach().clone() for layer in aside}
    report = hmt.transfer(source, target, order="longest")
    fed = [layer for layer, _ in convolutions(source)][: len(path)]
    assert [(row.target, row.source) for row in report.matched] == list(zip(path[: len(fed)], fed, strict=True))
    assert all(torch.equal(target.get_submodule(layer).weight, weight) for layer, weight in before.items())
    assert f"HMT, longest order: {len(report.matched)} of" in str(report)


def test_a_network_that_decides_by_shapes_is_given_as_its_chain():
    class Deciding(nn.Sequential):
        def forward(self, images):
            return super().forward(images) if images.shape[-1] > 4 else images

    source, target = conv_net((4, 3, 3, 3), (4, 4, 3, 3)), Deciding(*conv_net((4, 3, 3, 3), (4, 4, 3, 3)))
    with pytest.raises(ValueError, match="pass example="):
        hmt.transfer(source, target, "longest")
    report = hmt.transfer(source, chain(target, torch.zeros(1, 3, 8, 8)), "longest")
    assert len(report.matched) == 2
    assert all(torch.equal(a, b) for a, b in zip(weights(source), weights(target), strict=True))


def test_a_main_path_that_is_called_downsample_is_on_the_longest_path():
    class Staged(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.downsample, self.head = (nn.Conv2d(*size, 3) for size in ((3, 4), (4, 6), (6, 8)))

        def forward(self, images):
            return self.head(self.downsample(self.stem(images)))

    source, target = conv_net((4, 3, 3, 3), (6, 4, 3, 3), (8, 6, 3, 3)), Staged()
    assert paired(source, target, "chain") == [("stem", "0"), ("head", "1")]
    assert paired(source, target, "longest") == [("stem", "0"), ("downsample", "1"), ("head", "2")]
    hmt.transfer(source, target, "longest")
    images = torch.randn(2, 3, 9, 9)
    for mine, theirs in zip((target.stem, target.downsample, target.head), source, strict=True):
        mine.bias.data.copy_(theirs.bias.data)
    torch.testing.assert_close(target(images), source(images))


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_of_equal_branches_the_one_registered_first_is_on_the_longest_path(order):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            for name in order:
                self.add_module(name, nn.Conv2d(3, 4, 3))
            self.end = nn.Conv2d(8, 4, 3)

        def forward(self, images):
            return self.end(torch.cat((self.second(images), self.first(images)), 1))

    source, target = conv_net((4, 3, 3, 3), (4, 4, 3, 3)), Branches()
    assert paired(source, target, "longest") == [(order[0], "0"), ("end", "1")]
    assert paired(target, source, "longest") == [("0", order[0]), ("1", "end")]


def test_only_the_longest_order_traces():
    """So that the released orders take networks that torch.fx cannot read."""

    class Untraceable(nn.Sequential):
        def forward(self, images):
            return super().forward(images) if images.sum() > 0 else images

    source, target = (Untraceable(*conv_net((4, 3, 3, 3), (4, 4, 3, 3))) for _ in range(2))
    for order in ("chain", "shuffle", "interval", [1, 0]):
        assert hmt.transfer(source, target, order).matched
    before = weights(target)
    with pytest.raises(ValueError, match=r"cannot read Untraceable: tracing stopped"):
        hmt.transfer(source, target, "longest")
    assert all(torch.equal(a, b) for a, b in zip(before, weights(target), strict=True))


@pytest.mark.parametrize("order", ["chain", "longest"])
def test_networks_of_linear_layers_have_no_convolution_to_feed(order):
    with pytest.raises(ValueError, match=r"the target \(Sequential\) has no 2-D convolution"):
        hmt.transfer(conv_net((4, 3, 3, 3)), zoo.build("mlp"), order)


def test_networks_without_convolutions_are_named():
    with pytest.raises(ValueError, match=r"the target \(Linear\) has no 2-D convolution"):
        hmt.transfer(conv_net((4, 3, 3, 3)), nn.Linear(3, 3))


@pytest.mark.parametrize("resizer", ["bilinear", "nearest", "zero"])
def test_kernels_that_are_not_square_are_resampled_along_both_axes(resizer):
    shapes = ((4, 3, 3, 3), (4, 4, 1, 7), (4, 4, 7, 1)), ((6, 3, 3, 1), (2, 4, 7, 1), (4, 4, 3, 3))
    source, target = (conv_net(*side) for side in shapes)
    report = hmt.transfer(source, target, resizer=resizer)
    for weight, found in zip(weights(source), weights(target), strict=True):
        expected = oracles.resize(weight, tuple(found.shape), resizer=resizer)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    notes = [row.done.partition(",")[0] for row in report]
    assert notes == ["kernel 3 -> 3x1", "kernel 1x7 -> 7x1", "kernel 7x1 -> 3"]


def test_inception_is_fed_and_feeds():
    """Its middle has kernels of 1x7 and 7x1."""
    torch.manual_seed(0)
    inception = zoo.build("torchvision/inception_v3", init_weights=False)
    resnet = zoo.build("torchvision/resnet50")
    for source, target in ((resnet, inception), (inception, resnet)):
        report = hmt.transfer(source, target)
        assert len(report.matched) == 49
        assert any(word in str(report) for word in ("kernel 3 -> 1x7", "kernel 7x1 -> 3"))
        for row in report.matched:
            weight, found = (
                model.get_submodule(name).weight.detach()
                for model, name in ((source, row.source), (target, row.target))
            )
            corner = (2, min(2, weight.shape[1], found.shape[1]))  # a loop over all channels takes minutes
            expected = oracles.resize(weight[:2, : corner[1]], (*corner, *found.shape[2:]))
            torch.testing.assert_close(found[:2, : corner[1]].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_convolutions_that_are_not_2d_keep_their_values(kind):
    source, target = (nn.Sequential(nn.Conv2d(3, 4, 3), kind(4, 4, size)) for size in (3, 5))
    before = target[1].weight.detach().clone()
    report = hmt.transfer(source, target)
    assert [row.target for row in report.matched] == ["0"]
    assert torch.equal(target[1].weight, before)
