"""What authors of notebooks need: a notebook published with its outputs, checked, and turned into exercises."""

import ast
import re
from itertools import zip_longest
from pathlib import Path

from nbformat import NotebookNode

from hetlib.cli.outputs import faults
from hetlib.clone import find, names
from hetlib.lab.notebooks import read, save, tagged

WIDGET = "application/vnd.jupyter.widget-view+json"


def publish(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Give a notebook the outputs of its run, without what changes from run to run or needs a live kernel.

    A figure gets a text for those who cannot see it: its own title, else that of the section it stands in.
    """
    heading = ""
    for cell, ran in zip(source.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.execution_count = ran.execution_count
            cell.outputs = [output for output in ran.outputs if WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                output.get("metadata", {}).clear()
                if "image/png" in output.get("data", {}):
                    title = re.fullmatch(r"\[(.*)\]", output.data.get("text/plain", ""), re.DOTALL)
                    output.metadata["image/png"] = NotebookNode(alt=title[1] if title else f"figure: {heading}")
        elif title := re.match(r"#+ (.*)", cell.source):
            heading = title[1]
    return source


def check(text: str | Path, published: str | Path) -> list[str]:
    """What is wrong with a published notebook: it is missing, differs from its text, or shows errors.

    Returns
    -------
    list of str
        One sentence per complaint; empty if all is well.
    """
    name = Path(published).name
    if not Path(published).is_file():
        return [f"run `make notebooks` ({name} is missing)"]
    notebook = read(published)
    cells = (
        [(cell.id, cell.cell_type, cell.source, cell.metadata) for cell in each.cells]
        for each in (read(text), notebook)
    )
    differ = [str(index) for index, (ours, theirs) in enumerate(zip_longest(*cells)) if ours != theirs]
    complaints = [f"error in {fault}" for fault in faults(notebook)]
    return complaints + [f"run `make notebooks` ({name} and its text differ in cell {', '.join(differ)})"] * bool(
        differ
    )


def as_exercise(notebook: NotebookNode) -> NotebookNode:
    """Replace the cells tagged `solution` by signatures with their docstrings, or by one comment."""
    for cell in tagged(notebook, "solution"):
        cell.metadata.tags = [tag for tag in cell.metadata.tags if tag != "solution"]
        if cell.cell_type == "code":
            cell.source = _signatures(cell.source)
        else:
            cell.source = "*Your answer here.*"
    return notebook


def _signatures(source: str) -> str:
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            todo = ast.parse('raise NotImplementedError("your turn")').body
            node.body = (node.body[:1] if ast.get_docstring(node) else []) + todo
    return ast.unparse(tree) or "# Your code here."


def write_exercises(where: str | Path = "build", source: Path | None = None) -> list[Path]:
    """Write every notebook twice, both without outputs: `exercises/` without the solutions, `solutions/` whole.

    Returns
    -------
    list of Path
        The files written.
    """
    written = []
    for name in names(source):
        path = find(name, source)
        written.append(save(Path(where) / "exercises" / f"{name}.ipynb", as_exercise(read(path))))
        written.append(save(Path(where) / "solutions" / f"{name}.ipynb", read(path)))
    return written
