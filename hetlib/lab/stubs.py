"""Exercise and solution notebooks, both from the text of a notebook."""

import ast
from pathlib import Path

from nbformat import NotebookNode

from hetlib.lab.notebooks import find, names, read, save, tagged


def exercise(notebook: NotebookNode) -> NotebookNode:
    """Replace the cells tagged `solution` by signatures with their docstrings, or by one comment."""
    for cell in tagged(notebook, "solution"):
        cell.metadata.tags = [tag for tag in cell.metadata.tags if tag != "solution"]
        if cell.cell_type == "code":
            cell.source = _stub(cell.source)
        else:
            cell.source = "*Your answer here.*"
    return notebook


def _stub(source: str) -> str:
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            todo = ast.parse('raise NotImplementedError("your turn")').body
            node.body = (node.body[:1] if ast.get_docstring(node) else []) + todo
    return ast.unparse(tree) or "# Your code here."


def write_exercises(where: str | Path = "build", source: Path | None = None) -> list[Path]:
    """Write every notebook twice, `exercises/` with stubs and `solutions/` whole, both without outputs.

    Returns
    -------
    list of Path
        The files written.
    """
    written = []
    for name in names(source):
        path = find(name, source)
        written.append(save(Path(where) / "exercises" / f"{name}.ipynb", exercise(read(path))))
        written.append(save(Path(where) / "solutions" / f"{name}.ipynb", read(path)))
    return written
