"""A comparison written down: results.csv, table.md, pareto.png, and a recommendation in one sentence."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from score_sde.common.files import write_atomically
from score_sde.evaluation.comparison.compare import MEASURES, Comparison, Estimate, Row
from score_sde.evaluation.comparison.pareto import save_pareto
from score_sde.evaluation.comparison.recommendation import recommend
from score_sde.evaluation.provenance import replacing
from score_sde.evaluation.samples.distances import NUM_FOLDS, NUM_PROJECTIONS
from score_sde.evaluation.samples.features import NUM_FEATURES

TITLES = {
    "endpoint_error": "endpoint error",
    "frechet": "Fréchet",
    "sliced_wasserstein": "sliced Wasserstein",
    "c2st": "classifier test",
}


def write_report(
    comparison: Comparison, folder: Path, title: str, settings: Mapping[str, Any] = MappingProxyType({})
) -> list[Path]:
    """Write a table, its numbers, a picture and the settings into `folder`; return the paths of the first three.

    Args:
        comparison: what was measured.
        folder: where the files go; made if missing.
        title: what was sampled, such as `digits`.
        settings: what the comparison was made with.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / name for name in ("results.csv", "table.md", "pareto.png")]
    remembered = folder / "settings.json"
    with replacing(remembered, settings), write_atomically(remembered) as temporary:
        temporary.write_text(json.dumps({"settings": dict(settings)}, indent=2) + "\n", encoding="utf-8")
    _write_csv(comparison, paths[0])
    with write_atomically(paths[1]) as temporary:
        temporary.write_text(markdown(comparison, title), encoding="utf-8")
    save_pareto(comparison, paths[2], title)
    return paths


def _write_csv(comparison: Comparison, path: Path) -> None:
    """Write one row a run; a last one, `data`, is for the floor. Cells are empty where nothing was measured."""
    measured = ["seconds", *MEASURES]
    columns = ["solver", "options", "budget", "nfe", "deterministic"]
    columns += [f"{name}{suffix}" for name in measured for suffix in ("", "_standard_error")]
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in comparison.rows:
            options = ";".join(f"{name}={value}" for name, value in row.run.options.items())
            start = [row.run.name, options, row.run.budget or "", f"{row.nfe:g}", str(row.deterministic).lower()]
            writer.writerow(start + _cells({"seconds": row.seconds, **row.measures}, measured))
        if comparison.floor:
            writer.writerow(["data", "", "", "", "", *_cells(comparison.floor, measured)])


def _cells(estimates: dict[str, Estimate], names: list[str]) -> list[str]:
    cells = []
    for name in names:
        pair = estimates.get(name, Estimate(math.nan, math.nan))
        cells += ["" if math.isnan(value) else repr(value) for value in pair]
    return cells


def markdown(comparison: Comparison, title: str) -> str:
    """Return the table, one group of rows a budget, the best of each in bold, with recommendation and method."""
    columns = [name for name in MEASURES if any(name in row.measures for row in comparison.rows)]
    lines = [f"# Solvers on {title}", "", recommend(comparison)[1], ""]
    lines += ["| budget | solver | NFE | ms / sample | " + " | ".join(TITLES[name] for name in columns) + " |"]
    lines += ["|---" * 2 + "|---:" * (2 + len(columns)) + "|"]
    for budget, group in groupby(sorted(comparison.rows, key=_budget), key=_budget):
        rows = list(group)
        best = {name: min((r.measures[name].mean for r in rows if name in r.measures), default=0) for name in columns}
        for row in rows:
            setting = f" ({row.run.setting})" if row.run.setting else ""
            cells = ["–" if math.isinf(budget) else f"{budget:g}", f"`{row.run.label}`{setting}", f"{row.nfe:.4g}"]
            cells.append(f"{1000 * row.seconds.mean:.3g}")
            for name in columns:
                shown = number(row.measures[name]) if name in row.measures else "–"
                bold = name in row.measures and len(rows) > 1 and row.measures[name].mean == best[name]
                cells.append(f"**{shown}**" if bold else shown)
            lines.append("| " + " | ".join(cells) + " |")
    if comparison.floor:
        floor = [number(comparison.floor[name]) if name in comparison.floor else "–" for name in columns]
        lines.append("| | *other real data* | | | " + " | ".join(floor) + " |")
    return "\n".join([*lines, "", *_method(comparison)]) + "\n"


def number(estimate: Estimate) -> str:
    """Return `mean ± standard error`, to two digits of the error; three digits of the mean if there is no error."""
    mean, error = estimate
    if not math.isfinite(mean):
        return "not finite"
    if not error > 0:
        return f"{mean:.3g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 5:
        exponent = math.floor(math.log10(max(abs(mean), error)))
        digits, unit = decimals + exponent, 10.0**exponent
        return f"({mean / unit:.{digits}f} ± {error / unit:.{digits}f})e{exponent}"
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def _budget(row: Row) -> float:
    return math.inf if row.run.budget is None else row.run.budget


def _method(comparison: Comparison) -> list[str]:
    numbers = ", ".join(map(str, comparison.repetitions))
    count = comparison.num_samples
    several = len(comparison.repetitions) > 1
    lines = [
        f"- Noise: repetitions {numbers}; sample `i` of repetition `r` has the seed `{count} r + i`, for every solver "
        f"the same latent. {count} samples a repetition in batches of {comparison.batch_size}, on {comparison.device}.",
        "- ± is one standard error over the repetitions: over noise alone, for this model and these held-out data."
        if several
        else "- One repetition: no standard errors.",
        "- NFE: network calls a sample, counted. Milliseconds: after a warm-up.",
    ]
    if comparison.num_trajectories:
        lines.append(
            "- Endpoint error, of deterministic solvers: Euclidean distance in model units from a sample to the end of "
            f"the probability flow ODE from the same latent (rtol = atol = {comparison.tolerance:g}; at `t_min`, "
            f"denoised); the median over {comparison.num_trajectories} samples."
        )
    if comparison.straightness is not None:
        lines.append(
            f"- Straightness of the trajectories: {number(comparison.straightness)}, where 0 is straight lines, which "
            "one Euler step follows (`evaluation/samples/straightness.py`)."
        )
    if comparison.floor:
        lines += [
            f"- Distances are to {comparison.num_held_out} held-out examples. On finite sets they are biased upwards: "
            "compare them with *other real data*, training examples, as many as samples if there are so many.",
            f"- Fréchet distance (squared): in {NUM_FEATURES} fixed random features, of convolutions; for "
            "vectors of cosines, besides the coordinates (`evaluation/samples/features.py`).",
            f"- Sliced Wasserstein: order 2, {NUM_PROJECTIONS} fixed directions, in model units.",
            f"- Classifier test: accuracy of logistic regression on the same features, {NUM_FOLDS}-fold "
            "cross-validated; at 0.5 it cannot tell samples from data.",
        ]
    return lines
