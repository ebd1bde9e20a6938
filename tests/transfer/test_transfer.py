"""The mechanism: planned, checked, written once; steps of different papers combine; its report tells the truth."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib import baselines, hmt, tlv, zoo
from hetlib.chain import convolutions
from hetlib.kernels.write import write
from hetlib.transfer import ByBlocks, ByScore, Copy, Cyclic, Fill, Overlay, Pair, SameName, Transfer, keep
from hetlib.transfer.report import described

HMT = Transfer(hmt.ByPosition(), (Cyclic(),))
MATCHES = [hmt.ByPosition(), tlv.ByRatio(), ByScore(), ByBlocks(), ByScore(convolutions=True)]
FITS = [Cyclic(), tlv.ByVariance(), Overlay(), Overlay("trace")]


def net(name, seed=0, **options):
    torch.manual_seed(seed)
    return zoo.build(name, **{"width": 0.125} | options)


def same(a, b):
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def small(*widths):
    return nn.Sequential(*(nn.Conv2d(a, b, 3) for a, b in zip((3, *widths), widths, strict=False)))


class TestEqualities:
    """What each paper's own function does, as a plain loop over its kernel."""

    @pytest.mark.parametrize("target", ["plainnet5", "resnet8"])
    @pytest.mark.parametrize("order", ["chain", "shuffle", "interval", [2, 0, 1]])
    def test_hmt(self, target, order):
        source, plain = net("vgg11"), net(target, 1)
        ours, theirs = ([layer for _, layer in convolutions(model)] for model in (plain, source))
        known = {"chain": range(8), "shuffle": (3, 1, 0, 7, 4, 6, 2), "interval": (0, 2, 4, 6)}
        picks = known[order] if isinstance(order, str) else order
        by_function, by_sentence = deepcopy(plain), deepcopy(plain)
        for layer, pick in zip(ours, picks, strict=False):
            layer.weight.data = hmt.resize(theirs[pick].weight.data, layer.weight.shape)
        hmt.transfer(source, by_function, order)
        Transfer(hmt.ByPosition(order), (Cyclic(),))(source, by_sentence)
        assert same(plain, by_function)
        assert same(plain, by_sentence)

    @pytest.mark.parametrize("how", [{}, {"shuffle": False, "drop": "min"}, {"legacy_random": True}, {"keep": "max"}])
    def test_tlv(self, how):
        source, plain = net("vgg16"), net("resnet20", 1)
        by_function, by_sentence = deepcopy(plain), deepcopy(plain)
        kinds = lambda model, kind: [m for m in model.modules() if isinstance(m, kind)]
        ours, theirs = kinds(plain, nn.Conv2d), kinds(source, nn.Conv2d)
        generator = torch.Generator().manual_seed(3)
        for i, layer in enumerate(ours):
            given = theirs[min(round(i * len(theirs) / len(ours)), len(theirs) - 1)]
            layer.weight.data = tlv.fill(given.weight.data, layer.weight.data, generator=generator, **how)
        heads, (head,) = kinds(source, nn.Linear), kinds(plain, nn.Linear)
        mean, deviation = tlv.statistics([layer.weight for layer in heads])
        head.weight.data = torch.empty(head.weight.shape).normal_(mean, deviation, generator=generator)
        head.bias.data.zero_()
        tlv.transfer(source, by_function, seed=3, **how)
        Transfer(tlv.ByRatio(), (tlv.ByVariance(**how), tlv.LinearStatistics()))(source, by_sentence, seed=3)
        assert same(plain, by_function)
        assert same(plain, by_sentence)

    @pytest.mark.parametrize("match", ["index", "score", "blocks"])
    @pytest.mark.parametrize("place", ["clip", "trace"])
    def test_tlv_with_dpiat_s_stages(self, match, place):
        source, by_function = net("resnet20"), net("resnet8", 1)
        by_sentence = deepcopy(by_function)
        matches = {"index": tlv.ByRatio(), "score": ByScore(True), "blocks": ByBlocks(True)}
        tlv.transfer(source, by_function, standardise="blocks", match=match, place=place, linear=False)
        Transfer(matches[match], (Overlay(place),))(source, by_sentence)
        assert same(by_function, by_sentence)

    @pytest.mark.parametrize("method", ["dpiat", "tli", "he"])
    def test_baselines(self, method):
        source, by_function = net("resnet20"), net("resnet8", 1)
        by_sentence = deepcopy(by_function)
        baselines.transfer(source, by_function, method, seed=4)
        baselines.METHODS[method](source, by_sentence, seed=4)
        assert same(by_function, by_sentence)
        assert not same(by_function, net("resnet8", 1))


@pytest.mark.parametrize("match", MATCHES, ids=described)
@pytest.mark.parametrize("fit", FITS, ids=described)
@pytest.mark.parametrize("blend", [0.0, 0.5, lambda fills: [torch.tensor(0.25)] * len(fills)])
def test_any_match_goes_with_any_fit_and_blend(match, fit, blend):
    source, target = net("vgg11"), net("resnet8", 1)
    kept = deepcopy(source)
    report = Transfer(match, (fit,), blend)(source, target, seed=5)
    assert report.matched
    assert target.eval()(torch.randn(2, 3, 32, 32)).isfinite().all()
    assert same(source, kept)
    again = net("resnet8", 1)
    Transfer(match, (fit,), blend)(source, again, seed=5)
    assert same(target, again)


@given(st.floats(0, 1), st.integers(0, 3))
def test_a_blend_stands_between_the_two(alpha, seed):
    source, target = small(4, 5), small(6, 7)
    own, new = deepcopy(target), deepcopy(target)
    HMT(source, new)
    Transfer(hmt.ByPosition(), (Cyclic(),), alpha)(source, target)
    for mixed, mine, theirs in zip(target, own, new, strict=True):
        assert torch.equal(mixed.weight, alpha * mine.weight + (1 - alpha) * theirs.weight)
        assert torch.equal(mixed.bias, mine.bias)


def test_a_blend_of_one_keeps_all_and_one_per_filter_blends_filter_by_filter():
    source, target = small(4), small(4)
    before, rows = target[0].weight.detach().clone(), torch.tensor([0.0, 0.5, 1.0, 0.25])
    Transfer(hmt.ByPosition(), (Cyclic(),), 1.0)(source, target)
    assert torch.equal(target[0].weight, before)
    Transfer(hmt.ByPosition(), (Cyclic(),), lambda fills: [rows])(source, target)
    assert torch.equal(target[0].weight[0], source[0].weight[0])
    assert torch.equal(target[0].weight[2], before[2])
    torch.testing.assert_close(target[0].weight[1], (source[0].weight[1] + before[1]) / 2)


def test_a_ring_is_planned_for_all_and_written_at_once():
    nets = [net("resnet8", seed) for seed in range(3)]
    before = [deepcopy(model.state_dict()) for model in nets]
    sentence = Transfer(SameName(), (Copy(),), 0.3)
    fills = [fill for i, model in enumerate(nets) for fill in sentence.plan(nets[i - 1], model)]
    assert all(
        torch.equal(model.state_dict()[key], own[key]) for model, own in zip(nets, before, strict=True) for key in own
    )
    with torch.no_grad():
        write(fills)
    for i, model in enumerate(nets):
        for key, value in model.state_dict().items():
            expected = before[i][key]
            if value.is_floating_point():
                expected = 0.3 * expected + (1 - 0.3) * before[i - 1][key]
            torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_of_two_fills_for_one_tensor_the_last_counts():
    source, target = small(4), small(4)
    both = Transfer(hmt.ByPosition(), (Cyclic(), Cyclic(correct_gain=True, noise=0.0)))
    twice = deepcopy(target)
    both(source, twice)
    Transfer(hmt.ByPosition(), (Cyclic(correct_gain=True),))(source, target)
    assert same(twice, target)


def tied(key="weight"):
    model = small(6, 6, 6)
    setattr(model[2], key, getattr(model[1], key))
    return model


@pytest.mark.parametrize("order", ["chain", (0, 1), (0, 2, 1)])
def test_a_tensor_of_two_layers_is_written_once_and_both_rows_name_its_donor(order):
    source, target = small(8, 8, 8), tied()
    report = Transfer(hmt.ByPosition(order), (Cyclic(correct_gain=True),))(source, target)
    donor = {"chain": "2", (0, 1): "1", (0, 2, 1): "1"}[order]
    assert [(row.target, row.source, row.fed) for row in report] == [
        ("0", "0", True),
        ("1", donor, True),
        ("2", donor, True),
    ]
    wanted = hmt.resize(source.get_submodule(donor).weight, (6, 6, 3, 3)) * (8 / 6)
    torch.testing.assert_close(target[2].weight, wanted)
    assert target[2].weight is target[1].weight


@pytest.mark.parametrize("fit", [Cyclic(correct_gain=True, noise=0.5), tlv.ByVariance(), Overlay()])
def test_what_a_tied_tensor_becomes_is_what_its_last_layer_alone_would(fit):
    source, target, alone = small(8, 8, 8), tied(), tied()
    pairs = [Pair("1", "1"), Pair("2", "2")]
    alone[1].weight = nn.Parameter(alone[1].weight.detach().clone())
    alone.load_state_dict(target.state_dict())
    for model in (target, alone):
        Transfer(lambda context: pairs, (fit,), blend=0.25)(source, model)
    assert torch.equal(target[2].weight, alone[2].weight)
    assert not torch.equal(target[2].weight, alone[1].weight)


def test_a_row_names_the_donor_of_what_stands():
    source, target = small(6, 6, 6), small(6, 6, 6)
    first, second = (
        lambda context, pairs, i=i: [Fill("1", target[1].weight, source[i].weight, source=str(i))] for i in (1, 2)
    )
    assert Transfer(SameName(), (first, second))(source, target).rows[1].source == "2"


def test_tensors_that_overlap_in_part_are_refused():
    source, target = small(6, 6, 6), small(6, 6, 6)
    target[2].weight = nn.Parameter(target[1].weight.detach().transpose(0, 1))
    before = deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=r"^1 and 2 overlap in memory"):
        HMT(source, target)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    flat = torch.zeros(target[0].weight.numel() + target[1].weight.numel())
    apart = small(6, 6)
    at = 0
    for layer in apart:  # beside one another in one storage is no overlap
        layer.weight = nn.Parameter(flat[at : at + layer.weight.numel()].view_as(layer.weight))
        at += layer.weight.numel()
    HMT(source, apart)
    assert torch.equal(apart[1].weight, source[1].weight)


def test_each_network_is_traced_once_and_only_when_asked(monkeypatch):
    import hetlib.transfer.transfer as mechanism

    traced = []
    read = mechanism.eval_chain
    monkeypatch.setattr(mechanism, "eval_chain", lambda model, images: (traced.append(model), read(model, images))[1])
    source, target = net("resnet20"), net("resnet8", 1)
    HMT(source, target)
    assert traced == []
    Transfer(ByBlocks(), (Overlay("trace"), Cyclic(batch_norm=True)))(source, target)
    assert sorted(map(id, traced)) == sorted([id(source), id(target)])


class TestReport:
    def test_it_counts_every_convolution_and_linear_layer_and_says_why_one_was_left(self):
        report = hmt.transfer(net("resnet18"), zoo.build("mobilenetv2", width=0.25))
        assert "HMT, chain order: 17 of 58 layers fed (17 of 57 convolutions, 0 of 1 linear layer)" in str(report)
        assert {row.done for row in report if not row.fed} == {"kept: paired with no source layer"}
        paired = Transfer(ByScore(), (Cyclic(),))(net("resnet18"), net("resnet18"))
        assert [row.done for row in paired if row.kind == "linear layer"] == ["kept: no step feeds it from linear"]

    def test_draws_are_fed_but_not_from_a_layer(self):
        report = tlv.transfer(net("vgg11"), net("resnet8"))
        assert "11 of 11 layers fed (10 of 10 convolutions, 1 of 1 linear layer), of these 1 from no source" in str(
            report
        )
        assert len(report.matched) == 10

    def test_a_step_s_own_words_are_shown(self):
        why = Transfer(
            hmt.ByPosition(), (lambda context, pairs: [keep("0", context.target[0].weight, "it is Sunday")],)
        )
        source, target = small(4), small(4)
        before = target[0].weight.detach().clone()
        (row,) = why(source, target)
        assert (row.done, row.fed, row.source) == ("kept: it is Sunday", False, None)
        assert torch.equal(target[0].weight, before)

    def test_a_sentence_reads_like_one(self):
        assert str(HMT) == "ByPosition() -> Cyclic()"
        mixed = Transfer(hmt.ByPosition("interval"), [tlv.ByVariance(shuffle=False), tlv.LinearStatistics()], 0.5)
        assert str(mixed) == "ByPosition(order='interval') -> ByVariance(shuffle=False) + LinearStatistics() -> 0.5"


@dataclass(frozen=True)
class Broken:
    """A fit that goes wrong in one of several ways, after a fill that is right."""

    how: str

    def __call__(self, context, pairs):
        weight = context.target[0].weight
        yield Fill("0", weight, torch.zeros_like(weight))
        out = {"foreign": context.source[0].weight, "computed": torch.empty(7, 4, 3, 3)}.get(
            self.how, context.target[1].weight
        )
        resample = (lambda kernels: kernels[:, :, :2]) if self.how == "size" else None
        given = torch.zeros(7, 4, 5, 5) if self.how == "shape" else torch.zeros_like(out)
        yield Fill("1", out, given, resample)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("foreign", r"1 \(4, 3, 3, 3\) is not a tensor of the target's own"),
        ("computed", r"1 \(7, 4, 3, 3\) is not a tensor of the target's own: if it is computed"),
        ("shape", r"1: slices of shapes \(7, 4, 5, 5\) .* do not fit into \(7, 4, 3, 3\)"),
        ("size", r"1: kernels are resampled to \(2, 3\), not \(3, 3\)"),
    ],
)
def test_a_broken_fit_is_named_and_writes_nothing(how, says):
    source, target = small(4, 7), small(4, 7)
    kept = deepcopy(source), deepcopy(target)
    with pytest.raises(ValueError, match=says):
        Transfer(hmt.ByPosition(), (Broken(how),))(source, target)
    assert same(source, kept[0])
    assert same(target, kept[1])


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        (Transfer(lambda context: [Pair("0", "9")], (Cyclic(),)), r"unknown layer of the source \(Sequential\) '9'"),
        (Transfer(lambda context: [Pair("O", "0")], (Cyclic(),)), r"unknown layer of the target \(Sequential\) 'O'"),
        (Transfer(hmt.ByPosition(), (Cyclic(),), lambda fills: [0.5]), "the blend gave 1 coefficients for 2 tensors"),
        (Transfer(hmt.ByPosition(), (Cyclic(),), lambda fills: [0.5, 1.5]), "1: its coefficient of the blend must"),
        (
            Transfer(hmt.ByPosition(), (Cyclic(),), lambda fills: [0.5, torch.ones(3)]),
            r"1: coefficients of shape \(3,\) for a tensor of shape \(7, 4, 3, 3\)",
        ),
        (Transfer(SameName(), (Copy(),)), r"1.weight \(5, 4, 3, 3\) -> 1.weight \(7, 4, 3, 3\): only equal shapes"),
    ],
)
def test_bad_sentences_are_named_and_write_nothing(sentence, says):
    source, target = small(4, 5), small(4, 7)
    before = deepcopy(target)
    with pytest.raises(ValueError, match=says):
        sentence(source, target)
    assert same(target, before)


def test_whole_numbers_are_replaced_but_not_blended():
    counts = lambda context, pairs: [Fill("0", context.target.get_buffer("count"), torch.tensor([7, 8]))]
    source, target = small(4), small(4)
    target.register_buffer("count", torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"0 \(2,\) holds torch.int64, which cannot be blended"):
        Transfer(hmt.ByPosition(), (Cyclic(), counts), 0.5)(source, target)
    Transfer(hmt.ByPosition(), (counts,))(source, target)
    assert target.count.tolist() == [7, 8]


def test_networks_whose_weights_are_not_there_are_named():
    source = small(4)
    for target in (small(4).to("meta"), nn.Sequential(nn.LazyConv2d(4, 3))):
        with pytest.raises(ValueError, match=r"the target's 0 \(.*Conv2d\) has no weights"):
            HMT(source, target)
    computed = small(4)
    nn.utils.parametrizations.weight_norm(computed[0])
    with pytest.raises(ValueError, match=r"the target's 0 \(4, 3, 3, 3\) has a weight that is computed"):
        HMT(source, computed)


def test_settings_are_checked_when_a_step_is_made():
    for make, says in (
        (lambda: Cyclic(resizer="zeros"), "did you mean 'zero'"),
        (lambda: Cyclic(noise=-1.0), "noise"),
        (lambda: Overlay("clap"), "did you mean 'clip'"),
        (lambda: Transfer(SameName(), (Copy(),), 1.5), "from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


@pytest.mark.parametrize("sentence", [HMT, Transfer(tlv.ByRatio(), (tlv.ByVariance(), tlv.LinearStatistics()))])
def test_a_source_with_spectral_norm_stays_as_it_is_in_training(sentence):
    source, target = small(8, 8, 8).train(), small(6, 6, 6)
    for layer in source:
        nn.utils.parametrizations.spectral_norm(layer)
    before = deepcopy(source.state_dict())
    sentence(source, target)
    assert source.training
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
