"""Messages that say what was wrong and what would have been right."""

from collections.abc import Iterable
from difflib import get_close_matches


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
