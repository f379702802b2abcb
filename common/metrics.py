"""The numbers of a training run by step: the table `metrics.csv`, and which of them are drawn together."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

LEARNING_RATE = "learning rate"
# Curves whose names begin alike are drawn together.
_PANELS = {
    "loss_at_log_snr": "loss by log-SNR",
    "loss": "loss",
    "held_out_loss": "loss",
    "test_bits": "bits/dim",
    "frechet": "distances to data",
    "sliced": "distances to data",
    "learning_rate": LEARNING_RATE,
}


def read_rows(path: Path) -> dict[int, dict[str, str]]:
    """Read the rows of a table by step: no rows if there is no table, or none that can be read."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {
                int(row["step"]): {name: value for name, value in row.items() if name != "step" and value}
                for row in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, csv.Error):
        return {}


def by_panel(rows: Mapping[int, Mapping[str, str]]) -> dict[str, dict[str, dict[int, float]]]:
    """Return the curves of a table, each by step, by name and by the panel that it is drawn in."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for step, values in sorted(rows.items()):
        for name, value in values.items():
            panel = next((title for start, title in _PANELS.items() if name.startswith(start)), None)
            if panel is not None:
                curves.setdefault(panel, {}).setdefault(name, {})[step] = float(value)
    return curves
