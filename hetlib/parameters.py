"""What the parameters of notebooks can be: declared once, for command line, cells and the controls of explorers."""

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

from hetlib import clone
from hetlib.errors import one_of, within

PRESETS = ("smoke", "classroom", "reduced", "paper")


@lru_cache(maxsize=1)
def _declared() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def allowed(notebook: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a notebook's parameters can be, by name: the choices as a list, a range as ``{from, to}``, or "folder".

    Parameters
    ----------
    notebook : str
        Its name, as "01_hmt".
    values : mapping
        Its parameters: some can be other things where another parameter has a certain value.
    """
    found: dict[str, Any] = {}
    for title, section in _declared().items():
        name, *conditions = title.split()
        held = (condition.split("=") for condition in conditions)
        if name in ("every", notebook) and all(values.get(key) == value for key, value in held):
            found |= section
    return found


def check(notebook: str, values: Mapping[str, Any]) -> None:
    """Raise a ValueError that names parameter, value and choices unless all of a notebook's parameters can be so.

    `values` may hold other things, which are passed over.
    """
    for name, what in allowed(notebook, values).items():
        if name not in values:
            continue
        value = values[name]
        if isinstance(what, list):
            one_of(name, value, what)
        elif isinstance(what, dict):
            within(name, value, what["from"], what["to"], whole=isinstance(what["from"], int))
        elif value and not place(value).is_dir():
            raise ValueError(f"{name} must be a folder that exists, got {value!r}")


def place(folder: str | PathLike) -> Path:
    """Where a folder is that a parameter names: below the project's own, unless its path is absolute.

    A command line and the notebook that it runs have current folders of their own.
    """
    return clone.folder().parent / folder
