"""What stands in an executed notebook: its outputs, its errors, its picture."""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from nbformat import NotebookNode

from hetlib.lab.notebooks import tagged


def faults(notebook: NotebookNode) -> list[str]:
    """Errors in outputs and in the state of widgets: for each, where it was found and its traceback without colours."""
    places = [(f"cell {index}", output) for index, output in outputs(notebook)]
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    for model in widgets.get("state", {}).values():
        places += [("a widget", output) for output in model["state"].get("outputs", ())]
    return [f"{place}: {text}" for place, output in places if (text := _traceback(output))]


def outputs(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Every output, with the index of its cell."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            yield index, output


def _traceback(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "error":
        text = "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
    elif output["output_type"] == "stream" and "Traceback (most recent call last)" in output["text"]:
        text = output["text"]
    else:
        return ""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def picture(notebook: NotebookNode) -> bytes | None:
    """The PNG of the cell tagged `picture`, which stands for the notebook in README; None without one."""
    found = [output.get("data", {}).get("image/png") for cell in tagged(notebook, "picture") for output in cell.outputs]
    return next((b64decode(image) for image in found if image), None)
