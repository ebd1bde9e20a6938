"""Cross-layer alignment: the released code's maps, every legal map tried, and what cannot be asked."""

from itertools import combinations, product
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hetlib.match import align, least_costs, legal_maps

depths = st.integers(1, 8)
pins = st.tuples(st.integers(0, 3), st.integers(0, 3))


def every_map(m, n, pins):
    """All strictly increasing maps of n into m layers, the first and the last so many of them pinned."""
    first, last = pins
    if n == 1 and first:
        first, last = 1, 0
    elif n == 1 and last:
        last = 1
    for rows in combinations(range(m), n):
        front, back = rows[:first], rows[max(0, n - last) :]
        if front == tuple(range(len(front))) and back == tuple(range(m - len(back), m)):
            yield rows


def best_map(cost, pins):
    """The cheapest of all maps; of equally good ones that with the lowest last layer, then the last but one, ..."""
    total = lambda rows: sum(cost[row][column] for column, row in enumerate(rows))
    return list(min(every_map(len(cost), len(cost[0]), pins), key=lambda rows: (total(rows), rows[::-1])))


def whole_numbers(m, n, seed, largest):
    """Sums of whole numbers are exact, so that ties are ties."""
    return torch.randint(largest + 1, (m, n), generator=torch.Generator().manual_seed(seed))


def contradict(m, n, pins):
    return m > n > 1 and sum(pins) > n


class TestAlign:
    def test_agrees_with_the_released_maps(self, vectors):
        archive = np.load(vectors / "clafusion" / "dp.npz")
        assert archive["n_cases"] > 0
        for case in range(int(archive["n_cases"])):
            start, free_end = (int(value) for value in archive[f"start_free_{case}"])
            found = align(torch.from_numpy(archive[f"C_{case}"]), (start - 1, free_end), legacy_single=True)
            assert [row + 1 for row in found] == archive[f"A_{case}"].tolist(), case

    @given(depths, depths, pins, st.integers(0, 2**16), st.sampled_from([0, 2, 10**6]))
    def test_nothing_legal_costs_less_and_ties_go_to_the_lowest(self, m, n, pins, seed, largest):
        m, n = max(m, n), min(m, n)
        assume(not contradict(m, n, pins))
        cost = whole_numbers(m, n, seed, largest)
        assert align(cost, pins) == best_map(cost.tolist(), pins)

    @given(depths, depths, pins, st.floats(-5, 5))
    def test_a_constant_changes_nothing(self, m, n, pins, constant):
        m, n = max(m, n), min(m, n)
        assume(not contradict(m, n, pins))
        cost = whole_numbers(m, n, 0, 2**20).double()
        assert align(cost + round(constant), pins) == align(cost, pins)

    def test_the_argument_stays_as_it_is(self):
        cost = whole_numbers(6, 4, 0, 9).float().requires_grad_()
        before = cost.detach().clone()
        assert len(align(cost)) == 4
        assert torch.equal(cost, before)

    def test_resnet18_in_resnet34_has_nothing_to_choose(self):
        for blocks in (3, 4, 6, 3):
            assert legal_maps(blocks, 2) == 1
            assert align(whole_numbers(blocks, 2, blocks, 9)) == [0, blocks - 1]

    def test_a_single_layer(self):
        cost = torch.tensor([[2.0], [1.0], [3.0]])
        assert align(cost) == align(cost, (1, 0)) == align(cost, (2, 0)) == [0]
        assert align(cost, (0, 1)) == align(cost, (0, 2)) == [2]
        assert align(cost, (0, 0)) == [1]
        assert align(cost, (0, 0), legacy_single=True) == align(cost, (0, 1), legacy_single=True) == [0]

    def test_equal_depths_leave_one_map_whatever_the_pins(self):
        assert align(whole_numbers(3, 3, 0, 9), (3, 3)) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("cost", "pins", "says"),
        [
            (torch.zeros(3, 5), (1, 1), r"3 deep and 5 shallow layers: the rows .* deeper network"),
            (torch.zeros(5, 3), (2, 2), r"no map of 3 layers into 5 pairs the first 2 and the last 2"),
            (torch.zeros(5, 3), (4, 0), r"no map of 3 layers into 5 pairs the first 4"),
            (torch.zeros(5, 3), (-1, 0), "pins: whole numbers of at least 0"),
            (torch.zeros(5, 0), (0, 0), r"the cost has shape \(5, 0\)"),
            (torch.zeros(5), (0, 0), r"shape \(5,\), not \(deep, shallow\)"),
            (torch.full((5, 3), torch.nan), (1, 1), "NaN or infinity"),
            (torch.full((5, 3), torch.inf), (1, 1), "NaN or infinity"),
        ],
    )
    def test_bad_input_is_named(self, cost, pins, says):
        with pytest.raises(ValueError, match=says):
            align(cost, pins)


class TestLeastCosts:
    @given(depths, depths, st.integers(0, 2**16))
    def test_every_entry_is_the_cost_of_the_best_map_so_far(self, m, n, seed):
        cost = whole_numbers(m, n, seed, 9)
        table = least_costs(cost, (0, 0))
        for deep, shallow in product(range(m), range(n)):
            part = cost[: deep + 1, : shallow + 1].tolist()
            best = best_map(part, (0, 0)) if shallow <= deep else None
            assert table[deep, shallow] == (inf if best is None else sum(part[i][k] for k, i in enumerate(best)))

    @given(depths, depths, pins, st.integers(0, 2**16))
    def test_the_last_entry_keeps_the_pins(self, m, n, pins, seed):
        m, n = max(m, n), min(m, n)
        assume(legal_maps(m, n, pins) and sum(pins) <= n)
        cost = whole_numbers(m, n, seed, 9)
        assert least_costs(cost, pins)[-1, -1] == sum(cost[i, k] for k, i in enumerate(align(cost, pins)))

    def test_keeps_no_gradients(self):
        assert not least_costs(torch.ones(3, 2, requires_grad=True)).requires_grad


class TestLegalMaps:
    @given(depths, depths, pins)
    def test_counts_them(self, m, n, pins):
        m, n = max(m, n), min(m, n)
        expected = 0 if contradict(m, n, pins) else len(list(every_map(m, n, pins)))
        assert legal_maps(m, n, pins) == expected

    def test_the_papers_networks(self):
        assert [legal_maps(5, 3, pins) for pins in ((1, 1), (0, 0), (1, 0), (0, 1))] == [3, 10, 6, 6]
        assert legal_maps(4, 3) == 2
        assert [legal_maps(2, n) for n in (1, 1, 2, 2, 2)] == [1] * 5  # the pooling groups of VGG11 in VGG13

    def test_none_where_there_is_no_room_or_the_pins_contradict(self):
        assert legal_maps(3, 5) == legal_maps(0, 1) == legal_maps(5, 3, (2, 2)) == 0

    @pytest.mark.parametrize(("n", "pins"), [(0, (0, 0)), (3, (-1, 1))])
    def test_bad_input_is_named(self, n, pins):
        with pytest.raises(ValueError, match="pins: whole numbers" if n else "n must be"):
            legal_maps(4, n, pins)
