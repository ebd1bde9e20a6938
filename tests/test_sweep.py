"""The table of published networks, remeasured in part; `pytest -m sweep` remeasures all of it."""

import pytest

from tests.sweep import HEAD, NAMES, TABLE, Row, measure

WITH_ATTENTION = ("maxvit_t", "vit_b_16")


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", *(pytest.param(name, marks=pytest.mark.sweep) for name in NAMES)]
)
def test_networks_are_read_permuted_and_fused_rightly(name):
    assert_right(measure(name))


def test_the_table_has_every_network_and_no_error():
    rows = [Row(*line.strip("| ").split(" | ")) for line in TABLE.read_text().removeprefix(HEAD).splitlines()]
    assert [row.network for row in rows] == [*NAMES]
    for row in rows:
        assert_right(row)


def assert_right(row):
    """Read completely, unchanged, and exact; only attention has channels that cannot be moved, and is refused."""
    assert (row.read, row.unchanged) == ("yes", "yes")
    assert float(row.exact) < 1e-9
    if row.network in WITH_ATTENTION:
        assert row.fused.startswith("refused: ")
    else:
        assert row.free == "100 %"
        assert float(row.fused) < 1e-9
