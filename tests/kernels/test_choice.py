"""The choice of teachers: least entropy, its variants, the released outcomes, and that nothing waits."""

from math import inf, log, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.kernels.choice import RULES, calibrate, choose_teacher, softmax_entropy
from tests.kernels.test_write import Syncs


def draw(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_entropy(row):
    shares = [float(p) for p in row.double().softmax(0)]
    return -sum(p * log(p) for p in shares if p > 0)


@pytest.fixture(scope="module")
def released(vectors):
    return np.load(vectors / "amalgamation.npz")


def test_it_is_the_released_choice(released):
    cases = sorted({key.split("/")[1] for key in released.files if key.endswith("/logits_TBC")})
    assert cases
    for case in cases:
        logits = torch.from_numpy(released[f"select/{case}/logits_TBC"])
        assert choose_teacher(logits).tolist() == released[f"select/{case}/teacher"].tolist()
        entropies = torch.from_numpy(released[f"select/{case}/entropy_BT"]).T
        torch.testing.assert_close(softmax_entropy(logits), entropies, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["released", "entropy"])
def test_where_the_released_entropies_are_no_numbers(released, rule):
    """The released code chooses the teacher whose entropy is NaN, which is right by luck, or undecided."""
    for case, chosen in (("overflow", 1), ("underflow", 0)):
        logits = torch.from_numpy(released[f"select/{case}/logits_TC"]).unsqueeze(1)
        assert int(released[f"select/{case}/official_teacher"]) == chosen
        assert choose_teacher(logits, rule).tolist() == [chosen]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**16))
def test_it_is_the_plain_loop(teachers, batch, classes, seed):
    logits = draw(teachers, batch, classes, seed=seed).double()
    table = [[plain_entropy(row) for row in teacher] for teacher in logits]
    found = choose_teacher(logits)
    for image in range(batch):
        column = [table[teacher][image] for teacher in range(teachers)]
        assert column[found[image]] == pytest.approx(min(column), abs=1e-12)
    means = [sum(row) / batch for row in table]
    together = choose_teacher(logits, "batch")
    assert len(set(together.tolist())) == 1
    assert means[together[0]] == pytest.approx(min(means), abs=1e-12)


def test_of_equal_teachers_the_first_is_taken():
    logits = draw(1, 5, 3).expand(4, 5, 3)
    for rule in ("entropy", "batch", "released"):
        assert choose_teacher(logits, rule).tolist() == [0] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_have_an_entropy(dtype):
    largest = torch.finfo(dtype).max
    logits = torch.tensor([[0.0, 0.0], [largest, -largest], [-120.0, 0.0]], dtype=dtype)
    assert softmax_entropy(logits)[:2].tolist() == pytest.approx([log(2), 0])
    assert choose_teacher(logits.unsqueeze(1)).tolist() == [1]


def test_the_oracle_takes_the_teacher_that_is_nearest_the_label():
    logits, labels = draw(3, 20, 4), torch.arange(20) % 4
    found = choose_teacher(logits, "oracle", labels=labels)
    chances = logits.softmax(2)[:, torch.arange(20), labels]
    assert torch.equal(found, chances.argmax(0))
    with pytest.raises(ValueError, match="the oracle needs the true labels"):
        choose_teacher(logits, "oracle")


def test_random_teachers_are_drawn_evenly_and_repeat_themselves():
    logits = draw(3, 3000, 2)
    found = [choose_teacher(logits, "random", generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert (found[0].bincount() - 1000).abs().max() < 150


def test_a_temperature_changes_how_sure_a_teacher_counts():
    logits = torch.stack([draw(8, 3), 3 * draw(8, 3)])
    assert choose_teacher(logits).tolist() == [1] * 8
    assert choose_teacher(logits, temperatures=[1.0, 9.0]).tolist() == [0] * 8
    assert torch.equal(choose_teacher(logits, temperatures=torch.ones(2)), choose_teacher(logits))


@given(st.floats(0.2, 6), st.integers(0, 2**16))
def test_calibration_finds_the_temperature_that_was_put_in(temperature, seed):
    logits = draw(4000, 4, seed=seed)
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    assert calibrate(logits * temperature, labels) == pytest.approx(temperature, rel=0.15)
    own = calibrate(logits, labels)
    loss = lambda t: float(torch.nn.functional.cross_entropy(logits.double() / t, labels))
    assert loss(own) <= min(loss(own * 1.01), loss(own / 1.01))


@pytest.mark.parametrize("rule", RULES)
def test_the_host_does_not_wait(rule):
    logits, labels = draw(2, 64, 2), torch.zeros(64, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    with Syncs() as syncs:
        choose_teacher(logits, rule, labels=labels, generator=generator)
    assert not syncs.counts


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_logits_that_are_no_numbers_are_named(value):
    logits = draw(3, 5, 4)
    logits[2, 3, 1] = value
    for rule in ("entropy", "batch", "oracle"):
        with pytest.raises(ValueError, match="teacher 2 gives image 3 logits that hold NaN or infinity"):
            choose_teacher(logits, rule, labels=torch.zeros(5, dtype=torch.long))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"shape \(teachers, batch, classes\), got \(5, 4\)"):
        choose_teacher(draw(5, 4))
    with pytest.raises(ValueError, match=r"got \(0, 5, 4\)"):
        choose_teacher(draw(0, 5, 4))
    with pytest.raises(ValueError, match="unknown rule for choosing teachers 'entrpy': did you mean 'entropy'"):
        choose_teacher(draw(2, 5, 4), "entrpy")


def test_no_gradient_and_no_change_reaches_the_logits():
    logits = draw(2, 5, 4).requires_grad_()
    before = logits.detach().clone()
    assert not choose_teacher(logits).requires_grad
    assert torch.equal(logits, before)
    assert choose_teacher(logits.bfloat16()).dtype == torch.int64
