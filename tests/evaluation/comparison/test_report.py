"""Files are read back; the recommended row is the best by the stated rule; fronts and labels are where they belong."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from score_sde.common.errors import UserError
from score_sde.evaluation.comparison.compare import Comparison, Estimate, Row
from score_sde.evaluation.comparison.contenders import Run
from score_sde.evaluation.comparison.pareto import pareto_front, spread
from score_sde.evaluation.comparison.recommendation import recommend
from score_sde.evaluation.comparison.report import markdown, number, write_report
from tests.reading import image


def row(name: str, budget: int | None, nfe: float, error: float | None = None, frechet: float | None = None) -> Row:
    measures = {} if error is None else {"endpoint_error": Estimate(error, error / 10)}
    if frechet is not None:
        measures["frechet"] = Estimate(frechet, 0.1)
        measures["sliced_wasserstein"] = Estimate(frechet / 10, 0.01)
        measures["c2st"] = Estimate(0.5 + frechet / 20, 0.01)
    run = Run(name, name, {"num_steps": budget} if budget else {"rtol": 0.01}, budget)
    return Row(run, nfe, error is not None, Estimate(1e-3 * nfe, 1e-5), measures)


def comparison(rows: list[Row], floor: float | None = None) -> Comparison:
    measures = {} if floor is None else row("", 1, 1, None, floor).measures
    return Comparison(rows, measures, [0, 1, 2], 500, 256, 360, 128, 1e-6, "CPU, 1 thread")


ROWS = [
    row("ddim", 5, 5, 0.5, 4.0),
    row("ddim", 10, 10, 0.2, 2.0),
    row("ddim", 20, 20, 0.1, 1.5),
    row("unipc", 5, 5, 0.6, 3.0),
    row("unipc", 10, 10, 0.1, 1.1),
    row("unipc", 20, 20, 0.01, 0.95),
    row("pc", 20, 19, None, 5.0),
    row("ode", None, 61.5, 0.001, 0.9),
]


def test_recommended_is_the_cheapest_that_nothing_beats() -> None:
    best, sentence = recommend(comparison(ROWS, floor=0.8))
    assert best is ROWS[4]
    assert sentence.startswith("Use `unipc` with 10 network calls: no solver compared is nearer")
    assert "(Fréchet distance 1.1, of other real data 0.8)" in sentence
    assert sentence.endswith("followed best by `ddim` at 5 and `unipc` at 10, 20.")
    assert sentence.count(". ") == 0


def test_recommended_is_the_strict_best_without_error_bars() -> None:
    certain = [
        Row(r.run, r.nfe, r.deterministic, r.seconds, {k: Estimate(v.mean, math.nan) for k, v in r.measures.items()})
        for r in ROWS
    ]
    assert recommend(comparison(certain))[0] is certain[-1]


def test_recommended_without_data_is_nearest_to_the_exact_endpoints() -> None:
    rows = [row(r.run.name, r.run.budget, r.nfe, r.measures["endpoint_error"].mean) for r in ROWS if r.deterministic]
    best, sentence = recommend(comparison(rows))
    assert best is rows[5]
    assert sentence == (
        "Use `unipc`: of the solvers compared it is nearest to the exact endpoint at 2 of 3 budgets, and 0.01 away "
        "with 20 network calls."
    )


def test_recommended_where_distances_disagree_has_the_smallest_frechet_distance() -> None:
    low, high = row("a", 5, 5, 0.1, 1.0), row("b", 5, 5, 0.1, 3.0)
    high.measures["c2st"] = Estimate(0.5, 0.001)
    best, sentence = recommend(comparison([high, low]))
    assert best is low
    assert "though not by all three" in sentence


def test_rows_that_are_not_finite_are_never_recommended() -> None:
    broken = row("a", 5, 5, None, math.inf)
    broken.measures["c2st"] = Estimate(0.0, 0.0)
    assert recommend(comparison([broken, *ROWS]))[0] is ROWS[4]
    with pytest.raises(UserError, match="nothing to recommend by"):
        recommend(comparison([row("pc", 5, 5)]))
    with pytest.raises(UserError, match="no solver gave finite samples"):
        recommend(comparison([broken]))


def test_results_are_read_back(tmp_path) -> None:
    paths = write_report(comparison(ROWS, floor=0.8), tmp_path / "compare", "digits")
    assert [path.name for path in paths] == ["results.csv", "table.md", "pareto.png"]
    with paths[0].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS) + 1
    for line, expected in zip(lines, ROWS, strict=False):
        assert (line["solver"], float(line["nfe"])) == (expected.run.name, expected.nfe)
        assert line["budget"] == ("" if expected.run.budget is None else str(expected.run.budget))
        for name in ("endpoint_error", "frechet", "sliced_wasserstein", "c2st"):
            cells = line[name], line[f"{name}_standard_error"]
            found = expected.measures.get(name)
            assert cells == ("", "") if found is None else tuple(map(float, cells)) == found
    assert lines[-1]["solver"] == "data"
    assert float(lines[-1]["frechet"]) == 0.8
    assert lines[0]["options"] == "num_steps=5"
    height, width = image(paths[2]).shape[:2]
    assert width > height


@pytest.mark.parametrize(
    "rows", [[row("ddim", 5, 5, 0.3, 0.4)], [row("ddim", 5, 5, 0.3, 0.4), row("heun", 5, 5, 0.1, 0.2)], ROWS]
)
def test_few_points_make_a_picture_too(rows, tmp_path) -> None:
    """On logarithmic axes, which have no width around a single value; matplotlib would warn."""
    paths = write_report(comparison(rows), tmp_path, "digits")
    assert image(paths[2]).shape[0] == 576


def test_table_marks_the_best_of_each_budget_and_says_how_it_was_made() -> None:
    text = markdown(comparison(ROWS, floor=0.8), "digits")
    line = next(line for line in text.splitlines() if "`unipc` (num_steps=10)" in line)
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "10",
        "`unipc` (num_steps=10)",
        "10",
        "10",
        "**0.100 ± 0.010**",
        "**1.10 ± 0.10**",
        "**0.110 ± 0.010**",
        "**0.555 ± 0.010**",
    ]
    assert "| – | `ode` (rtol=0.01) | 61.5 |" in text
    assert "| | *other real data* | | | – | 0.80 ± 0.10 |" in text
    assert "repetitions 0, 1, 2; sample `i` of repetition `r` has the seed `500 r + i`" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {9}


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        ((1.23456, 0.0123), "1.235 ± 0.012"),
        ((123.4, 12.0), "123 ± 12"),
        ((0.0109101, 0.0000953), "(1.0910 ± 0.0095)e-2"),
        ((7.53e-5, 3.2e-6), "(7.53 ± 0.32)e-5"),
        ((1e-7, 3e-6), "(0.1 ± 3.0)e-6"),
        ((0.012345, math.nan), "0.0123"),
        ((math.inf, math.nan), "not finite"),
    ],
)
def test_numbers_have_two_digits_of_their_error(estimate: tuple[float, float], expected: str) -> None:
    assert number(Estimate(*estimate)) == expected


def test_pareto_front_is_what_nothing_dominates() -> None:
    points = [(float(a), float(b)) for a, b in np.random.default_rng(0).integers(0, 12, (40, 2))]

    def dominated(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)

    assert pareto_front(points) == sorted({p for p in points if not dominated(p)})


def test_labels_are_spread_no_more_than_needed() -> None:
    assert spread([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert spread([0.0, 0.0, 0.3], 0.2) == pytest.approx([0.0, 0.2, 0.4])
    assert spread([0.95, 1.0], 0.2) == pytest.approx([0.8, 1.0])
