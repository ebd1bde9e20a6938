"""Messages that say what was wrong and what would have been right, and checks of arguments that everything shares.

A check is given what the argument is called. It raises a ValueError, or a TypeError for something of a wrong kind, in
one line that names the argument and shows what was given.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

LARGEST = 2**63 - 1
"""The largest whole number that torch takes."""


def shown(value: Any) -> str:
    """A value as errors show it: in one short line, and of tensors and networks only what they are."""
    # Told by what they have: whoever only reads parameters shall not wait for torch.
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if hasattr(value, "named_parameters"):
        return f"a network ({type(value).__name__})"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


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
    return ValueError(f"unknown {kind} {shown(given)}{hint} Known: {', '.join(names)}")


def known(kind: str, given: Any, valid: Iterable[str]) -> None:
    """Raise `unknown` unless the name is one of the valid ones; anything that is no text is none."""
    if not isinstance(given, str) or given not in valid:
        raise unknown(kind, given, valid)


def whole(what: str, value: Any, low: int = 1, high: int = LARGEST) -> int:
    """Return a whole number from `low` to `high`, as Python has it.

    A truth value is none: read as 0 or 1 it would be wrong in silence.
    """
    found: Any = _plain(value)
    if isinstance(found, bool) or not isinstance(found, Integral) or not low <= int(found) <= high:
        span = f" of at least {low}" if high == LARGEST else f" from {low} to {high}"
        raise ValueError(f"{what} must be a whole number{span}, got {shown(value)}")
    return int(found)


def positive(what: str, value: Any) -> int:
    """Return a whole number of at least 1."""
    return whole(what, value)


def seed_of(value: Any, what: str = "seed") -> int:
    """Return a seed that torch's generators take: a whole number of 64 bits, with or without a sign."""
    return whole(what, value, -(2**63), 2**64 - 1)


def whole_numbers(what: str, given: Iterable[Any], low: int = -LARGEST) -> list[int]:
    """Return whole numbers of at least `low` of a sequence, an array or a tensor, as Python has them."""
    for each in (found := _listed(what, given, "whole numbers")):
        if isinstance(each, bool) or not isinstance(each, Integral) or not low <= int(each) <= LARGEST:
            least = "" if low == -LARGEST else f" of at least {low}"
            raise ValueError(f"{what}: whole numbers{least} are needed, got {shown(each)}")
    return [int(each) for each in found]


def finite(what: str, value: Any, low: float = -inf, high: float = inf, *, above: float = -inf) -> float:
    """Return a finite number from `low` to `high` that is greater than `above`, as Python has it; NaN is none."""
    found = _plain(value)
    if not _real(found) or not low <= found <= high or not found > above:
        span = f" from {low} to {high}" if high < inf else f" of at least {low}" if low > -inf else ""
        raise ValueError(f"{what} must be a finite number{span or _above(above)}, got {shown(value)}")
    return found


def finite_numbers(
    what: str,
    given: Iterable[Any],
    count: int | None = None,
    *,
    low: float = -inf,
    above: float = -inf,
    finite: bool = True,
) -> list[float]:
    """Return so many finite numbers of a sequence, an array or a tensor, each of at least `low` and above `above`.

    Those that need not be `finite` may be NaN or infinite as well.
    """
    found = _listed(what, given, "numbers")
    if count is not None and len(found) != count:
        raise ValueError(f"{what}: {count} numbers are needed, got {len(found)}")
    for each in found:
        if not (_real(each) and each >= low and each > above) and (finite or type(each) is not float):
            least = _above(above) if low == -inf else f" of at least {low}"
            raise ValueError(f"{what}: finite numbers{least} are needed, got {shown(each)}")
    return found


def _above(above: float) -> str:
    return "" if above == -inf else f" above {above}"


def _plain(value: Any) -> Any:
    """A number of NumPy's or torch's as Python has it."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _listed(what: str, given: Any, kind: str) -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__") or getattr(given, "ndim", 1) == 0:
        raise TypeError(f"{what} must be a sequence of {kind}, got {shown(given)}")
    return [_plain(each) for each in given]


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


def of_kind(what: str, value: Any, *kinds: Any, words: str = "") -> None:
    """Raise a TypeError that names `what` and what it must be, `words`, unless the value is of one of the kinds."""
    if not isinstance(value, kinds):
        given = f"the class {value.__name__}" if isinstance(value, type) else shown(value)
        wanted = words or " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise TypeError(f"{what} must be {wanted}, got {given}")


def check_callable(what: str, value: Any) -> None:
    """Raise a TypeError unless the value can be called as it is, which a class cannot: it would make an object."""
    if not callable(value) or isinstance(value, type):
        given = f"the class {value.__name__}" if isinstance(value, type) else shown(value)
        raise TypeError(f"{what} must be a function, or an object that is called, got {given}")
