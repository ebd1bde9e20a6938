"""Notebooks as files: built from their text twins, read for parameters, saved."""

import ast
import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetlib.files import write

if TYPE_CHECKING:  # nbformat takes longer to import than the rest of lab, and processes that train need none of it
    from nbformat import NotebookNode

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(path: str | Path) -> "NotebookNode":
    """Read a notebook in format 4.5, or the text of one.

    Cells of a text get ids made of their content, so unchanged ones keep theirs; those tagged `hide-input` are folded.
    """
    import jupytext
    import nbformat

    if Path(path).suffix == ".ipynb":
        try:
            return nbformat.read(path, as_version=4)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError, nbformat.ValidationError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} is no notebook: {reason}") from error
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata, notebook.nbformat, notebook.nbformat_minor = nbformat.from_dict(METADATA), 4, 5
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        folded = {"jupyter": {"source_hidden": True}} if "hide-input" in tags else {}
        cell.metadata = nbformat.from_dict(({"tags": tags} if tags else {}) | folded)
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def tagged(notebook: "NotebookNode", tag: str) -> list["NotebookNode"]:
    """The cells that carry a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def parameters(notebook: "NotebookNode") -> dict[str, Any]:
    """Names and default values that the cell tagged `parameters` declares, one a line.

    A default that is not a plain literal is a ValueError.
    """
    from papermill import inspect_notebook

    found = {}
    for name, declared in inspect_notebook(notebook).items():
        try:
            found[name] = ast.literal_eval(declared["default"])
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"parameter {name} has no plain literal as its default") from error
    return found


def save(path: str | Path, notebook: "NotebookNode") -> Path:
    """Write a notebook, whole or not at all."""
    import nbformat

    return write(path, nbformat.writes(notebook) + "\n")
