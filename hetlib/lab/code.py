"""Which code a result depends on."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

LAUNCHES = {"hetlib.kernels.fill_triton", "hetlib.kernels.sinkhorn_triton"}
NUMBERLESS = {"hetlib", "hetlib.errors", "hetlib.files", "hetlib.lab", "hetlib.transfer.report", *LAUNCHES}
"""What names, keeps or shows things, and launches, which do on a GPU what their torch twins do elsewhere."""


@lru_cache(maxsize=64)
def code_of(*names: str) -> tuple[ModuleType, ...]:
    """Some modules by full name, and all of hetlib that they import, in order of name.

    What no number depends on is left out, and modules without a source; a package stands for all of its modules.
    """
    found: dict[str, ModuleType] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name in NUMBERLESS or name.startswith("hetlib.lab."):
            continue
        module = import_module(name)
        if (getattr(module, "__file__", None) or "").endswith(".py"):
            found[name] = module
            waiting += imported(Path(str(module.__file__)).read_text(encoding="utf-8"))
    return tuple(found[name] for name in sorted(found))


def imported(source: str) -> list[str]:
    """Full names of the modules of hetlib that a source imports from."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "hetlib"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hetlib":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if _is_module(str(node.module), whole) else str(node.module))
    return names


def _is_module(package: str, name: str) -> bool:
    """Whether what is imported from somewhere is a module, and not something in one."""
    return hasattr(import_module(package), "__path__") and find_spec(name) is not None


def sources(part: Any) -> Iterator[str]:
    """The code of a module, class, function or text, or of a package's modules, without comments and docstrings."""
    try:
        if isinstance(part, str):
            yield _bare(part)
        elif isinstance(part, ModuleType):
            file = Path(part.__file__ or "")
            for module in sorted(file.parent.rglob("*.py")) if hasattr(part, "__path__") else [file]:
                yield _bare(module.read_text(encoding="utf-8"))
        else:
            yield _bare(textwrap.dedent(inspect.getsource(part)))
    except (AttributeError, OSError, SyntaxError, TypeError, UnicodeError) as error:
        raise TypeError(f"the source of {part!r} cannot be read: pass its module, or a plain function") from error


@lru_cache(maxsize=256)
def _bare(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)
