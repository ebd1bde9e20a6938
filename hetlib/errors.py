"""Messages that say what was wrong and what would have been right, and checks of numbers that everything shares."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any


def unknown(kind: str, given: object, valid: Iterable[str]) -> ValueError:
    """Build the error for a name that does not exist, naming the nearest ones that do.

    Parameters
    ----------
    kind : str
        What the name stands for, in the reader's words ("model", "preset").
    given : object
        What was asked for.
    valid : iterable of str
        Every name that would have been accepted.

    Returns
    -------
    ValueError
        To be raised by the caller, so that the traceback ends where the name was read.

    Examples
    --------
    >>> str(unknown("model", "resnet21", ["mlp", "resnet20"]))
    "unknown model 'resnet21': did you mean 'resnet20'? Known: mlp, resnet20"
    """
    names = [str(name) for name in valid]
    near = get_close_matches(str(given), names, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(map(repr, near))}?" if near else "."
    return ValueError(f"unknown {kind} {given!r}{hint} Known: {', '.join(names)}")


def positive(what: str, value: int) -> int:
    """Return `value` if it is a whole number of at least 1, else raise a ValueError that says so."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{what} must be a whole number of at least 1, got {value!r}")
    return int(value)


def whole_numbers(what: str, given: Iterable[Any]) -> list[int]:
    """Numbers as Python has them, of a sequence, an array or a tensor; ValueError for one that is not whole.

    A truth value is none: a mask read as the numbers 0 and 1 would be wrong in silence.
    """
    found = [each.item() if hasattr(each, "item") else each for each in given]
    for each in found:
        if isinstance(each, bool) or not isinstance(each, Integral):
            raise ValueError(f"{what}: whole numbers are needed, got {each!r}")
    return [int(each) for each in found]


def one_of(what: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise a ValueError that names `what`, the value and all choices, unless the value is one of them."""
    # 1 == True, so equality alone would let one pass for the other.
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise unknown(f"value of {what}", value, map(repr, choices))


def within(what: str, value: Any, low: float, high: float, whole: bool) -> None:
    """Raise a ValueError that names `what` unless the value is a number, or a whole one, from `low` to `high`."""
    kind, kinds = ("a whole number", (int,)) if whole else ("a number", (int, float))
    if type(value) not in kinds or not low <= value <= high:
        raise ValueError(f"{what} must be {kind} from {low} to {high}, got {value!r}")
