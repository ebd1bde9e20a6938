"""What parameters can be: the schema says it of every notebook's, and as the controls of its explorers do."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from hetlib import clone, lab, zoo
from hetlib.cli import runner
from hetlib.errors import within
from hetlib.experiments import clafusion, clafusion_one_shot
from hetlib.lab import notebooks
from hetlib.lab.panel import Panel
from hetlib.lab.toggles import Toggle
from hetlib.parameters import allowed, check


def defaults(name):
    return notebooks.parameters(notebooks.read(clone.find(name)))


@pytest.mark.parametrize("name", clone.names())
def test_every_parameter_is_in_the_schema_and_its_default_can_be(name):
    declared = defaults(name)
    assert declared.keys() - allowed(name, declared).keys() == {"PRESET"}
    assert allowed(name, {}).keys() <= declared.keys() | {"SEEDS", "WIDTH", "EPOCHS", "ZOOM"}
    check(name, declared)


def controls(name):
    """The controls that stand in a notebook as literals: parameter, and what it may be."""
    nodes = [*ast.walk(ast.parse(clone.find(name).read_text()))]
    tables = [
        each for each in nodes if isinstance(each, ast.Assign | ast.AugAssign) and isinstance(each.value, ast.Dict)
    ]
    for node in nodes:
        if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Subscript):
            if isinstance(node.annotation.slice, ast.Call):  # tuple(NAME): the keys of a table
                table = node.annotation.slice.args[0].id
                found = [each.value.keys for each in tables if table in ast.unparse(each).split(" ", 1)[0]]
                yield node.target.id.upper(), [key.value for keys in found for key in keys]
            else:
                yield node.target.id.upper(), list(ast.literal_eval(node.annotation.slice))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "slider":
            yield node.args[0].id, dict(zip(("from", "to"), map(ast.literal_eval, node.args[1:3]), strict=True))


@pytest.mark.parametrize("name", clone.names())
def test_controls_and_schema_say_the_same(name):
    found = list(controls(name))
    assert len(found) >= 2
    assert [(each, what) for each, what in found if allowed(name, {})[each] != what] == []


@dataclass(frozen=True)
class Pairing:
    """A toggle with a choice that its parameter has not."""

    order: Literal["chain", "random"] = "chain"


def test_no_command_is_offered_that_the_command_line_would_refuse(tmp_path):
    made = lab.Explorer(lambda settings: settings.order, Pairing(), lab.start("01_hmt", "smoke", cache=tmp_path))
    panel = made.panel = Panel(made)
    assert made.command == "hetlib run 01_hmt --preset smoke"
    assert "hetlib run 01_hmt" in panel.controls["copy"].value
    made.set(order="random")
    with pytest.raises(ValueError, match="unknown value of ORDER 'random'"):
        _ = made.command
    assert panel.controls["copy"].value == ""
    made.reset()
    assert "hetlib run 01_hmt" in panel.controls["copy"].value


def test_what_is_chosen_by_name_exists():
    assert allowed("02_clafusion", {})["EXPERIMENT"] == [*clafusion.EXPERIMENTS, "none"]
    assert {*allowed("03_grafting", {})["MODEL"]} == {"", *zoo.names()} - {"mlp"}
    settings = clafusion_one_shot.Switches()
    declared = allowed("02_clafusion", {})
    for field in vars(settings):
        toggle = Toggle(settings, field)
        can = list(toggle.choices) or dict(zip(("from", "to"), toggle.range, strict=False))
        assert can == declared[field.upper()]


@pytest.mark.parametrize(
    ("notebook", "given", "says"),
    [
        ("01", {"LR": "-1"}, "unknown value of LR -1.0.* Known: 0.1, 0.03, 0.01"),
        ("01", {"START": "nope"}, "unknown value of START 'nope'.* Known: 'none', 'chain'"),
        ("01", {"DATA": "digits"}, "unknown value of DATA 'digits'.* Known: '', 'shapes-target'"),
        ("01", {"ORDER": "shufle"}, "unknown value of ORDER 'shufle': did you mean .*shuffle"),
        ("01", {"SEEDS": "-1"}, "SEEDS must be a whole number from 0 to 100, got -1"),
        ("01", {"SEEDS": str(10**9)}, "SEEDS must be a whole number from 0 to 100, got 1000000000"),
        ("01", {"ZOOM": "0"}, "ZOOM must be a number from 0.5 to 3.0, got 0.0"),
        ("01", {"ZOOM": "1e999"}, "ZOOM must be a number from 0.5 to 3.0, got inf"),
        ("02", {"EXPERIMENT": "vgg"}, "unknown value of EXPERIMENT 'vgg'"),
        ("02", {"MAP": "10"}, "MAP must be a whole number from 0 to 9, got 10"),
        ("02", {"RELU": "max"}, "unknown value of RELU 'max'"),
        ("03", {"MODEL": "vgg11"}, "unknown value of MODEL 'vgg11'"),
        ("03", {"PUBLISHED": "absent"}, "PUBLISHED must be a folder that exists, got 'absent'"),
        ("04", {"GROUP": "classes", "DATA": "faces"}, "unknown value of DATA 'faces'.* Known: '', 'shapes-source'"),
        ("05", {"COMPARE": "nothing"}, "unknown value of COMPARE 'nothing'"),
        ("05", {"CASE": "less"}, "unknown value of CASE 'less'"),
        ("01", {"PRESET": "paper"}, "PRESET paper is given as a parameter beside --preset smoke"),
    ],
)
def test_values_are_refused_before_anything_runs(tmp_path, notebook, given, says):
    with pytest.raises(ValueError, match=says) as refused:
        runner.plan(notebook, "smoke", given, tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("notebook", "given"),
    [("03", {"MODEL": "vgg11", "DATA": "cifar10"}), ("04", {"GROUP": "classes", "DATA": "cifar100"}), ("01", {})],
)
def test_what_can_be_is_planned(tmp_path, notebook, given):
    task = runner.plan(notebook, "smoke", given, tmp_path)
    assert task.parameters == {"PRESET": "smoke"} | given


def test_a_cell_is_checked_as_the_command_line_is(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["__main__"], "LR", 0.5, raising=False)
    with pytest.raises(ValueError, match=r"unknown value of LR 0.5"):
        lab.start("01_hmt", "smoke", cache=tmp_path)
    lab.start("02_clafusion", "smoke", cache=tmp_path)
    with pytest.raises(ValueError, match="SEEDS must be a whole number from 0 to 100, got 1000000000"):
        lab.start("02_clafusion", "smoke", seeds=10**9, cache=tmp_path)


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), 0.5])
def test_what_is_no_number_in_a_range_is_refused(value):
    with pytest.raises(ValueError, match="EPOCHS must be a whole number from 0 to 3"):
        within("EPOCHS", value, 0, 3, whole=True)


def test_an_unknown_notebook_is_told_without_torch(tmp_path):
    code = (
        "import sys; from hetlib import cli\n"
        "try: cli.main(['run', 'nope'])\n"
        "except SystemExit as left: assert left.code == 2\n"
        "try: cli.main(['reproduce', '-n', 'nope'])\n"
        "except SystemExit as left: assert left.code == 2\n"
        "assert not {'torch', 'papermill', 'jupytext'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.count("unknown notebook 'nope'") == 2


def test_a_folder_is_below_the_projects_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "text").mkdir(parents=True)
    (tmp_path / "data" / "weights").mkdir(parents=True)
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        check("03_grafting", {"PUBLISHED": "data/weights"})
        check("03_grafting", {"PUBLISHED": str(tmp_path / "data")})
        with pytest.raises(ValueError, match="PUBLISHED must be a folder that exists"):
            check("03_grafting", {"PUBLISHED": "../data"})
