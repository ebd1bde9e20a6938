"""The house's floors: no import runs upward or in a circle, strangers do not meet, and faces only hand names on."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hetlib

PACKAGE = Path(hetlib.__file__).parent
FLOORS = (
    {"errors", "checks", "files", "clone", "parameters", "chain"},
    {"kernels", "zoo", "data", "match", "merging"},
    {"transfer", "training"},
    {"hmt", "clafusion", "grafting", "amalgamation", "tlv", "baselines"},
    {"lab"},
    {"experiments", "cli", "__main__"},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
STRANGERS = FLOORS[1] | FLOORS[3]
"""Rooms that know no other room of their floor."""
PAGES = {"clafusion", "grafting", "tlv", "zoo"}
"""Packages whose page defines something: the papers' own, and the zoo's `build`."""


def imported(source: str) -> set[str]:
    """Full names of what a module imports from hetlib, wherever in it: `from a.b import c` gives "a.b.c"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole module, so that this test can read them"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "hetlib" and "__" not in name}


def module_of(path: Path) -> str:
    """Full name of the module in a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def edges() -> dict[str, set[str]]:
    """For every module those that it imports; a name that is no module counts as the face that hands it on."""

    def module(name: str) -> str:
        return name if name in MODULES else name.rpartition(".")[0]

    return {
        name: {module(other) for other in imported(path.read_text())} - {name, "hetlib"}
        for name, path in MODULES.items()
    }


def rooms() -> set[tuple[str, str]]:
    """Pairs of rooms, the first of which imports the second."""
    pairs = {
        (name.split(".")[1], other.split(".")[1]) for name, found in edges().items() for other in found if "." in name
    }
    return {(room, other) for room, other in pairs if room != other}


def test_every_room_has_a_floor():
    assert {name.split(".")[1] for name in MODULES if "." in name} <= set(FLOOR), (
        "say in FLOORS where the module stands"
    )


def test_no_import_runs_upward():
    assert [(room, other) for room, other in rooms() if FLOOR[other] > FLOOR[room]] == []


def test_strangers_stay_strangers():
    met = [(room, other) for room, other in rooms() if FLOOR[room] == FLOOR[other] and {room, other} <= STRANGERS]
    assert met == []


def test_no_module_imports_itself_by_way_of_others():
    try:
        TopologicalSorter(edges()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", sorted(name for name in MODULES if MODULES[name].name == "__init__.py"))
def test_faces_only_hand_names_on(room):
    if room.split(".")[-1] in PAGES:
        return
    allowed = ast.Expr | ast.Import | ast.ImportFrom | ast.Assign
    body = ast.parse(MODULES[room].read_text()).body
    assert all(isinstance(node, allowed) for node in body)
    assigned = {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}
    assert assigned <= {"__all__", "__version__"}


def test_an_upward_import_would_be_seen():
    assert imported("def f():\n    from hetlib import lab") == {"hetlib.lab"}
    assert imported("from hetlib.lab import cache\nimport hetlib.zoo") == {"hetlib.lab.cache", "hetlib.zoo"}
