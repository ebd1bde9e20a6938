"""Which code a result depends on."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

LAUNCHES = {"hetlib.kernels.fill_triton", "hetlib.kernels.sinkhorn_triton"}
NUMBERLESS = {"hetlib", "hetlib.errors", "hetlib.files", "hetlib.transfer.report", *LAUNCHES}
"""What names, keeps or shows things, and launches, which do on a GPU what their torch twins do elsewhere."""


def code_of(*names: str) -> tuple[ModuleType, ...]:
    """The modules of hetlib that some of them need, themselves included, in order of name.

    Parameters
    ----------
    *names : str
        As "tlv" or "kernels.resize".

    Returns
    -------
    tuple of modules
        All that their code imports from hetlib, directly or not, but for what no number depends on. A package stands
        for all of its modules.
    """
    found: dict[str, ModuleType] = {}
    waiting = [f"hetlib.{name}" for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name in NUMBERLESS:
            continue
        found[name] = import_module(name)
        waiting += _imported(found[name])
    return tuple(found[name] for name in sorted(found))


def _imported(module: ModuleType) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hetlib":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if _is_module(str(node.module), whole) else str(node.module))
    return names


def _is_module(package: str, name: str) -> bool:
    """Whether what is imported from somewhere is a module, and not something in one."""
    return hasattr(import_module(package), "__path__") and find_spec(name) is not None
