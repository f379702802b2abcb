"""mypy knows the types of the project, by every name: `make types` lays the links by which it finds them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.house.sources import ROOMS
from tests.reading import ROOT


@pytest.mark.slow
def test_wrong_types_are_found(tmp_path):
    """Those of `typed.py`, all of them."""
    links = tmp_path / "types" / "score_sde"
    links.mkdir(parents=True)
    for room in set(ROOMS) - {"score_sde"}:
        (links / room).symlink_to(ROOT / room)
    text = (ROOT / "tests" / "house" / "typed.py").read_text(encoding="utf-8")
    (tmp_path / "wrong.py").write_text(re.sub(" *# type: ignore.*", "", text), encoding="utf-8")
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace('".types"', f'"{links.parent}", "{ROOT}"')
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "wrong.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600).stdout
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "type: ignore[arg-type]" in line]
    assert re.findall(r"wrong\.py:(\d+): error: .*\[arg-type\]", found) == [str(line) for line in lines], found
