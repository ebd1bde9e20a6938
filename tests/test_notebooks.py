"""Notebooks and their text: in step, within their budgets, and every one of them runs."""

import ast
import base64
import re
import struct
import textwrap
from pathlib import Path
from statistics import median

import nbformat
import pytest

from hetlib import clone
from hetlib.cli import authors, outputs, runner
from hetlib.lab import notebooks

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = clone.names(FOLDER)
TEXT = """\
# %% [markdown]
# # Title
# Two $x + y$ words.

# %% tags=["parameters"]
A = 0.4  # float

# %% tags=["solution"]
import torch

def double(x):
    \"\"\"Twice `x`.\"\"\"
    return 2 * x

# %% tags=["solution"]
answer = 42

# %%
double(A)
"""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "notebooks" / "text" / "05_small.py"
    path.parent.mkdir(parents=True)
    path.write_text(TEXT)
    return path


BUDGET = {
    "cells": (35, 70),
    "words": (1800, 3500),
    "median cell": (1, 8),
    "longest cell": (1, 25),
    "figures": (6, 12),
    "bytes": (1, 1_200_000),
}
"""Sizes that keep a notebook readable. They remind its author: move an explorer too many, cut a paragraph too many."""


def measure(notebook):
    """Sizes of a notebook: cells, words, lines of the median and the longest code cell, figures, bytes."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in code]
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|<[^>]*>|\]\([^)]*\)", " ", prose, flags=re.DOTALL)
    return {
        "cells": len(notebook.cells),
        "words": len(re.findall(r"\w[\w'’-]*", prose)),
        "median cell": median(lines),
        "longest cell": max(lines),
        "figures": sum("image/png" in output.get("data", ()) for _, output in outputs.outputs(notebook)),
        "bytes": len(nbformat.writes(notebook).encode()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_text_and_notebook_are_in_step(name):
    assert authors.check(FOLDER / "text" / f"{name}.py", FOLDER / f"{name}.ipynb") == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_within_its_budget(name):
    sizes = measure(notebooks.read(FOLDER / f"{name}.ipynb"))
    assert {what: size for what, size in sizes.items() if not BUDGET[what][0] <= size <= BUDGET[what][1]} == {}


def test_no_notebook_is_without_text():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} <= set(NAMES)


@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_every_notebook_runs_at_smoke(name, tmp_path):
    [outcome] = runner.run([runner.plan(name, "smoke", runs=tmp_path, where=FOLDER)])
    assert outcome.error is None, outcome.error
    ran = [output for _, output in outputs.outputs(notebooks.read(outcome.task.output))]
    assert [output.text for output in ran if output.get("name") == "stderr"] == []
    assert sum("image/png" in output.get("data", ()) for output in ran) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_every_toggle_of_an_explorer_is_a_parameter(name):
    notebook = notebooks.read(clone.find(name, FOLDER))
    declared = notebooks.parameters(notebook)
    assert {"PRESET", "ZOOM"} <= declared.keys()
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.source[:1] != "%")
    fields = [
        field
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ClassDef) and "dataclass" in ast.unparse(node.decorator_list[0])
        for field in node.body
    ]
    assert len(fields) >= 2
    for field in fields:
        used = [node.id for node in ast.walk(field.value) if isinstance(node, ast.Name)]
        assert field.target.id.upper() in declared, "the copied command names it so"
        assert field.target.id.upper() in used, f"{field.target.id} does not start at its parameter's value"


@pytest.mark.parametrize("name", NAMES)
def test_figures_fit_a_laptop(name):
    published = notebooks.read(FOLDER / f"{name}.ipynb")
    images = [output.get("data", {}).get("image/png") for _, output in outputs.outputs(published)]
    for image in filter(None, images):
        width, height = struct.unpack(">II", base64.b64decode(image)[16:24])
        assert width <= 1000
        assert height <= 620


def exercise_cells(notebook):
    """The code that a learner who jumps to the exercises has run: the parameters, the setup, and what follows."""
    start = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Exercises"))
    setup = [i for i, cell in enumerate(notebook.cells[:start]) if "lab.start(" in cell.source]
    stop = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Three questions"))
    chosen = notebook.cells[: setup[0] + 1] + notebook.cells[start:stop]
    return [cell.source.replace("%matplotlib inline", "") for cell in chosen if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_solutions_pass_and_what_is_left_to_learners_fails(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HETLIB_RUN_DIR", str(tmp_path / "run"))
    authors.write_exercises(tmp_path, FOLDER)
    for kind, passes in (("solutions", True), ("exercises", False)):
        namespace, checks = {"__name__": "__main__"}, 0
        for source in exercise_cells(notebooks.read(tmp_path / kind / f"{name}.ipynb")):
            if source.startswith("lab.check(") and not passes:
                with pytest.raises(AssertionError, match="it raised NotImplementedError: your turn"):
                    exec(source, namespace)
            else:
                exec(source, namespace)
            checks += source.startswith("lab.check(")
        assert 2 <= checks <= 4


def test_unchanged_cells_keep_their_ids(text):
    before = notebooks.read(text)
    text.write_text(TEXT.replace("# %%\ndouble", "# %% [markdown]\n# New.\n\n# %%\ndouble").replace("42", "43"))
    after = notebooks.read(text)
    assert [cell.id for cell in after.cells if cell in before.cells] == [before.cells[i].id for i in (0, 1, 2, 4)]
    assert len({cell.id for cell in after.cells}) == 6
    nbformat.validate(after)


def test_cells_that_only_draw_are_folded(text):
    text.write_text('# %% tags=["hide-input"]\n1\n\n# %%\n2\n')
    folded, shown = notebooks.read(text).cells
    assert folded.metadata == {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    assert shown.metadata == {}


def test_equal_cells_get_different_ids(text):
    text.write_text("# %%\n1\n\n# %%\n1\n")
    assert len({cell.id for cell in notebooks.read(text).cells}) == 2


def test_text_and_notebook_that_differ_are_seen(text, tmp_path):
    published = notebooks.save(tmp_path / "05_small.ipynb", notebooks.read(text))
    assert not any("differ" in complaint for complaint in authors.check(text, published))
    text.write_text(TEXT.replace("42", "43"))
    assert "differ in cell 3" in " ".join(authors.check(text, published))
    text.write_text(TEXT + "\n# %%\n1\n")
    assert "differ in cell 5)" in " ".join(authors.check(text, published))
    text.write_text(TEXT.replace('tags=["parameters"]', ""))
    assert "differ in cell 1" in " ".join(authors.check(text, published))
    published.unlink()
    assert authors.check(text, published) == ["run `make notebooks` (05_small.ipynb is missing)"]


def test_errors_are_seen(text, tmp_path):
    notebook = notebooks.read(text)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="x", traceback=["E: x"])]
    complaints = authors.check(text, notebooks.save(tmp_path / "05_small.ipynb", notebook))
    assert complaints == ["error in cell 4: E: x"]


def test_measures_count_prose_and_code(text):
    sizes = measure(notebooks.read(text))
    assert (sizes["cells"], sizes["words"], sizes["longest cell"]) == (5, 3, 4)


def test_publishing_leaves_out_what_needs_a_live_kernel(text):
    executed = notebooks.read(text)
    widget = nbformat.v4.new_output("display_data", data={authors.WIDGET: {}, "text/plain": "VBox()"})
    value = nbformat.v4.new_output("execute_result", data={"text/plain": "0.8"}, metadata={"seconds": 3})
    executed.cells[-1].outputs = [widget, value]
    executed.cells[-1].execution_count = 4
    executed.metadata.widgets = {"state": {}}
    done = authors.publish(notebooks.read(text), executed)
    assert [output.data for output in done.cells[-1].outputs] == [{"text/plain": "0.8"}]
    assert done.cells[-1].outputs[0].metadata == {}
    assert done.cells[-1].execution_count == 4
    figures = [{"image/png": "aGk=", "text/plain": text} for text in ("[Half is lost; and more]", "<Figure size 7x3>")]
    executed.cells[-1].outputs = [nbformat.v4.new_output("display_data", data=data) for data in figures]
    done = authors.publish(notebooks.read(text), executed)
    alternatives = [output.metadata["image/png"]["alt"] for output in done.cells[-1].outputs]
    assert alternatives == ["Half is lost; and more", "figure: Title"]
    nbformat.validate(done)
    assert "widgets" not in done.metadata


def test_exercises_keep_signatures_and_lose_solutions(text, tmp_path):
    written = authors.write_exercises(tmp_path / "build", text.parents[1])
    assert [path.relative_to(tmp_path / "build").as_posix() for path in written] == [
        "exercises/05_small.ipynb",
        "solutions/05_small.ipynb",
    ]
    stub, whole = map(notebooks.read, written)
    assert (
        stub.cells[2].source
        == textwrap.dedent('''
        import torch

        def double(x):
            """Twice `x`."""
            raise NotImplementedError('your turn')
    ''').strip()
    )
    assert stub.cells[3].source == "# Your code here."
    assert whole.cells[3].source == "answer = 42"


def test_parameters_with_annotations_are_read(text):
    text.write_text('# %% tags=["parameters"]\nA: float = -0.4\nSIZES = (1, 2)\nDATA = None\n')
    notebook = notebooks.read(text)
    assert notebooks.parameters(notebook) == {"A": -0.4, "SIZES": (1, 2), "DATA": None}
    given = {"A": "1", "SIZES": "[3]", "DATA": "cifar10"}
    assert runner.accept(notebook, given) == {"A": 1.0, "SIZES": (3,), "DATA": "cifar10"}


def test_outside_a_clone_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(clone, "__file__", str(tmp_path / "hetlib" / "clone.py"))
    with pytest.raises(FileNotFoundError, match="run hetlib inside a clone"):
        clone.folder(tmp_path)


@pytest.mark.parametrize("content", ["", "hello", "{}", "[]", '{"cells": ['])
def test_what_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "broken.ipynb"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"broken.ipynb is no notebook"):
        outputs.faults(notebooks.read(path))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ('# %% tags=["parameters"]\nX = f(3)\n', "parameter X has no plain literal"),
        ("# %%\nX = 3\n", "no cell tagged `parameters`"),
    ],
)
def test_parameters_that_cannot_be_read_are_named(text, cell, says):
    text.write_text(cell)
    with pytest.raises(ValueError, match=says):
        runner.accept(notebooks.read(text), {"X": 4})
