"""A page that is one file: text, and pictures in it. It needs no server, no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from score_sde.evaluation.report import charts
from score_sde.evaluation.report.findings import Findings

_TEMPLATE = Path(__file__).with_name("page.html")


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
    drawn = [chart for panel, group in findings.curves.items() if (chart := charts.chart(panel, group)) is not None]
    sizes = {name: getattr(charts, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "TOP", "BOTTOM")}
    return template.render(
        **sizes, title=title, found=findings, charts=drawn, changed=changed, configuration=configuration
    )


def embedded(path: Path) -> str:
    """Return a PNG file as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
