"""Exercises that check themselves: an answer is compared with a hidden solution on fresh random inputs."""

import copy
import secrets
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
import torch

from hetlib.errors import unknown
from hetlib.lab.presets import headless

TRIALS = 20

_exercises: dict[str, tuple[Callable, Callable[[torch.Generator], tuple], str]] = {}


def exercise(name: str, oracle: Callable, inputs: Callable[[torch.Generator], tuple], hint: str = "") -> None:
    """Set an exercise.

    Parameters
    ----------
    name : str
        What learners pass to `check`.
    oracle : callable
        The solution; usually hetlib's own function.
    inputs : callable
        Makes the positional arguments of one trial from a `torch.Generator`.
    hint : str
        Shown with a failure.
    """
    _exercises[name] = oracle, inputs, hint


def check(name: str, answer: Callable, seed: int | None = None) -> None:
    """Compare a learner's function with the solution of an exercise, and explain the first difference.

    Inputs are fresh, or those of a `seed` that an earlier failure named.

    Raises
    ------
    ValueError
        If there is no such exercise.
    AssertionError
        If the answer is wrong and nobody is reading. In a browser the explanation is shown instead, so that the rest
        of the notebook can run.
    """
    if name not in _exercises:
        raise unknown("exercise", name, _exercises)
    seed = secrets.randbelow(2**31) if seed is None else seed
    problem = _problem(*_exercises[name], answer, torch.Generator().manual_seed(seed))
    if problem and headless():
        raise AssertionError(f"{name}: {problem} (seed {seed})")
    right = f"✓ {name}: right on {TRIALS} of {TRIALS} random inputs"
    colour, text = ("#B00020", f"✗ {name}: {problem} (seed {seed})") if problem else ("#00664B", right)
    from IPython.display import HTML, display

    display(HTML(f"<pre style='color:{colour};white-space:pre-wrap'>{escape(text)}</pre>"))


def _problem(oracle: Callable, inputs: Callable, hint: str, answer: Callable, generator: torch.Generator) -> str | None:
    for _ in range(TRIALS):
        given = inputs(generator)
        expected = oracle(*copy.deepcopy(given))
        shown = f"for {', '.join(map(_short, given))}\n  expected {_short(expected)}\n  "
        try:
            got = answer(*copy.deepcopy(given))
        except Exception as error:  # whatever a learner's code raises is what the learner has to see
            return f"{shown}it raised {type(error).__name__}: {error}"
        if difference := _difference(got, expected):
            return f"{shown}got {_short(got)}\n  {difference}\n{hint}".rstrip()
    return None


def _difference(got: Any, expected: Any) -> str | None:
    if isinstance(expected, torch.Tensor) and isinstance(got, list | tuple | int | float | np.ndarray):
        got = torch.as_tensor(got)
    try:
        torch.testing.assert_close(got, expected, check_dtype=False, check_device=False)
    except TypeError:  # neither numbers nor tensors
        return None if got == expected else "they are not equal"
    except AssertionError as error:
        return str(error).strip().splitlines()[0]
    return None


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor) and value.numel() > 12:
        return f"tensor of shape {tuple(value.shape)}, first {value.flatten()[:4].tolist()}"
    text = repr(value)
    return text if len(text) < 300 else text[:297] + "..."
