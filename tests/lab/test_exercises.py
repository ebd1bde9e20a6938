"""Exercises: right answers pass, wrong ones are explained, and nobody's input is spoilt."""

import pytest
import torch

from hetlib import lab
from hetlib.lab import exercises


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setattr(exercises, "_exercises", {})
    lab.exercise("double", lambda x: 2 * x, lambda g: (torch.rand(3, generator=g),), hint="Twice each number.")
    lab.exercise("name", lambda n: "abc"[:n], lambda g: (int(torch.randint(1, 4, (), generator=g)),))


@pytest.mark.parametrize(
    "answer", [lambda x: x + x, lambda x: (2 * x).tolist(), lambda x: (2 * x).numpy(), lambda x: x.mul_(2)]
)
def test_right_answers_of_any_kind_pass(answer, capsys):
    assert lab.check("double", answer) is None
    assert "HTML" in capsys.readouterr().out


def test_answers_that_are_no_numbers_are_compared_too():
    lab.check("name", lambda n: "".join(["a", "b", "c"][:n]))
    with pytest.raises(AssertionError, match=r"expected 'a.*\n.*got 'x'"):
        lab.check("name", lambda n: "x")


def raises(x):
    raise NotImplementedError("your turn")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda x: 3 * x,
            r"(?s)for tensor.*expected tensor.*got tensor.*Tensor-likes are not close.*Twice each.*seed 5",
        ),
        (lambda x: 2 * x[:2], "size|shape"),
        (lambda x: None, "got None"),
        (raises, "it raised NotImplementedError: your turn"),
    ],
)
def test_wrong_answers_are_explained(answer, message):
    with pytest.raises(AssertionError, match=message):
        lab.check("double", answer, seed=5)


def test_inputs_are_fresh_and_repeatable():
    seen = []

    def answer(x):
        seen.append(x.tolist())
        return 2 * x

    lab.check("double", answer)
    lab.check("double", answer)
    assert len({tuple(x) for x in seen}) == 2 * exercises.TRIALS
    seen.clear()
    lab.check("double", answer, seed=1)
    lab.check("double", answer, seed=1)
    assert seen[: exercises.TRIALS] == seen[exercises.TRIALS :]


def test_with_a_reader_a_failure_is_shown_and_the_notebook_goes_on(monkeypatch):
    shown = []
    monkeypatch.setattr(exercises, "headless", lambda: False)
    monkeypatch.setattr("IPython.display.display", lambda html: shown.append(html.data))
    lab.check("double", lambda x: x)
    assert "✗ double: for tensor" in shown[0]


def test_unknown_exercises_are_named():
    with pytest.raises(ValueError, match="did you mean 'double'"):
        lab.check("duoble", torch.neg)
