"""The house: who may stand in the root, what a room says of itself, records instead of keys."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import edge_inception

tomllib = pytest.importorskip("tomllib")  # of Python 3.11
PACKAGE = Path(edge_inception.__file__).parent
TESTS = Path(__file__).parents[1]
DOORS = {"__init__", "__main__", "pytest_plugin", "inference"}
WORDS = {"_version", "errors", "spec", "registry", "artifact", "stage", "records", "sidecar"}
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
# Readers and writers of formats: there a key is the format.
FORMATS = {
    "artifact.py",
    "records.py",
    "sidecar.py",
    "device/manifest.py",
    "device/records.py",
    "latency/record.py",
    "recipe/reader.py",
    "validate/report_record.py",
}
MOST_LOOKUPS, MOST_FLOORS = 150, 14


def lookups(text: str) -> int:
    """How often a text looks a value up by a key written out: ``x["key"]`` or ``x.get("key")``."""
    found = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Subscript):
            key = node.slice
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get" and node.args:
            key = node.args[0]
        else:
            continue
        found += isinstance(key, ast.Constant) and isinstance(key.value, str)
    return found


def test_the_count_counts():
    """Both spellings of a lookup are counted, in any place; a variable as the key is none."""
    assert lookups("x['a']['b'] = y.get('c', 1)\nz[key] + z.get(key) + z[0]") == 3


def test_records_not_dictionaries():
    """Inside the house nobody looks a key up by its name, but for the few of foreign formats."""
    found = {
        path.relative_to(PACKAGE).as_posix(): lookups(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    assert set(found) >= FORMATS
    counted = {name: number for name, number in found.items() if name not in FORMATS and number}
    total, by_number = sum(counted.values()), sorted(counted.items(), key=lambda row: -row[1])
    assert total <= MOST_LOOKUPS, f"{total} lookups, wanted {MOST_LOOKUPS} at most: {by_number}"


def mappings_of_details(text: str) -> list[int]:
    """Lines that declare ``details`` as a mapping of anything: a field, a variable, an argument."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AnnAssign):
            name = getattr(node.target, "id", getattr(node.target, "attr", ""))
        elif isinstance(node, ast.arg):
            name = node.arg
        else:
            continue
        kind = ast.unparse(node.annotation) if node.annotation else ""
        if name == "details" and kind.endswith("Mapping[str, Any]"):
            found.append(node.lineno)
    return found


def test_a_mapping_of_details_is_seen():
    """As a field and as an argument, whatever module the name comes from."""
    text = "details: Mapping[str, Any]\ndef f(details: c.Mapping[str, Any], x: int): pass\n"
    assert mappings_of_details(text) == [1, 2]


def test_details_are_a_record():
    """What one stage tells the next has names and types."""
    for path in PACKAGE.rglob("*.py"):
        lines = mappings_of_details(path.read_text(encoding="utf-8"))
        assert not lines, f"{path.relative_to(PACKAGE)}, lines {lines}"


def test_the_root_holds_doors_and_words_alone():
    """Every other module lives in a room."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == DOORS | WORDS


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for(room):
    """Its docstring has two or three sentences: the purpose, and what may enter."""
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert text
    assert len(re.findall(r"[.:](?:\s|$)", text)) >= 2


def test_unit_tests_mirror_the_rooms():
    """Each folder of unit tests is that of a room."""
    folders = {path.name for path in (TESTS / "unit").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= {room.name for room in ROOMS}


def test_stage_names_no_room():
    """What decides whether a stage is stale is declared by the room that owns the stage."""
    text = (PACKAGE / "stage.py").read_text(encoding="utf-8")
    names = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    rooms = {room.name for room in ROOMS}
    assert not [n for n in names if isinstance(n, str) and n.partition("/")[0] in rooms - {"data"}]


def test_floors():
    """import-linter's layers are one line for a floor, and hold every room."""
    text = (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")
    contract = tomllib.loads(text)["tool"]["importlinter"]["contracts"][0]
    assert contract["type"] == "layers"
    assert contract["exhaustive"]
    assert len(contract["layers"]) <= MOST_FLOORS
    named = {room.strip() for floor in contract["layers"] for room in re.split(r"[|:]", floor)}
    assert {room.name for room in ROOMS} <= named


def test_no_circle_is_left_to_types():
    """The check of circles sees imports that only type checkers run."""
    text = (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)["tool"]["importlinter"]
    assert not found.get("exclude_type_checking_imports")
    assert "acyclic_siblings" in {contract["type"] for contract in found["contracts"]}
