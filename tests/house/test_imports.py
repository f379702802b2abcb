"""How the house is built, read off its imports: rooms on floors, one import name, one place for each thing."""

from __future__ import annotations

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import score_sde
from score_sde.experiment import configuration, rules
from tests.house.sources import FLOOR_OF, FLOORS, ROOMS, files, imports, module_name, place, room_of, tree
from tests.reading import ROOT


def arrows() -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first imports from the second."""
    found = set()
    for path in files():
        own = own_room(path)
        rooms = [room_of(each.module) for each in imports(path)]
        found |= {(own, room) for room in rooms if room and room != own}
    return found


def own_room(path: Path) -> str:
    """Return the room in which a file lies."""
    return path.relative_to(ROOT).parts[0]


def the_house() -> str:
    """Return how large the house is."""
    return f"{len(ROOMS)} rooms on {len(FLOORS)} floors, {len(arrows())} arrows"


def test_rooms_import_from_the_floors_below_alone():
    wrong = []
    for path in files():
        own = own_room(path)
        for module, line in imports(path):
            room = room_of(module)
            if room and room != own and FLOOR_OF[room] >= FLOOR_OF[own]:
                wrong.append(f"{place(path, line)}: {own} imports {module}")
    assert not wrong, f"{the_house()}; {wrong}"
    assert len(arrows()) <= 50, the_house()


def test_all_rooms_are_known():
    others = {"tests", "benchmarks", "docs", "build", "runs", "datasets"}
    folders = {path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert {path.name for path in folders if any(path.rglob("*.py"))} - others == set(ROOMS)


def test_no_module_imports_itself_by_others():
    graph = {module_name(path): {module for module, _ in imports(path) if room_of(module)} for path in files()}
    for module, imported in graph.items():
        imported.discard(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"{the_house()}; a circle: {' -> '.join(error.args[1])}")


def test_the_project_has_one_import_name():
    """It is `from score_sde.sde import …`: by another name, a module would be there twice, and its classes with it."""
    wrong = []
    for path in (*files(), *files("tests", "benchmarks"), ROOT / "main.py"):
        for module, line in imports(path):
            if module.startswith(".") or module.split(".")[0] in set(ROOMS) - {"score_sde"}:
                wrong.append(f"{place(path, line)} imports {module}")
    assert not wrong


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room / "__init__.py").exists()])
def test_faces_are_the_same_by_both_names(room):
    """In a checkout `from sde import VPSDE` is the class of `from score_sde.sde import VPSDE`."""
    if room == "score_sde":
        for name in score_sde.__all__:
            origin = importlib.import_module(f"score_sde.{score_sde._ROOM_OF[name]}")
            assert getattr(score_sde, name) is getattr(origin, name)
        return
    bare, whole = importlib.import_module(room), importlib.import_module(f"score_sde.{room}")
    assert bare.__file__ == whole.__file__
    for name in getattr(whole, "__all__", ()):
        assert getattr(bare, name) is getattr(whole, name)


def test_every_room_of_a_wheel_is_listed():
    """The lists of pyproject.toml are the folders that hold modules."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in files():
        package = module_name(path.parent / "__init__.py")
        assert f'"{package}"' in text, f"pyproject.toml lists no package {package}"


def test_no_function_outside_models_has_a_parameter_of_classes():
    wrong = []
    for path in files(*(room for room in ROOMS if room != "models")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                wrong += [place(path, node.lineno)] if "classes" in names else []
    assert not wrong, f"{len(wrong)} functions: {wrong}"


def test_one_module_knows_model_units_and_how_levels_are_dequantised():
    """Bins have a width, and points of data a place in model units, in one module; `load_dataset` asks for either."""
    words = {"bin_width", "uniform_dequantisation"}
    where = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        if path.relative_to(ROOT).parts[0] not in ("configs", "experiment")
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr in words) or (isinstance(node, ast.arg) and node.arg in words)
    }
    assert where <= {"data/units.py", "data/registry.py"}, f"{len(where)} modules: {sorted(where)}"


def test_one_place_knows_what_each_key_may_be():
    """Its type is that of its value in `configs/default.py`; ranges, and words, are in `experiment/rules.py` alone."""
    defaults = configuration.load_file("default")
    keys = {key for key, _ in configuration.flatten(defaults)}
    assert set(rules.RULES) <= keys
    free = {key for key in keys - set(rules.RULES) if "." in key}
    assert {defaults[section].get_type(name) for section, name in (key.split(".") for key in free)} <= {bool, str}


def test_rooms_below_experiment_name_no_keys_of_the_configuration():
    keys = [key for key, _ in configuration.flatten(configuration.load_file("default")) if "." in key]
    wrong = []
    for path in files(*(room for room in ROOMS if FLOOR_OF[room] < FLOOR_OF["experiment"] and room != "configs")):
        documentation = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                wrong += [f"{place(path, node.lineno)}: {key}" for key in keys if key in node.value][:1]
    assert not wrong, f"{len(wrong)} messages: {wrong}"
