"""No import runs upward, and rooms on the same floor that must not know each other do not."""

import ast
from pathlib import Path

import hetlib

PACKAGE = Path(hetlib.__file__).parent
FLOORS = (
    {"errors", "files"},
    {"kernels", "zoo", "data", "parts", "published", "shapes"},
    {
        "activations",
        "axes",
        "balance",
        "crosslayer",
        "distill",
        "fusion",
        "interpolate",
        "layercosts",
        "merging",
        "otfusion",
        "plans",
        "rebasin",
        "repair",
        "stacking",
        "units",
        "graph",
        "flow",
        "chain",
        "align",
        "match",
        "standardise",
        "place",
        "recipe",
        "training",
        "report",
        "crossover",
    },
    {"hmt", "clafusion", "grafting", "amalgamation", "tlv", "peers"},
    {"lab"},
    {"cli", "__main__"},
)
STRANGERS = (
    {"kernels"},
    {"zoo"},
    {"data", "parts", "published", "shapes"},
    {"hmt"},
    {"clafusion"},
    {"grafting"},
    {"amalgamation"},
    {"tlv"},
    {"peers"},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imported(source: str, package: str) -> set[str]:
    """Full names of what a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level + 1 or None] if node.level else []
            base += node.module.split(".") if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def edges() -> set[tuple[str, str]]:
    """Pairs of rooms, the first of which imports the second."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).with_suffix("")
        package = ".".join(["hetlib", *inside.parts[:-1]])
        for name in imported(path.read_text(), package):
            if name.startswith("hetlib.") and not name.startswith("hetlib.__"):
                found.add((inside.parts[0], name.split(".")[1]))
    return {(room, other) for room, other in found if room != other and room != "__init__"}


def test_every_room_has_a_floor():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__"} <= set(FLOOR), "say in FLOORS where the new module stands"


def test_no_import_runs_upward():
    assert [(room, other) for room, other in edges() if FLOOR[other] > FLOOR[room]] == []


def test_strangers_stay_strangers():
    home = {room: index for index, rooms in enumerate(STRANGERS) for room in rooms}
    met = [
        (room, other)
        for room, other in edges()
        if room in home and other in home and FLOOR[room] == FLOOR[other] and home[room] != home[other]
    ]
    assert met == []


def test_an_upward_import_would_be_seen():
    assert imported("def f():\n    from hetlib import lab", "hetlib") == {"hetlib.lab"}
    assert imported("from . import hmt\nfrom .lab import cache", "hetlib") == {"hetlib.hmt", "hetlib.lab.cache"}
    assert imported("from ..zoo import build", "hetlib.kernels") == {"hetlib.zoo.build"}
