"""A page that is one file: text, and pictures in it. It needs no server, no network and no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

from score_sde.common.plots import curves_figure
from score_sde.evaluation.report.findings import Findings

_TEMPLATE = Path(__file__).with_name("page.html")
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_CURVE_WIDTH = 5.2


def render(
    title: str, findings: Findings, changed: Mapping[str, tuple[str, str]], configuration: Mapping[str, str]
) -> str:
    """Return the page.

    Args:
        title: the name of the run.
        findings: what there is to show.
        changed: value and default of each key of the configuration that differs from its default.
        configuration: the value of each key.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["embedded"] = embedded
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    curves = [(panel, _curve(panel, group)) for panel, group in findings.curves.items()]
    return template.render(title=title, found=findings, curves=curves, changed=changed, configuration=configuration)


def embedded(path: Path) -> str:
    """Return a picture's file as an address that holds all of it."""
    return _address(path.read_bytes(), path.suffix)


def _curve(panel: str, group: Mapping[str, Mapping[int, float]]) -> str:
    file = io.BytesIO()
    curves_figure({panel: group}, _CURVE_WIDTH).savefig(file, format="svg", metadata={"Date": None})
    return _address(file.getvalue(), ".svg")


def _address(content: bytes, suffix: str) -> str:
    return f"data:{_TYPES[suffix]};base64,{base64.b64encode(content).decode('ascii')}"
