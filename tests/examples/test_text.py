"""The code that README.md and CONTRIBUTING.md show runs as it stands there."""

import re
from pathlib import Path
from textwrap import dedent

import torch

from hetlib import zoo

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def run(page, **names):
    """Run the page's only block of Python, with these names."""
    (block,) = BLOCK.findall((ROOT / page).read_text())
    exec(compile(dedent(block), page, "exec"), names)


def test_the_mixture_of_the_readme(capsys):
    run("README.md")
    assert "20 of 20 layers fed" in capsys.readouterr().out


def test_the_step_of_contributing(capsys):
    source, target = (zoo.build("resnet8", width=0.125, num_classes=classes) for classes in (10, 5))
    own = target.linear.weight.clone()
    run("CONTRIBUTING.md", source=source, target=target)
    assert torch.equal(target.conv1.weight, source.conv1.weight / 2)
    assert torch.equal(target.linear.weight, own)
    assert "halved" in capsys.readouterr().out
