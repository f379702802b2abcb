"""Which solver to use: one sentence, from the numbers of a comparison."""

from __future__ import annotations

import math
from collections import Counter

from score_sde.common.errors import UserError
from score_sde.evaluation.comparison.compare import Comparison, Estimate, Row
from score_sde.evaluation.samples.distances import DATA_DISTANCES


def recommend(comparison: Comparison) -> tuple[Row, str]:
    """Return the recommended row, and a sentence that says why.

    With data: of the rows that no row beats by more than two standard errors in any distance to the data, the one with
    the fewest network calls; if every row is so beaten, the one with the smallest Fréchet distance. Without
    data: the solver that is nearest to the exact endpoints at most budgets, at the largest of these.

    A solver may come nearer to the data than the exact trajectories do, where its errors happen to undo the model's. So
    the sentence also says who follows the model best.

    Raises:
        UserError: no solver gave finite samples, or neither distances to data nor endpoint errors were measured.
    """
    rows = [row for row in comparison.rows if all(math.isfinite(e.mean) for e in row.measures.values())]
    if not rows:
        raise UserError("no solver gave finite samples at any budget: allow more network calls, or train for longer")
    winners = _winners(rows)
    if any("frechet" in row.measures for row in rows):
        row, reason = _nearest_to_data(rows)
        distances = f"Fréchet distance {row.measures['frechet'].mean:.2g}"
        if comparison.floor:
            distances += f", of other real data {comparison.floor['frechet'].mean:.2g}"
        return (
            row,
            f"Use `{row.run.label}` with {row.nfe:.4g} network calls: {reason} ({distances}){_followers(winners)}.",
        )
    if not winners:
        raise UserError("nothing to recommend by: compare with data, or solvers that are deterministic")
    label, wins = Counter(row.run.label for row in winners.values()).most_common(1)[0]
    row = [row for row in winners.values() if row.run.label == label][-1]
    return row, (
        f"Use `{label}`: of the solvers compared it is nearest to the exact endpoint at {wins} of {len(winners)} "
        f"budgets, and {row.measures['endpoint_error'].mean:.2g} away with {row.nfe:.4g} network calls."
    )


def _nearest_to_data(rows: list[Row]) -> tuple[Row, str]:
    best = {name: min((row.measures[name] for row in rows), key=lambda e: e.mean) for name in DATA_DISTANCES}
    unbeaten = [row for row in rows if not any(_beats(best[name], row.measures[name], name) for name in best)]
    if not unbeaten:
        row = min(rows, key=lambda row: row.measures["frechet"].mean)
        return row, "the nearest to the held-out data by Fréchet distance, though not by all three distances"
    return min(unbeaten, key=lambda row: (row.nfe, row.measures["frechet"].mean)), (
        "no solver compared is nearer to the held-out data by more than two standard errors in any of the three "
        "distances, and none as near is cheaper"
    )


def _beats(best: Estimate, other: Estimate, name: str) -> bool:
    """Say whether the difference exceeds two standard errors. An accuracy below 1/2 counts as 1/2."""
    floor = 0.5 if name == "c2st" else 0.0
    error = math.hypot(*(0.0 if math.isnan(e.standard_error) else e.standard_error for e in (best, other)))
    return max(other.mean, floor) - max(best.mean, floor) > 2 * error


def _winners(rows: list[Row]) -> dict[int, Row]:
    """Return, for each budget, rising, the row with the smallest endpoint error."""
    winners: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row.run.budget or 0):
        budget = row.run.budget
        if budget is None or "endpoint_error" not in row.measures:
            continue
        known = winners.get(budget)
        if known is None or row.measures["endpoint_error"].mean < known.measures["endpoint_error"].mean:
            winners[budget] = row
    return winners


def _followers(winners: dict[int, Row]) -> str:
    """Say which solver is nearest to the exact endpoints, budget by budget."""
    budgets: dict[str, list[int]] = {}
    for budget, row in winners.items():
        budgets.setdefault(row.run.label, []).append(budget)
    parts = [f"`{label}` at {', '.join(map(str, at))}" for label, at in budgets.items()]
    return "; the model's own trajectories are followed best by " + " and ".join(parts) if parts else ""
