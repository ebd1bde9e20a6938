"""The project as files: one list of dependencies, small modules, documented names, cheap imports."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "hetlib").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("matplotlib", "torchvision", "sklearn", "papermill", "IPython", "ipywidgets", "rich", "typer")


def name_of(requirement: str) -> str:
    """`Dask[distributed]>=1` is called dask."""
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")


def pins() -> dict[str, str]:
    """Versions in constraints.txt by name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "only names and plain versions are pinned"
    return {name_of(line): line.split("==")[1] for line in lines}


def test_every_dependency_is_pinned():
    wanted = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    assert {name_of(requirement) for requirement in wanted} <= set(pins())


def test_torch_and_torchvision_are_a_pair():
    torch, vision = (tuple(map(int, pins()[name].split("."))) for name in ("torch", "torchvision"))
    assert (torch[0], vision[0]) == (2, 0)
    assert vision[1] == torch[1] + 15, "torchvision 0.(x+15) is built against torch 2.x"


def test_environment_leaves_the_list_to_pyproject():
    lines = [line for line in (ROOT / "environment.yml").read_text().splitlines() if line]
    assert len(lines) == 10
    assert [line.strip() for line in lines[-2:]] == ["- -c constraints.txt", "- -e .[notebooks]"]
    assert f"python{PROJECT['requires-python']}" in " ".join(lines)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_small_and_documented(module):
    source = module.read_text()
    assert len(source.splitlines()) <= 300
    tree = ast.parse(source)
    assert not tree.body or ast.get_docstring(tree), "the module has no docstring"
    public = [
        node
        for owner in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
        for node in owner.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_"
    ]
    inherited = ("forward", "extra_repr")
    assert [node.name for node in public if not ast.get_docstring(node) and node.name not in inherited] == []


def test_importing_loads_nothing_heavy_and_has_no_effects():
    names = [f"hetlib.{path.stem}" for path in MODULES if path.parent.name == "hetlib" and path.stem not in ("cli",)]
    names = [name for name in names if not name.endswith("__")] + ["hetlib.zoo", "hetlib.kernels"]
    code = f"""
import torch, sys
state = torch.get_rng_state()
import {", ".join(["hetlib", *names])}
assert torch.equal(state, torch.get_rng_state()), "importing set a seed"
assert [name for name in {HEAVY} if name in sys.modules] == [], "imported too early"
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "", "importing printed something"


def test_make_says_which_python_it_needs(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\ncase $1 in --version) echo Python 3.9.1;; *) exit 1;; esac\n")
    old.chmod(0o755)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    ran = subprocess.run(["make", "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "needs Python 3.11 or newer" in ran.stderr
    assert "Python 3.9.1" in ran.stderr
    assert not (tmp_path / ".venv").exists()
