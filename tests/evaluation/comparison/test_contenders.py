"""Budgets are met, and met as closely as whole steps allow."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.evaluation.comparison.contenders import TOLERANCES, most_steps, runs_within
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE, VPSDE
from score_sde.solvers import get_solver


def mixture(sde) -> GaussianMixture:
    covariances = 0.1 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    return GaussianMixture(sde, torch.ones(2), torch.tensor([[-1.0, 0], [1, 0]], dtype=torch.float64), covariances)


# Calls of n steps, denoising included.
CALLS = [
    ("ddim", {}, lambda n: n),
    ("unipc", {}, lambda n: n),
    ("dpm_2", {}, lambda n: 2 * n - 1),
    ("dpm_3", {}, lambda n: 3 * n - 2),
    ("heun", {}, lambda n: 2 * n - 1),
    ("flow_heun", {}, lambda n: 2 * n - 1),
    ("pc", {}, lambda n: 2 * n - 1),
    ("pc", {"corrector": "none"}, lambda n: n),
    ("pc", {"corrector_steps": 3, "denoise": False}, lambda n: 4 * (n - 1)),
    ("ode", {"method": "rk4"}, lambda n: 4 * (n - 1) + 1),
]


@pytest.mark.parametrize(("name", "options", "calls"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_most_steps_is_the_largest_number_within_the_budget(name, options, calls) -> None:
    sde = VPSDE()
    for budget in (5, 10, 37):
        expected = max(n for n in range(budget + 2) if calls(n) <= budget)
        assert most_steps(name, options, budget, sde) == expected


@pytest.mark.parametrize("name", ["dpm_3", "pc", "sde", "dpmpp_2s_sde"])
def test_calls_counted_on_the_model_are_within_the_budget(name: str, count_calls) -> None:
    sde = VESDE()
    x_T = sde.prior_sample((3, 2), seeds=range(3))
    for run in runs_within(name, {}, (6, 25), sde):
        model = mixture(sde)
        calls = count_calls(model)
        nfe = run.solver()(model, x_T, seeds=range(3)).nfe
        assert run.budget is not None
        assert nfe == calls.total() <= run.budget
        calls.clear()
        more = {**run.options, "num_steps": run.options["num_steps"] + 1}
        get_solver(name, **more)(model, x_T, seeds=range(3))
        assert calls.total() > run.budget


def test_adaptive_steps_run_at_tolerances_and_fixed_options_once() -> None:
    sde = VPSDE()
    swept = runs_within("ode", {"method": "bosh3"}, (5, 10), sde)
    assert [(run.options["rtol"], run.options["atol"], run.budget) for run in swept] == [
        (tolerance, tolerance, None) for tolerance in TOLERANCES
    ]
    assert {run.label for run in swept} == {"ode(method=bosh3)"}
    assert swept[0].setting == "rtol=0.01"
    (given,) = runs_within("adaptive_sde", {"rtol": 0.3}, (5, 10), sde)
    assert dict(given.options) == {"rtol": 0.3}
    (fixed,) = runs_within("ddim", {"num_steps": 7}, (5, 10), sde)
    assert (fixed.setting, fixed.budget, fixed.label) == ("num_steps=7", 7, "ddim")


def test_shared_options_go_to_those_who_have_them() -> None:
    shared = {"t_min": 0.01, "snr": 0.3}
    (ddim,) = runs_within("ddim", {}, (5,), VPSDE(), shared)
    assert (ddim.label, dict(ddim.options)) == ("ddim", {"t_min": 0.01, "num_steps": 5})
    (pc,) = runs_within("pc", {"t_min": 0.1}, (5,), VPSDE(), shared)
    assert (pc.label, dict(pc.options)) == ("pc(t_min=0.1)", {"t_min": 0.1, "snr": 0.3, "num_steps": 3})


def test_budgets_too_small_have_no_run() -> None:
    """One step is one call, the denoising's; without that, a step of DPM-Solver-3 is three."""
    assert [run.budget for run in runs_within("heun", {}, (2, 3, 10), VPSDE())] == [2, 3, 10]
    assert most_steps("heun", {}, 2, VPSDE()) == 1
    stopped = {"denoise": False}
    assert [run.budget for run in runs_within("dpm_3", stopped, (2, 3, 10), VPSDE())] == [3, 10]
    assert most_steps("dpm_3", stopped, 2, VPSDE()) is None
    with pytest.raises(UserError, match=r"solver 'dpm_3\(denoise=False\)' cannot do with 2 network calls"):
        runs_within("dpm_3", stopped, (2,), VPSDE())


def test_misspelt_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"did you mean 'ddim'"):
        runs_within("dimm", {}, (5,), VPSDE())
    with pytest.raises(UserError, match=r"has no option 'corector'"):
        runs_within("pc", {"corector": "none"}, (5,), VPSDE())
