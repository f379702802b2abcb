"""The project's own code, read and not run."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests.reading import ROOT

# The rooms by floors, from the ground up; a room imports from the floors below its own.
FLOORS = (
    ("common",),
    ("sde", "data"),
    ("models", "solvers"),
    ("control", "evaluation", "training"),
    ("experiment",),
    ("modes",),
    ("score_sde",),
)
ROOMS = tuple(room for floor in FLOORS for room in floor)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def files(*folders: str) -> list[Path]:
    """Return the Python files of these folders, of all rooms and configurations if none are named."""
    return sorted(path for folder in folders or (*ROOMS, "configs") for path in (ROOT / folder).rglob("*.py"))


def place(path: Path, node: ast.AST) -> str:
    """Return where a node is, as `room/file.py:line`."""
    return f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 1)}"


def module_name(path: Path) -> str:
    """Return the name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "score_sde" else ("score_sde", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
