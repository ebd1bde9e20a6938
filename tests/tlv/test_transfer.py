"""TLV: the released code's own outputs, plain loops, and what must always hold."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib import tlv, zoo
from hetlib.kernels.select import HOW, moments, pick, shuffle_rows_
from tests.oracles import plain_width

RELEASED = {"maxVar": "max", "minVar": "min", "twoTailed": "two_tailed", "interLeaved": "interleaved"}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def released(vectors):
    """The released code's inputs and outputs by name."""
    archive = np.load(vectors / "tlv.npz")
    return {key: torch.from_numpy(archive[key]) for key in archive.files}


def cases(released, start, end):
    found = {key: value for key, value in released.items() if key.startswith(start) and end in key.rsplit("/", 1)[-1]}
    assert found
    return found.items()


class TestReleasedCode:
    def test_choices(self, released):
        variances = released["tlv/choose/variances"]
        for key, expected in cases(released, "tlv/choose/", "_"):
            how, n = key.rsplit("/", 1)[-1].split("_")
            assert torch.equal(pick(variances, int(n), RELEASED[how]), expected), key

    def test_kernel_sizes(self, released):
        for key, expected in cases(released, "tlv/kernel/", "out_zero"):
            folder, name = key.rsplit("/", 1)
            found = tlv.resize_kernel(released[f"{folder}/src"], expected.shape[-1], name.removeprefix("out_zero_"))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    def test_widths(self, released):
        for key, expected in cases(released, "tlv/branch/", "out"):
            folder = key.rsplit("/", 1)[0]
            weight, target = released[f"{folder}/src"], released[f"{folder}/tgt_before"]
            assert torch.equal(tlv.resize_width(weight, target, drop="min"), expected), key

    def test_whole_transfers_with_their_seeds(self, released):
        for key, expected in cases(released, "tlv/full_", "out_seed"):
            folder, name = key.rsplit("/", 1)
            generator = torch.Generator().manual_seed(int(name.removeprefix("out_seed")))
            weight, target = released[f"{folder}/src"], released[f"{folder}/tgt_before"]
            assert torch.equal(tlv.fill(weight, target, generator=generator, legacy_random=True), expected), key

    def test_biases(self, released):
        assert torch.equal(
            tlv.resize_bias(released["tlv/bias/10_to_6/src"], 6),
            released["tlv/bias/10_to_6/out"],
        )
        drawn = tlv.resize_bias(released["tlv/bias/4_to_9/src"], 9, torch.Generator().manual_seed(5))
        assert torch.equal(drawn, released["tlv/bias/4_to_9/out_seed5"])

    def test_statistics_and_crossover(self, released):
        found = tlv.statistics([released["tlv/fc/w0"], released["tlv/fc/w1"]])
        np.testing.assert_allclose(found, released["tlv/fc/mean_std_L1"], rtol=1e-6)
        target, pretrained, uniform = (released[f"crossover/{name}"] for name in ("target", "pretrained", "uniform"))
        assert torch.equal(tlv.crossover(target, pretrained, 0.4, uniform), released["crossover/out_p0.4"])


class TestPick:
    @given(
        n=st.integers(1, 12),
        total=st.integers(1, 12),
        how=st.sampled_from(HOW),
        rows=st.integers(1, 3),
        seed=st.integers(0, 99),
    )
    def test_rows_are_chosen_from_one_by_one(self, n, total, how, rows, seed):
        if n > total:
            return
        variance = draw(rows, total, seed=seed).abs()
        whole = pick(variance, n, how, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(whole, torch.stack([pick(row, n, how, generator=generator) for row in variance]))
        assert all(len(set(row.tolist())) == whole.shape[1] for row in whole), "no filter twice"
        if how != "random":
            assert torch.equal(variance.gather(1, whole), variance.gather(1, whole).sort(1).values)

    @given(values=st.lists(st.sampled_from([0.0, -0.0, 1e-38, 0.5, -0.5, 3.0, -7.0, float("inf")]), min_size=1))
    def test_the_order_is_that_of_a_stable_sort(self, values):
        values = torch.tensor(values)
        assert torch.equal(pick(values, len(values), "min"), values.argsort(stable=True))

    def test_ties_keep_their_order(self):
        assert pick(torch.zeros(512), 3, "min").tolist() == [0, 1, 2]

    def test_the_released_draw_repeats_and_misses_the_last(self):
        drawn = pick(torch.zeros(128), 64, "random", generator=torch.Generator().manual_seed(0), legacy_random=True)
        assert drawn.max() < 127
        assert len(set(drawn.tolist())) < 60
        with pytest.raises(ValueError, match="from one filter"):
            pick(torch.zeros(1), 1, "random", legacy_random=True)

    @pytest.mark.parametrize(
        ("n", "how", "says"),
        [(0, "max", "from 1 to 4, got 0"), (5, "max", "from 1 to 4, got 5"), (2, "maxvar", "did you mean 'max'")],
    )
    def test_what_cannot_be_chosen(self, n, how, says):
        with pytest.raises(ValueError, match=says):
            pick(torch.zeros(4), n, how)


def test_moments_are_those_of_torch():
    weight = draw(7, 5, 3, 3)
    mean, variance = moments(weight)
    torch.testing.assert_close(mean, weight.mean((2, 3)))
    torch.testing.assert_close(variance, weight.var((2, 3), correction=0))
    some = torch.tensor([5, 0])
    torch.testing.assert_close(moments(weight, some)[1], variance[some])
    filters = moments(weight.flatten(1).unsqueeze(1))[1].squeeze(1)
    torch.testing.assert_close(filters, weight.var((1, 2, 3), correction=0))
    torch.testing.assert_close(moments(draw(3, 2, 9, 9))[1], draw(3, 2, 9, 9).var((2, 3), correction=0))
    assert moments(draw(4, 6, 1, 1))[1].count_nonzero() == 0
    assert moments(weight.half())[0].dtype == torch.float32


class TestKernelSize:
    def test_each_axis_by_itself(self):
        weight = draw(2, 3, 1, 7)
        square = tlv.resize_kernel(weight, 3)
        assert square.shape == (2, 3, 3, 3)
        assert square[:, :, [0, 2]].count_nonzero() == 0
        torch.testing.assert_close(square[:, :, 1, 0], weight[:, :, 0, :5].mean(-1))

    def test_drawn_borders_have_hes_scale(self):
        weight = torch.zeros(64, 32, 3, 3)
        padded = tlv.resize_kernel(weight, 7, pad="init", generator=torch.Generator().manual_seed(0))
        assert padded[:, :, 2:5, 2:5].count_nonzero() == 0
        border = padded[padded != 0]
        assert border.std() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.02)

    @pytest.mark.parametrize(
        ("size", "how", "says"),
        [
            (4, {}, "3x3 kernel has no centre place in 4x4"),
            (5, {"pool": "mean"}, "unknown pooling 'mean'"),
            (5, {"pad": "ones"}, "unknown padding 'ones'"),
        ],
    )
    def test_what_has_no_answer(self, size, how, says):
        with pytest.raises(ValueError, match=says):
            tlv.resize_kernel(draw(2, 2, 3, 3), size, **how)


class TestWidth:
    @given(
        shapes=st.tuples(*[st.integers(1, 6)] * 4),
        taps=st.sampled_from([1, 2, 3]),
        keep=st.sampled_from(["interleaved", "max", "min"]),
        drop=st.sampled_from(["interleaved", "max", "min"]),
        seed=st.integers(0, 99),
    )
    def test_equals_the_plain_loop_in_all_eight_cases(self, shapes, taps, keep, drop, seed):
        outputs, inputs, wanted, slots = shapes
        weight, target = draw(outputs, inputs, taps, taps, seed=seed), draw(wanted, slots, taps, taps, seed=seed + 1)
        base = draw(wanted, inputs, taps, taps, seed=seed + 2)
        before = weight.clone(), target.clone(), base.clone()
        found = tlv.resize_width(weight, target, keep, drop, base)
        assert torch.equal(found, plain_width(weight, target, keep, drop, base))
        assert all(torch.equal(*pair) for pair in zip((weight, target, base), before, strict=True))

    def test_parameters_are_taken_as_they_are(self):
        weight, target = draw(8, 3, 3, 3), draw(5, 4, 3, 3, seed=1)
        found = tlv.resize_width(nn.Parameter(weight), nn.Parameter(target))
        assert torch.equal(found, tlv.resize_width(weight, target))

    def test_an_equal_shape_is_copied(self):
        weight = draw(4, 3, 3, 3)
        assert torch.equal(tlv.resize_width(weight, draw(4, 3, 3, 3, seed=1)), weight)

    def test_too_few_filters_are_named(self):
        with pytest.raises(ValueError, match="two_tailed chooses 4 filters where 5 are needed"):
            tlv.resize_width(draw(8, 3, 3, 3), draw(5, 3, 3, 3), keep="two_tailed")
        with pytest.raises(ValueError, match="resize_kernel comes first"):
            tlv.resize_width(draw(8, 3, 3, 3), draw(5, 3, 1, 1))

    def test_a_base_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"base must have the shape \(6, 5, 3, 3\), got \(6, 4, 3, 3\)"):
            tlv.resize_width(draw(4, 5, 3, 3), draw(6, 4, 3, 3), base=draw(6, 4, 3, 3))

    def test_half_precision_and_double(self):
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            assert tlv.resize_width(draw(8, 3, 3, 3).to(dtype), draw(5, 4, 3, 3).to(dtype)).dtype == dtype


class TestFreshGround:
    """More filters with fewer inputs: of a fresh draw only what is chosen is made, and it looks as if all had been."""

    @pytest.mark.parametrize("keep", ["interleaved", "max", "min", "random"])
    @pytest.mark.parametrize("taps", [1, 2, 3])
    def test_its_slices_are_distributed_like_those_of_a_whole_draw(self, keep, taps):
        wanted, inputs, slots = 3000, 6, 2
        weight, target = torch.zeros(1, inputs, taps, taps), torch.zeros(wanted, slots, taps, taps)
        both = []
        for seed, legacy in enumerate((False, True)):
            generator = torch.Generator().manual_seed(seed)
            found = tlv.fill(weight, target, keep=keep, shuffle=False, generator=generator, legacy_random=legacy)
            both.append(found[found.flatten(1).any(1)] / (2 / (wanted * taps**2)) ** 0.5)
        assert len(both[0]) == wanted - 1, "one filter is the source's"
        for statistic in (lambda x: x.mean(2), lambda x: x.square().mean(2), lambda x: x.var(2, correction=0)):
            ours, theirs = (statistic(slices.flatten(2)) for slices in both)
            for place in range(slots):
                a, b = ours[:, place], theirs[:, place]
                error = (a.var() / len(a) + b.var() / len(b)).sqrt()
                assert abs(a.mean() - b.mean()) <= 4.5 * error + 1e-6

    def test_what_the_source_gives_is_in_it(self):
        weight, target = draw(3, 6, 3, 3), draw(7, 2, 3, 3, seed=1)
        found = tlv.fill(weight, target, keep="max", shuffle=False, generator=torch.Generator().manual_seed(0))
        rows = {tuple(row.flatten().tolist()) for row in found}
        chosen = pick(moments(weight)[1], 2, "max")
        for filter_, slots in zip(weight, chosen, strict=True):
            assert tuple(filter_[slots].flatten().tolist()) in rows


class TestFill:
    @given(shape=st.tuples(*[st.integers(1, 6)] * 2), seed=st.integers(0, 99))
    def test_the_shuffle_keeps_every_filters_set_of_slices(self, shape, seed):
        weight = draw(*shape, 3, 3, seed=seed)
        mixed = tlv.fill(weight, torch.zeros_like(weight), generator=torch.Generator().manual_seed(seed))
        sets = lambda tensor: {frozenset(map(tuple, filter_.flatten(1).tolist())) for filter_ in tensor}
        assert sets(mixed) == sets(weight)

    def test_every_order_of_a_filters_slices_is_as_likely(self):
        orders = shuffle_rows_(torch.arange(4).repeat(24_000, 1), torch.Generator().manual_seed(0))
        counts = orders.unique(dim=0, return_counts=True)[1]
        assert len(counts) == 24
        assert (counts - 1000).square().sum() / 1000 < 49.7, "chi-square of 23 degrees, one in a thousand"

    def test_without_repetition_a_wider_layer_keeps_every_filter(self):
        weight, target = draw(64, 8, 3, 3), draw(128, 8, 3, 3, seed=1)
        rows = lambda tensor: {tuple(filter_.flatten().tolist()) for filter_ in tensor}
        for legacy, kept in ((False, 64), (True, 50.6)):
            filled = tlv.fill(
                weight, target, shuffle=False, generator=torch.Generator().manual_seed(3), legacy_random=legacy
            )
            assert len(rows(filled) & rows(weight)) == pytest.approx(kept, abs=0 if not legacy else 8)


class TestTransfer:
    def test_between_equal_networks_without_shuffle_is_the_identity_of_convolutions(self):
        source, target = zoo.build("vgg11", width=0.25), zoo.build("vgg11", width=0.25)
        report = tlv.transfer(source, target, shuffle=False, linear=False)
        for (name, ours), theirs in zip(source.named_modules(), target.modules(), strict=True):
            if isinstance(ours, nn.Conv2d):
                assert torch.equal(ours.weight, theirs.weight), name
                assert torch.equal(ours.bias, theirs.bias), name
        assert {row.done for row in report if row.kind == "convolution"} == {"copied"}

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            (lambda: zoo.build("vgg16", width=0.25), lambda: zoo.build("resnet18", width=0.25)),
            (lambda: zoo.build("resnet8"), lambda: zoo.build("mobilenetv2", width=0.5)),
            (torchvision.models.squeezenet1_1, torchvision.models.resnet18),
            (lambda: torchvision.models.mobilenet_v2(width_mult=0.35), torchvision.models.squeezenet1_1),
        ],
        ids=["vgg16-resnet18", "resnet8-mobilenetv2", "squeezenet-resnet18", "mobilenet-squeezenet"],
    )
    def test_any_pair_is_fed_layer_by_layer(self, source, target):
        source, target = source(), target()
        kept = {name: value.clone() for name, value in target.state_dict().items()}
        given_ = {name: value.clone() for name, value in source.state_dict().items()}
        report = tlv.transfer(source, target, seed=4)
        convolutions = [name for name, module in target.named_modules() if isinstance(module, nn.Conv2d)]
        assert [row.target for row in report if row.kind == "convolution"] == convolutions
        assert all(row.source for row in report if row.kind == "convolution")
        assert all(torch.equal(value, given_[name]) for name, value in source.state_dict().items())
        fed = {f"{row.target}.{kind}" for row in report for kind in ("weight", "bias")}
        assert all(torch.equal(value, kept[name]) for name, value in target.state_dict().items() if name not in fed)
        assert all(torch.isfinite(value).all() for value in target.state_dict().values())

    @pytest.mark.parametrize("layers", [1, 2])
    def test_statistics_over_the_number_of_layers(self, released, layers):
        mean, deviation = tlv.statistics([released["tlv/fc/w0"], released["tlv/fc/w1"]])
        expected = released[f"tlv/fc/mean_std_L{layers}"]
        assert [mean / layers, deviation / layers] == pytest.approx(expected.tolist(), abs=1e-6)

    def test_the_released_shuffle_reads_like_ours(self, released):
        before, after = released["tlv/shuffle/in"], released["tlv/shuffle/out"]
        filters, inputs = released["tlv/shuffle/perm_out"], released["tlv/shuffle/perm_in"]
        found = before[filters]
        found = torch.stack([slices[order] for slices, order in zip(found, inputs, strict=True)])
        assert torch.equal(found, after)

    def test_linear_layers_get_the_sources_statistics_over_their_number(self):
        source, target = (
            zoo.build("vgg16", width=0.5),
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(800, 500), nn.Linear(500, 90, bias=False)),
        )
        tlv.transfer(source, target)
        mean, deviation = tlv.statistics([m.weight for m in source.modules() if isinstance(m, nn.Linear)])
        weights = torch.cat([target[1].weight.flatten(), target[2].weight.flatten()])
        assert float(weights.detach().std()) == pytest.approx(deviation / 2, rel=0.02)
        assert float(weights.detach().mean()) == pytest.approx(mean / 2, abs=4 * deviation / 2 / weights.numel() ** 0.5)
        assert target[1].bias.count_nonzero() == 0

    def test_one_seed_gives_one_result(self):
        source = zoo.build("vgg11", width=0.25)
        torch.manual_seed(0)
        first = zoo.build("plainnet5")
        torch.manual_seed(0)
        again = zoo.build("plainnet5")
        state = torch.get_rng_state()
        for target in (first, again):
            tlv.transfer(source, target, seed=9)
        assert all(
            torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
        )
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"

    def test_bad_input_modifies_nothing(self):
        source, target = zoo.build("vgg11", width=0.25), zoo.build("plainnet5")
        before = {name: value.clone() for name, value in target.state_dict().items()}
        for how, says in (
            ({"keep": "best"}, "features.0 .*unknown way to choose 'best'.*nothing was transferred"),
            ({"drop": "best"}, "unknown way"),
            ({"pool": "x"}, "unknown pooling"),
        ):
            with pytest.raises(ValueError, match=says):
                tlv.transfer(source, target, **how)
        with pytest.raises(ValueError, match=r"the source \(Linear\) has no 2-D convolution"):
            tlv.transfer(nn.Linear(2, 2), target)
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())

    def test_what_cannot_be_fed_is_kept_and_said(self):
        source, target = (
            nn.Sequential(nn.Conv2d(3, 4, 3)),
            nn.Sequential(nn.Conv2d(3, 4, 4), nn.Flatten(), nn.Linear(4, 2)),
        )
        before = target[0].weight.clone()
        report = tlv.transfer(source, target)
        assert [row.done for row in report] == [
            "kept: a 3x3 kernel has no centre place in 4x4",
            "kept: the source has no linear layer to take statistics from",
        ]
        assert torch.equal(target[0].weight, before)

    def test_autocast_changes_nothing(self):
        source, targets = zoo.build("vgg11", width=0.25), []
        for enabled in (False, True):
            torch.manual_seed(0)
            targets.append(zoo.build("resnet8", width=0.25))
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                tlv.transfer(source, targets[-1])
        assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in targets), strict=True))

    def test_statistics_alone_need_no_convolution(self):
        source, target = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(4, 4))
        assert [(row.target, row.fed) for row in tlv.transfer(source, target, convolutions=False)] == [("0", True)]
        with pytest.raises(ValueError, match=r"the source \(Sequential\) has no 2-D convolution"):
            tlv.transfer(source, target)


def bad_networks():
    def spoiled(layer):
        net = small()
        net[layer].weight.data.view(-1)[0] = float("nan")
        return net

    def small():
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4, 2))

    computed, empty = small(), nn.Sequential(nn.Conv2d(3, 0, 3), nn.Linear(4, 2))
    nn.utils.parametrizations.weight_norm(computed[1])
    return [
        (small(), computed, r"target's 1 \(4, 6, 3, 3\) has a weight that is computed"),
        (empty, small(), r"source's 0 \(Conv2d\) has no weights: shape \(0, 3, 3, 3\)"),
        (small(), empty, r"target's 0 \(Conv2d\) has no weights"),
        (small(), nn.Sequential(nn.LazyConv2d(3, 3)), "has no weights: run it on an image first"),
        (small().to("meta"), small(), "has no weights: on the meta device"),
        (spoiled(3), small(), r"linear layer of shape \(2, 4\) holds values that are not finite"),
        (spoiled(1), small(), r"1 \(4, 6, 3, 3\) -> .*holds values that are not finite; nothing was transferred"),
    ]


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Initializing zero-element")
@pytest.mark.parametrize(("source", "target", "says"), bad_networks())
def test_bad_networks_are_named_and_nothing_is_modified(source, target, says):
    before = {name: value for name, value in target.named_parameters() if not nn.parameter.is_lazy(value)}
    kept = {name: value.detach().clone() for name, value in before.items()}
    with pytest.raises(ValueError, match=says):
        tlv.transfer(source, target)
    assert all(torch.equal(value, kept[name]) for name, value in before.items())


def test_a_source_with_a_computed_weight_may_give_it():
    source = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Linear(4, 2))
    nn.utils.parametrizations.weight_norm(source[0])
    target = nn.Sequential(nn.Conv2d(3, 6, 3))
    tlv.transfer(source, target, shuffle=False, linear=False)
    assert torch.equal(target[0].weight, source[0].weight)
