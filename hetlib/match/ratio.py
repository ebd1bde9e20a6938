"""Layers paired in proportion to depth."""

from hetlib.errors import whole

MOST = 10**6
"""Layers of a network: more are a mistake, and would take long to list."""


def by_ratio(n_source: int, n_target: int) -> list[int]:
    """Spread the source's layers over the target's in proportion to depth.

    Parameters
    ----------
    n_source, n_target : int
        How many layers the two chains have.

    Returns
    -------
    list of int
        For each target layer i the source layer ``round(i * n_source / n_target)``, halves to even, within range.

    Raises
    ------
    ValueError
        If a chain is empty.

    References
    ----------
    Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping*, AICI 2024: index matching of the
    released code.
    """
    check_lengths(n_source, n_target)
    return [min(round(i * n_source / n_target), n_source - 1) for i in range(n_target)]


def check_lengths(n_source: int, n_target: int) -> None:
    """Refuse a chain without layers.

    Raises
    ------
    ValueError
        Says which chain is empty.
    """
    for role, length in (("source", n_source), ("target", n_target)):
        if not whole(f"the number of layers of the {role}", length, 0, MOST):
            raise ValueError(f"the {role} has no layers to match")
