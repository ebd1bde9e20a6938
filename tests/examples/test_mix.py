"""The mixtures run, feed layers, leave the source alone, and the file runs as its first line says."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from examples.mix import MIXTURES
from hetlib import zoo

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_feeds_the_target_and_leaves_the_source(name):
    torch.manual_seed(0)
    source, target = zoo.build("resnet18", width=0.125), zoo.build("resnet34", width=0.125)
    kept, before = deepcopy(source.state_dict()), deepcopy(target.state_dict())
    report = MIXTURES[name](source, target, torch.randn(8, 3, 32, 32))
    assert len(report.matched) >= 9
    assert all(torch.equal(value, kept[key]) for key, value in source.state_dict().items())
    changed = {key for key, value in target.state_dict().items() if not torch.equal(value, before[key])}
    assert {f"{row.target}.weight" for row in report if row.fed} >= {key for key in changed if key.endswith("weight")}


def test_the_five_are_different_and_each_is_one_line():
    assert len(MIXTURES) == len({str(mixture) for mixture in MIXTURES.values()}) == 5
    lines = (ROOT / "examples" / "mix.py").read_text().splitlines()
    assert sum("Transfer(" in line for line in lines) == 5


def test_the_file_runs():
    done = subprocess.run([sys.executable, "examples/mix.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("layers fed") == 5
