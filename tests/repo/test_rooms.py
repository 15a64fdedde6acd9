"""The house: rooms import from their left only, nothing goes in a circle, no file is too long."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE, STUDIES = ROOT / "code", ROOT / "studies"
# From left to right; rooms of one column do not know each other.
COLUMNS = (
    ("core", "system"),
    ("data",),
    ("models", "datasets", "preparation"),
    ("methods",),
    ("run",),
    ("results", "benchmarks"),
    ("commands",),
    ("studies",),
)
COLUMN = {room: column for column, rooms in enumerate(COLUMNS) for room in rooms}
FILES = sorted([*CODE.rglob("*.py"), *STUDIES.rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_of(path: Path) -> str:
    """Return the dotted name that a file is imported by."""
    parts = path.relative_to(CODE if path.is_relative_to(CODE) else STUDIES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    if MODULES[module].is_relative_to(STUDIES):
        return "studies"
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "package" if module == "mmpareto" else "commands"


def imports_of(module: str) -> set[str]:
    """Return the project's modules that a module imports, also in functions and for checkers."""
    path, found = MODULES[module], set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                found.add(inner if inner in MODULES else origin)
    return found & MODULES.keys()


GRAPH = {module: imports_of(module) - {module} for module in MODULES}


def test_the_package_holds_rooms_only():
    assert {path.name for path in (CODE / "mmpareto").glob("*.py")} == {"__init__.py"}
    assert {room_of(module) for module in MODULES} - {"package"} == COLUMN.keys()


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) != "package"])
def test_imports_go_to_the_left(module):
    own = room_of(module)
    rooms = {room_of(other) for other in GRAPH[module]} - {own, "package"}
    assert {room for room in rooms if COLUMN[room] >= COLUMN[own]} == set()


def test_no_circle():
    # A package's own __init__ stands for the names of its files, which it does not need itself.
    order = list(TopologicalSorter(GRAPH).static_order())  # CycleError names the circle
    assert set(order) == MODULES.keys()


def test_a_file_is_read_in_one_sitting():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*FILES, *TESTS]}
    assert {str(path.relative_to(ROOT)): n for path, n in sizes.items() if n > 350} == {}
