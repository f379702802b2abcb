"""Runs that are trained on pairs: what they refuse, and that a checkpoint says that it is a flow and no score."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import score_sde
from score_sde.common.errors import UserError
from score_sde.data.sources.toys import two_moons
from score_sde.solvers import encode, log_likelihood
from tests.modes.test_main import run
from tests.reading import ROOT

TOY = ROOT / "configs" / "vp" / "eight_gaussians.py"

FLOW = {
    "sde.name": "rectified_flow",
    "model.prediction": "flow",
    "model.width": 32,
    "model.num_blocks": 1,
    "training.batch_size": 128,
    "training.sample_every": 0,
}


@pytest.fixture(scope="module")
def moons() -> torch.Tensor:
    return two_moons(1000, torch.Generator().manual_seed(0)).float()


@pytest.fixture(scope="module")
def transported(moons, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ot"
    settings = {**FLOW, "training.coupling": "ot"}
    score_sde.fit(moons, config="vp/vectors", workdir=folder, num_steps=150, settings=settings)
    return folder


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model.prediction": "levels"}, "needs another prediction than levels"),
        ({"model.prediction": "noise"}, "says nothing of the data where nothing is left of them"),
        ({"data.missing": True}, "pairs whole examples with noise"),
        ({"training.coupling": "reflow"}, "name it by training.teacher"),
        ({"training.teacher": "somewhere"}, "are for few-step models"),
    ],
)
def test_what_does_not_go_with_pairs_is_refused(moons, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        score_sde.fit(moons, config="vp/vectors", num_steps=1, settings={**FLOW, "training.coupling": "ot", **settings})


def test_pairs_under_a_condition_of_numbers_are_refused(moons):
    with pytest.raises(UserError, match="and each has its own condition"):
        score_sde.fit(
            moons,
            condition=moons[:, :1],
            config="vp/vectors",
            num_steps=1,
            settings={**FLOW, "training.coupling": "ot"},
        )


def test_a_checkpoint_says_that_it_is_a_flow(transported):
    loaded = score_sde.load(transported)
    assert "optimal transport paired" in loaded.model.no_score
    for solver in ("default", "heun", "ode"):
        assert loaded.sample(4, solver=solver, seed=0).shape == (4, 2)
    for solver in ("pc", "sde", "ddim"):
        options = {"eta": 1.0} if solver == "ddim" else {}
        with pytest.raises(UserError, match="is a flow that has none"):
            loaded.sample(4, solver=solver, seed=0, num_steps=5, **options)


def test_what_a_flow_teaches_is_one_too(transported, moons):
    jumps = {"training.objective": "lagrangian", "model.flow_map": True, "training.teacher": str(transported)}
    with pytest.raises(UserError, match=r"so is what learns from it: --config.training.coupling=ot"):
        score_sde.fit(moons, config="vp/vectors", num_steps=1, settings={**FLOW, **jumps})


def test_a_comparison_leaves_out_what_needs_a_score(tmp_path, capsys):
    settings = {**FLOW, "training.coupling": "ot", "training.num_steps": 2, "data.dataset": "two_moons"}
    compared = {"compare.solvers": "pc,heun,ode", "compare.budgets": "4", "compare.num_samples": 20}
    flags = [f"--config.{key}={value}" for key, value in {**settings, **compared, "compare.repetitions": 1}.items()]
    assert run("--mode=train", f"--config={TOY}", f"--workdir={tmp_path}", *flags) == 0
    assert run("--mode=compare", f"--workdir={tmp_path}") == 0
    assert "left out of the comparison: pc; solver 'pc' needs a score" in capsys.readouterr().out
    table = (tmp_path / "compare" / "table.md").read_text(encoding="utf-8")
    assert "`heun`" in table
    assert "`pc`" not in table
    assert "Straightness of the trajectories: " in table


def test_the_density_is_that_of_its_own_change_of_variables(transported):
    """`log p(x) = log pi(z) + log |det dz/dx|`, with the Jacobian of the map to the noise by central differences, of
    fixed steps, which make one smooth map."""
    model = score_sde.load(transported).model.double().cpu()
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fixed, h = {"method": "rk4", "num_steps": 100}, 1e-4
    columns = []
    for k in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[k]
        columns.append((encode(model, x + step, **fixed).x - encode(model, x - step, **fixed).x) / (2 * h))
    log_det = torch.linalg.slogdet(torch.stack(columns, 2))[1]
    exact = model.sde.prior_log_prob(encode(model, x, **fixed).x) + log_det
    found = log_likelihood(model, x, divergence="exact", rtol=1e-7, atol=1e-7).log_prob
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-5)


def test_reflow_learns_from_a_run_whose_weights_it_begins_with(transported, moons, tmp_path):
    """One step at a rate of nothing leaves the teacher's weights."""
    settings = {**FLOW, "training.coupling": "reflow", "training.teacher": str(transported)}
    straightened = score_sde.fit(
        moons,
        config="vp/vectors",
        workdir=tmp_path / "reflow",
        num_steps=1,
        settings={**settings, "training.learning_rate": 1e-12},
    )
    teacher = score_sde.load(transported)
    assert "another model's trajectories" in straightened.model.no_score
    for (name, ours), theirs in zip(straightened.model.named_parameters(), teacher.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)
    # Straight lines keep their ends, so that the loss is that of the flow along the teacher's trajectories.
    assert math.isfinite(float(straightened.sample(2, solver="heun", num_steps=4).sum()))
