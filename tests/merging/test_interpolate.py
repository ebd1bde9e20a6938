"""The line between two networks: its ends to the bit, its middle by hand, and its barrier."""

import copy
from math import isnan, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib.merging import average, barrier, between, curve, match_weights


def network(seed, width=3):
    model, generator = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width)), torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator).abs() * 9 + seed + 1)
    return model


def state(model):
    return copy.deepcopy(model.state_dict())


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class TestCurve:
    def test_the_ends_are_the_networks_to_the_bit(self):
        a, b = network(0), network(1)
        first, _, last = curve(a, b, state, steps=3)
        assert_same(last, b.state_dict())
        assert_same(first, a.state_dict())

    def test_in_between_parameters_and_floating_buffers_are_mixed(self):
        a, b = network(0), network(1)
        (found,) = curve(a, b, state, steps=[0.25])
        for name, value in found.items():
            one, other = a.state_dict()[name], b.state_dict()[name]
            expected = other if name.endswith("tracked") else 0.75 * one + 0.25 * other
            torch.testing.assert_close(value, expected)

    @pytest.mark.parametrize(
        ("steps", "shares"), [(2, [0, 1]), (5, [0, 0.25, 0.5, 0.75, 1]), ([0.9, -1.0, 2], [0.9, -1, 2]), ([], [])]
    )
    def test_points_are_scored_in_order(self, steps, shares):
        zero, one = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(zero.weight)
        nn.init.ones_(one.weight)
        assert curve(zero, one, lambda model: model.weight.item(), steps) == pytest.approx(shares)

    def test_eleven_points_by_default(self):
        assert len(curve(network(0), network(1), id)) == 11

    def test_every_point_is_finished_before_it_is_scored(self):
        def clear(model):
            nn.init.zeros_(model[1].running_mean)

        for found in curve(network(0), network(1), state, 3, finish=clear):
            assert not found["1.running_mean"].any()

    def test_every_point_is_a_network_of_its_own(self):
        a, b = network(0), network(1).eval()
        before = state(a), state(b)
        points = curve(a, b, lambda model: model, 3, finish=lambda model: model.add_module("more", nn.ReLU()))
        assert len({id(point) for point in points}) == 3
        assert all(point.training and hasattr(point, "more") for point in points)
        assert all(parameter.requires_grad for parameter in points[1].parameters())
        assert not hasattr(a, "more")
        assert_same(state(a), before[0])
        assert_same(state(b), before[1])

    def test_the_dtype_is_the_firsts(self):
        found = between(network(0).bfloat16(), network(1).double(), 0.5)
        assert found[0].weight.dtype == torch.bfloat16
        expected = (network(0)[0].weight + network(1)[0].weight) / 2
        torch.testing.assert_close(found[0].weight.float(), expected, rtol=2e-2, atol=0)

    def test_shared_tensors_stay_shared(self):
        def build():
            model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
            model[1].weight = model[0].weight
            return model

        a, b = build(), build()
        found = between(a, b, 0.5)
        assert found[0].weight is found[1].weight
        torch.testing.assert_close(found[0].weight, (a[0].weight + b[0].weight) / 2)

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="steps, which both ends are among, must be a whole number from 2"):
            curve(network(0), network(1), id, 1)
        with pytest.raises(ValueError, match=r"0\.weight is \(3, 2, 3, 3\) and \(4, 2, 3, 3\)"):
            curve(network(0), network(1, width=4), id)
        with pytest.raises(ValueError, match=r"1\.weight is \(3,\) and missing"):
            curve(network(0), network(1)[:1], id)


class TestBarrier:
    @pytest.mark.parametrize(
        ("losses", "at", "height"),
        [
            ([1.0, 5.0, 2.0], None, 3.5),
            ([1.0, 1.5, 2.0], None, 0.0),
            ([1.0, 0.2, 2.0], None, 0.0),
            ([1.0, 1.0, 3.0, 3.0], None, 2 / 3),
            ([1.0, 5.0, 2.0], [0.0, 0.9, 1.0], 3.1),
            ([0.3, 0.4], None, 0.0),
        ],
    )
    def test_is_the_height_above_the_line_between_the_ends(self, losses, at, height):
        assert barrier(losses, at) == pytest.approx(height)
        assert barrier(torch.tensor(losses), at) == pytest.approx(height)

    @given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.floats(-5, 5), st.floats(-5, 5))
    def test_a_line_laid_on_top_changes_nothing(self, losses, shift, slope):
        tilted = [loss + shift + slope * i for i, loss in enumerate(losses)]
        assert barrier(losses) >= 0
        assert barrier(tilted) == pytest.approx(barrier(losses), abs=1e-9)

    def test_nan_is_not_hidden(self):
        assert isnan(barrier([1.0, nan, 1.0]))
        assert isnan(barrier([nan, 1.0, 1.0]))

    @pytest.mark.parametrize(
        ("losses", "at"), [([], None), ([1.0], None), ([1.0, 2.0], [0.0]), ([1.0, 2.0, 1.0], [0.0, 1.0, 0.5])]
    )
    def test_bad_input_is_named(self, losses, at):
        with pytest.raises(ValueError, match="two at least, places ascending"):
            barrier(losses, at)


class Odd(nn.Module):
    """Complex weights, and a buffer with infinities as a causal mask has them."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex64, generator=generator))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, float(seed)]))
        self.register_buffer("count", torch.tensor(seed))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_equal_infinities_stay_and_complex_values_are_interpolated(share):
    a, b = Odd(1), Odd(2)
    point = between(a, b, share)
    assert point.mask[:2].tolist() == [0.0, -torch.inf]
    assert float(point.mask[2]) == 1 + share
    torch.testing.assert_close(point.weight, (1 - share) * a.weight + share * b.weight)
    assert int(point.count) == (1 if share == 0 else 2)


@pytest.mark.parametrize(("share", "end"), [(0, 0), (1, 1)])
def test_the_ends_are_copies_to_the_bit(share, end):
    ends = (Odd(1), Odd(2))
    assert_same(between(*ends, share).state_dict(), ends[end].state_dict())


def test_towards_an_infinity_the_line_is_infinite():
    a, b = Odd(1), Odd(2)
    b.mask[0] = -torch.inf
    assert between(a, b, 0.5).mask[:2].tolist() == [-torch.inf, -torch.inf]


class WithState(nn.Sequential):
    """Holds extra state that is no tensor."""

    def __init__(self, seen):
        super().__init__(nn.Linear(2, 2))
        self.seen = seen

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state


class TestExtraState:
    def test_it_is_that_of_the_end_and_copied(self):
        a, b = WithState({"seen": [1]}), WithState({"seen": [2]})
        assert [between(a, b, share).seen for share in (0, 0.5, 1)] == [a.seen, b.seen, b.seen]
        between(a, b, 0.5).seen["seen"].append(3)
        assert b.seen == {"seen": [2]}
        torch.testing.assert_close(between(a, b, 0.5)[0].weight, (a[0].weight + b[0].weight) / 2)

    def test_another_kind_is_named(self):
        with pytest.raises(ValueError, match=r"_extra_state is dict and int"):
            between(WithState({}), WithState(1), 0.5)

    def test_a_network_with_it_is_matched_and_averaged(self):
        def net(seed):
            torch.manual_seed(seed)
            model = WithState({"version": seed})
            model.append(nn.ReLU()).append(nn.Linear(2, 3))
            return model

        a, b, images = net(0), net(1), torch.randn(5, 2)
        found = match_weights(a, b)
        assert found.model.seen == {"version": 0}
        torch.testing.assert_close(found.model(images), a(images))
        assert average([a, b], images).seen == {"version": 0}


def tied(share):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    if share:
        model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("merge", [lambda a, b: between(a, b, 0.5), lambda a, b: average([a, b], torch.randn(4, 3))])
def test_what_one_network_shares_and_the_other_does_not(merge):
    a, b, apart = tied(True), tied(True), tied(False)
    merged = merge(a, b)
    assert merged[0].weight is merged[1].weight
    torch.testing.assert_close(merged[1].weight, (a[0].weight + b[0].weight) / 2)
    with pytest.raises(ValueError, match=r"^0\.weight and 1\.weight are one tensor in one network"):
        merge(a, apart)
    merged = merge(apart, a)
    for one, other in zip(merged, apart, strict=True):
        torch.testing.assert_close(one.weight, (other.weight + a[0].weight) / 2)
    apart[1].weight.data.copy_(apart[0].weight)
    merged = merge(a, apart)
    torch.testing.assert_close(merged[1].weight, (a[0].weight + apart[0].weight) / 2)
