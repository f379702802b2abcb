"""The page of a run, `report.html` in its folder: all that there is to see, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from score_sde.common import distributed
from score_sde.common.errors import Stopped
from score_sde.common.files import write_atomically
from score_sde.evaluation.report.findings import find
from score_sde.evaluation.report.page import render
from score_sde.experiment import configuration


def write_report(folder: Path) -> Path:
    """Write `report.html` from what there is in a run's folder; return its path.

    Raises:
        UserError: the configuration cannot be read, or the file cannot be written.
    """
    remembered, path = folder / "config.json", folder / "report.html"
    config = dict(configuration.flatten(configuration.load_json(remembered))) if remembered.exists() else {}
    defaults = dict(configuration.flatten(configuration.load_file("configs/default.py")))
    values = {key: _shown(value) for key, value in config.items()}
    changed = {key: (values[key], _shown(defaults[key])) for key, value in config.items() if value != defaults[key]}
    page = render(folder.resolve().name, find(folder), changed, values)
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def report(folder: Path) -> Path | None:
    """Write the page of a run, on the first process, after what it shows; a page that fails costs a note, no result."""
    if distributed.rank() > 0:
        return None
    try:
        return write_report(folder)
    except Stopped:
        raise
    except Exception as error:  # whatever is wrong with the page, the results are there
        distributed.note(f"{folder / 'report.html'} is not written: {type(error).__name__}: {error}")
        return None


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
