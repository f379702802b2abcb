"""What a result was made with: kept in it, so that none made with other settings is replaced in silence.

In JSON files and `.npz` archives it is the entry `settings`: values by name, such as `sampling.num_steps`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.common import distributed
from score_sde.common.files import open_npz

_NUM_NAMED = 6


@contextmanager
def replacing(path: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Note on stderr, if the block replaces a result at `path` that was made with other settings, what they were."""
    there, before = path.exists(), read_settings(path)
    yield
    now = _as_read(settings)
    if there and before != now:
        distributed.note(f"{path} replaced ({_differences(before, now)})")


def remove_stale(path: Path, settings: Mapping[str, Any]) -> None:
    """Remove a result at `path` that belongs to one that was made anew with other settings, and note it on stderr."""
    before, now = read_settings(path), _as_read(settings)
    if path.exists() and before != now:
        path.unlink()
        distributed.note(f"{path} removed, since what it belonged to is replaced")


def as_text(settings: Mapping[str, Any]) -> np.ndarray:
    """Return settings as an entry of an `.npz` archive."""
    return np.array(json.dumps(dict(settings)))


def read_settings(path: Path) -> dict[str, Any] | None:
    """Read the settings of a result; return None if it says nothing, or is not there."""
    try:
        if path.suffix == ".npz":
            with open_npz(path) as file:
                found = json.loads(file["settings"].item())
        else:
            found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return found if isinstance(found, dict) else None


def _as_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are read from a file."""
    found = json.loads(json.dumps(dict(settings)))
    assert isinstance(found, dict)
    return found


def _differences(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    if before is None:
        return "it did not say what it was made with"
    # Weights are named by their checkpoint, unless it has the same name.
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    if {"checkpoint", "weights"} <= set(names):
        names.remove("weights")
    told = [f"{name}={_shown(before.get(name))}, now {_shown(now.get(name))}" for name in names[:_NUM_NAMED]]
    rest = len(names) - len(told)
    return f"it had {'; '.join(told)}" + (f"; and {rest} more" if rest else "")


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
