"""The table of published networks, remeasured in part; `pytest -m sweep` remeasures all of it."""

import re
from importlib.util import find_spec

import pytest

from tests.sweep import HEAD, NAMES, TABLE, Row, measure

REFUSED = {
    "maxvit_t", "vit_b_16", "timm/skresnet18", "timm/ecaresnet26t", "timm/resnest14d", "timm/repvit_m0_9",
    "timm/eca_nfnet_l0", "timm/convnextv2_atto", "timm/edgenext_xx_small",
}  # fmt: skip
"""Attention, norms and gates over channels that cannot be moved, and one network with two classifiers."""
SOME = ("resnet18", "squeezenet1_1", "timm/edgenext_xx_small", "timm/fasternet_t0", "timm/repghostnet_050")


@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.sweep) for name in NAMES)])
def test_networks_are_read_permuted_and_fused_rightly(name):
    if name.startswith("timm/") and not find_spec("timm"):
        pytest.skip("timm is not installed")
    assert_right(measure(name))


def test_the_table_has_every_network_and_no_error():
    rows = [Row(*line.strip("| ").split(" | ")) for line in TABLE.read_text().removeprefix(HEAD).splitlines()]
    assert [row.network for row in rows] == [*NAMES]
    for row in rows:
        assert_right(row)


def assert_right(row):
    """Read completely, unchanged, and exact but for rounding; fused, unless it is one of those that are refused."""
    assert (row.read, row.unchanged) == ("yes", "yes")
    assert float(row.exact) < max(1e-9, 100 * float(row.rounding))
    if row.network in REFUSED:
        assert row.fused.startswith("refused: ")
    else:
        assert row.free == "100 %"
        error, *exchanged = row.fused.split("; ")
        for words in exchanged:
            constant, wrong = re.fullmatch(r"(\d+) of (\d+) neurons that were exchanged are constant", words).groups()
            assert 0 < int(constant) == int(wrong)
        assert exchanged or float(error) < 1e-9
