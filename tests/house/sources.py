"""The project's own code, read and not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.reading import ROOT

# The rooms by floors, from the ground up; a room imports from the floors below its own.
FLOORS = (
    ("common", "configs"),
    ("sde", "data"),
    ("models", "solvers"),
    ("control", "evaluation", "training"),
    ("experiment",),
    ("modes",),
    ("score_sde",),
)
ROOMS = tuple(room for floor in FLOORS for room in floor)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


class Import(NamedTuple):
    """One module that another imports, anywhere in its file, and the line."""

    module: str
    line: int


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """Return the Python files of these folders; of all rooms if none are named."""
    return tuple(sorted(path for folder in folders or ROOMS for path in (ROOT / folder).rglob("*.py")))


def place(path: Path, line: int) -> str:
    """Return where something is, as `room/file.py:line`."""
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


def module_name(path: Path) -> str:
    """Return the name by which a file of a room is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "score_sde" else ("score_sde", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> frozenset[str]:
    """Return the names of all modules of all rooms."""
    return frozenset(map(module_name, files()))


@cache
def imports(path: Path) -> list[Import]:
    """Return what a file imports, but for what only type checkers read.

    `from a import b` imports `a.b` where that is a module, or else `a`.
    """
    found = []
    for node in _run(tree(path)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{alias.name}" for alias in node.names]
            found += [Import(name if name in modules() else base, node.lineno) for name in names]
    return found


def room_of(module: str) -> str | None:
    """Return the room of a module such as `score_sde.sde.vp`; None if it is not one of ours."""
    parts = module.split(".")
    if parts[0] != "score_sde":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "score_sde"


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, but for what stands under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _run(child)
