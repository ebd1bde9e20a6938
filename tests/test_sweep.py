"""The table of published networks, remeasured in part."""

import pytest

from tests.sweep import HEAD, NAMES, TABLE, Row, measure


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_networks_are_read_permuted_and_fused_rightly(name):
    row = measure(name)
    assert row == Row(name, "yes", "yes", "100 %", row.exact, row.fused)
    assert float(row.exact) < 1e-12
    assert float(row.fused) < 1e-12


def test_the_table_has_every_network_and_no_error():
    rows = [Row(*line.strip("| ").split(" | ")) for line in TABLE.read_text().removeprefix(HEAD).splitlines()]
    assert [row.network for row in rows] == [*NAMES]
    for row in rows:
        assert (row.read, row.unchanged) == ("yes", "yes")
        assert float(row.exact) < 1e-9
        assert row.fused.startswith("refused: ") or float(row.fused) < 1e-9
