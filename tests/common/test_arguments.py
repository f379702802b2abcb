"""A walk over public arguments: each takes what its row of the table says, and refuses the rest in one line.

Arguments come from `inspect.signature`, so that one that is added later is walked over too, and needs a row. What is
taken must work: a solver's samples are where the mixture is, a density is the mixture's. What is refused is refused
before the model is asked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from score_sde import control
from score_sde.common.errors import UserError
from score_sde.common.gaussian import isotropic
from score_sde.control import Controlled, Masked, Observation, Projection
from score_sde.control.inverse_problems import answer, box_mask, random_mask
from score_sde.evaluation.samples.ensembles import crps, spread_skill
from score_sde.models import GaussianMixture, QuantisedModel, ScoreModel
from score_sde.models.analytic_variance import FixedVariance, JacobianVariance, measure_variance
from score_sde.models.learned_variance import LearnedVariance
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    DDPMLadder,
    LearnedSDE,
    NCSNLadder,
    SubVPSDE,
    cosine_betas,
    ddpm_betas,
    geometric_sigmas,
)
from score_sde.sde.truncated import Truncated
from score_sde.solvers import (
    SOLVERS,
    decode,
    encode,
    get_solver,
    log_likelihood,
    matched_prior,
    sample_path,
    step_log_prob,
)
from score_sde.solvers.density.bounds import continuous_bound, discrete_bound, gaussian_decoder, score_flow_bound
from score_sde.solvers.density.tuning import tune_likelihood
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.gits import gits_times
from score_sde.solvers.fast.tuning import tune
from score_sde.solvers.standard_normal import StandardNormal

FLOAT = torch.float64
VP = VPSDE()
SEEDS = range(4)
# With 1e9 and more, a number of steps is refused: it would never end.
VALUES: dict[str, Any] = {
    "three": "three",
    "None": None,
    "[]": [],
    "1.5": 1.5,
    "True": True,
    "False": False,
    "-1": -1,
    "0": 0,
    "1": 1,
    "1e-30": 1e-30,
    "1e30": 1e30,
    "10**9": 10**9,
    "10**400": 10**400,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
}
NUMBERS = "-1 0 1 1.5 1e-30 1e30 10**9"
NOT_NEGATIVE = "0 1 1.5 1e-30 1e30 10**9"
POSITIVE = "1 1.5 1e-30 1e30 10**9"
SMALL = "1 1e-30"
WHOLE = "-1 0 1 10**9 10**400"


def mixture(sde: SDE = VP) -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=FLOAT)
    return GaussianMixture(sde, torch.ones(2), means, 0.09 * torch.eye(2).expand(2, 2, 2))


@dataclass
class Asked:
    """The mixture counts how often it is asked."""

    sde: SDE = VP
    calls: int = 0

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return mixture(self.sde).score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return mixture(self.sde).denoise(x, t)

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        self.calls += 1
        return StandardNormal(self.sde).jump(x, t, s)


KEEP = Masked(torch.tensor([True, False]))
X_T = VP.prior_sample((4, 2), seeds=SEEDS, dtype=FLOAT)
X_0 = torch.tensor([[-1.0, 0.1], [1.2, 0.5], [0.8, 0.2], [-0.7, 0.0]], dtype=FLOAT)
OBSERVED = Observation(KEEP, X_0, 0.1)
T_MIN = torch.tensor(VP.t_min, dtype=FLOAT)
TABLE = recommended(6).table(VP, isotropic(0.5))


def sample(solver: Callable[..., Any], model: Asked, x_T: Tensor = X_T) -> None:
    x = solver(model, x_T, seeds=SEEDS).x
    assert x.shape == (4, 2)
    assert float(x.abs().max()) < 3, "samples are not where the mixture is"


def solver(name: str) -> Callable[..., None]:
    return lambda model, /, **options: sample(get_solver(name, **options), model)


def process(make: Callable[..., SDE]) -> Callable[..., None]:
    """Solve under a process; one whose noise hides nothing, or all, is refused there."""

    def run(asked: Asked, /, **options: Any) -> None:
        asked.sde = make(**options)
        x_T = asked.sde.prior_sample((4, 2), seeds=SEEDS, dtype=FLOAT)
        x = get_solver("dpmpp_2m", num_steps=10, t_min=max(asked.sde.t_min, 1e-6))(asked, x_T).x
        assert bool(x.isfinite().all())

    return run


def learned_density(model: Asked, /, **options: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = mixture().means.repeat(40, 1) + 0.3 * torch.randn(80, 2, generator=generator, dtype=FLOAT)
    table = tune_likelihood(model, x=x, **options)
    t = table.times[0]
    found = log_likelihood(model, x, divergence="exact", method="tuned", table=table, t_min=float(t)).log_prob
    assert float((found - mixture().log_prob(x, t)).abs().max()) < 1


def density(model: Asked, **options: Any) -> None:
    found = log_likelihood(model, X_0, **options).log_prob
    t = torch.tensor(VP.t_min if options.get("t_min") is None else options["t_min"], dtype=FLOAT)
    # A random probe, and tolerances of up to 1 in the normalised state, are not exact; order of magnitude is.
    assert float((found - mixture().log_prob(X_0, t)).abs().max()) < (6 if "divergence" in options else 1)


def there_and_back(model: Asked, **options: Any) -> None:
    latents = encode(model, X_0, **options).x
    assert float((decode(model, latents, **options).x - X_0).abs().max()) < 0.1


def bound(function: Callable[..., Any], *args: Any) -> Callable[..., None]:
    def run(asked: Asked, /, **options: Any) -> None:
        assert bool(function(asked, X_0, *args, seeds=SEEDS, **options).log_prob.isfinite().all())

    return run


def made(function: Callable[..., Any], use: Callable[[Any], Any] = lambda value: value) -> Callable[..., None]:
    def run(asked: Asked, /, **options: Any) -> None:
        use(function(**options))

    return run


def used_model(model: Any) -> None:
    assert bool(model.score(X_0[:, :, None, None].float(), T_MIN).isfinite().all())


def logits(x: Tensor, noise_label: Tensor) -> Tensor:
    return torch.zeros(len(x), 3 * x.shape[1], *x.shape[2:])


class Function(nn.Module):
    """The network is a function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        return self.function(x, noise_label)


@dataclass
class Subject:
    """A subject is a function whose options are walked over.

    Attributes:
        function: the function with the signature.
        run: called with the model and options.
        base: options that keep their values, except the one that is walked over.
        rows: the values that an argument takes, where they differ from `TAKEN`.
        fixed: names of arguments that `run` gives itself.
        slow: values of arguments that are taken, but take long.
    """

    function: Callable[..., Any]
    run: Callable[..., Any]
    base: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    slow: Mapping[str, str] = field(default_factory=dict)


# What an argument takes, of VALUES, wherever it is.
TAKEN = {
    "num_steps": "1",
    "grid": "",
    "t_min": "None 1e-30",
    "denoise": "True False",
    "threshold": "None",
    "order": "1",
    "eta": "0 1 1e-30",
    "variable": "",
    "variant": "",
    "lower_order_final": "True False",
    "s_churn": NOT_NEGATIVE,
    "s_min": NOT_NEGATIVE,
    "s_max": NOT_NEGATIVE + " inf",
    "s_noise": "0 1 1.5 1e-30",
    "rtol": SMALL,
    "atol": SMALL,
    "adaptive": "True False",
    "per_example": "True False",
    "differentiable": "True False",
    "method": "",
    "options": "",
    "seeds": "None",
    "generator": "None",
    "model": "",
    "sde": "",
    "noise_label": "",
    "prediction": "",
    "network": "",
    "scale_input": "True False",
    "dequantised": "True False",
    "scale": NUMBERS,
    "data_std": POSITIVE,
    "observation": "",
    "operator": "",
    "y": "",
    "solver": "",
    "jump": "1",
    "repeats": "1",
    "reference": "",
}

OF_SOLVERS: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "default": (
        {"num_steps": 6},
        {
            "num_steps": "1",
            "grid": "None",
            "t_min": "None 0 1e-30",
            "order": "None 1",
            "data_std": "1 1.5",
            "free": "None True False",
        },
    ),
    "tuned": ({"table": TABLE}, {"num_steps": "None", "path": "None", "table": ""}),
    "pc": (
        {"num_steps": 30},
        {
            "num_steps": "None 1",
            "predictor": "",
            "corrector": "",
            "t_min": "None 0 1e-30",
            "snr": SMALL,
            "corrector_steps": "0 1",
            "step_size": "",
        },
    ),
    "sde": ({"num_steps": 20}, {"eta": "0 1 1.5 1e-30"}),
    "adaptive_sde": ({"rtol": 0.2, "atol": 0.2}, {"atol": POSITIVE, "first_step": "1 1.5 1e30 10**9"}),
    "ode": (
        {"rtol": 1e-3, "atol": 1e-3},
        {
            "rtol": "None " + SMALL,
            "atol": "None " + SMALL,
            "num_steps": "None",
            "grid": "None",
            "t_min": "None 0 1e-30",
        },
    ),
    "consistency": ({"num_steps": 6}, {"num_steps": "None 1", "t_min": "None 1e-30", "renoise": "True False"}),
    "heun": ({"num_steps": 10}, {}),
    "dpm_2": ({"num_steps": 20}, {}),
    "dpm_3": ({"num_steps": 12}, {}),
    "dpm_1_sde": ({"num_steps": 60}, {}),
    "dpm_2m_sde": ({"num_steps": 60}, {}),
    "dpmpp_3m_sde": ({"num_steps": 12}, {}),
}
FIXED_STEPS = {"num_steps": "1", "grid": "None", "rtol": "None 1 1e-30", "atol": "None 1 1e-30"}

SUBJECTS: dict[str, Subject] = {
    name: Subject(SOLVERS[name], solver(name), *OF_SOLVERS.get(name, ({"num_steps": 6}, {}))) for name in SOLVERS
}
SUBJECTS |= {
    f"ode {method}": Subject(
        SOLVERS["ode"],
        solver("ode"),
        {"method": method, "num_steps": 10},
        FIXED_STEPS | {"grid": "None", "t_min": "None 1e-30"},
    )
    for method in ("adams", "rk4")
}
SUBJECTS |= {
    "log_likelihood": Subject(
        log_likelihood,
        density,
        {"divergence": "exact", "rtol": 1e-2, "atol": 1e-2},
        {
            "divergence": "",
            "num_probes": "1",
            "probe": "",
            "prior": "None",
            "t_min": "None 0 1e-30",
            "rtol": "None " + SMALL,
            # The integral begins at 0, to which nothing is small.
            "atol": "None 1",
            "num_steps": "None",
            "grid": "None",
            "options": "None",
            "per_example": "True",
            # There are no probes.
            "seeds": "None []",
            "table": "None",
        },
        fixed=("model", "x"),
    ),
    "tune_likelihood": Subject(
        tune_likelihood,
        learned_density,
        {"num_steps": 8, "divergence": "exact"},
        {
            "num_steps": "",
            "divergence": "",
            "num_probes": "1",
            "probe": "",
            "prior": "None",
            "batch_size": "10**9 10**400",
        },
        fixed=("model", "x", "t_min", "seeds"),
        slow={"batch_size": "1"},
    ),
    "sample_path": Subject(
        sample_path,
        lambda model, /, **options: sample_path(model=model, x_T=X_T, **options),
        {"solver": get_solver("ddim", num_steps=4, eta=1.0)},
        fixed=("model", "x_T"),
    ),
    "step_log_prob": Subject(
        step_log_prob,
        lambda model, /, **options: step_log_prob(model=model, **options),
        {
            "solver": get_solver("ddim", grid=[1.0, 0.5], eta=1.0),
            "states": torch.stack([X_T, X_0]),
            "times": torch.tensor([1.0, 0.5]),
        },
        {"states": "", "times": ""},
        fixed=("model",),
    ),
    "encode and decode": Subject(
        SOLVERS["ode"],
        there_and_back,
        {"rtol": 1e-3, "atol": 1e-3},
        OF_SOLVERS["ode"][1],
        fixed=("rtol", "atol", "denoise"),
    ),
    "discrete_bound": Subject(
        discrete_bound,
        bound(discrete_bound, gaussian_decoder(X_0)),
        {"num_steps": 8},
        {"num_steps": "", "num_calls": "None 1 10**9 10**400"},
        fixed=("model", "x_0", "decoder", "seeds"),
    ),
    "continuous_bound": Subject(
        continuous_bound,
        bound(continuous_bound, gaussian_decoder(X_0)),
        {"num_calls": 4},
        {"num_calls": "1"},
        fixed=("model", "x_0", "decoder", "seeds"),
    ),
    "score_flow_bound": Subject(
        score_flow_bound, bound(score_flow_bound), {"num_calls": 4}, {"num_calls": "1"}, fixed=("model", "x", "seeds")
    ),
    "tune": Subject(
        tune,
        lambda model, /, **options: tune(model, **options),
        {
            "numbers": [2],
            "shape": (2,),
            "num_trajectories": 4,
            "num_validation": 4,
            "batch_size": 2,
            "iterations": 3,
            "reference_steps": 16,
        },
        {
            "numbers": "",
            "shape": "",
            "num_trajectories": "None",
            "num_validation": "1",
            "batch_size": "1",
            "iterations": "0 1",
            "learning_rate": POSITIVE,
            "memory": "1",
            "data_std": "1 1.5",
            "reference_steps": "",
            "seed": "0 1 10**9 10**400",
            "dtype": "None",
            "device": "",
            "report": "None",
        },
        fixed=("model",),
        slow={"iterations": "None"},
    ),
    "gits_times": Subject(
        gits_times,
        lambda model, /, **options: gits_times(model, **options),
        {"num_steps": 2, "shape": (2,), "num_trajectories": 2, "fine_steps": 3},
        {
            "num_steps": "",
            "shape": "",
            "num_trajectories": "1",
            "fine_steps": "",
            "growth": "1 1.5 1e-30",
            "seed": "0 1 10**9 10**400",
            "dtype": "None",
            "device": "",
        },
        fixed=("model",),
    ),
    "matched_prior": Subject(
        matched_prior,
        made(matched_prior),
        {"sde": VP, "mean": torch.zeros(2), "variance": torch.ones(2)},
        {"mean": "", "variance": ""},
    ),
    "prior_sample": Subject(
        SDE.prior_sample,
        made(VP.prior_sample),
        {"shape": (4, 2)},
        {"shape": "", "dtype": "None", "device": ""},
    ),
    "VPSDE": Subject(
        VPSDE, process(VPSDE), {}, {"beta_min": "0 1 1.5 1e-30", "beta_max": "0 1 1.5 1e-30", "t_min": "0 1e-30"}
    ),
    "SubVPSDE": Subject(
        SubVPSDE, process(SubVPSDE), {}, {"beta_min": "0 1 1.5 1e-30", "beta_max": "0 1 1.5 1e-30", "t_min": "0 1e-30"}
    ),
    "VESDE": Subject(
        VESDE, process(VESDE), {}, {"sigma_min": "1 1.5 1e-30", "sigma_max": "1 1.5 1e30 10**9", "t_min": "0 1e-30"}
    ),
    "LearnedSDE": Subject(
        LearnedSDE,
        process(LearnedSDE),
        {},
        {"log_snr_max": "-1 0 1 1.5 1e-30", "log_snr_min": "0 1 1.5 1e-30 -1", "learn_ends": "True False"},
    ),
    "Truncated": Subject(Truncated, process(Truncated), {"sde": VP, "T": 0.7}, {"sde": "", "T": "1"}),
    "DDPMLadder": Subject(DDPMLadder, process(DDPMLadder), {}, {"betas": ""}),
    "NCSNLadder": Subject(NCSNLadder, process(NCSNLadder), {}, {"sigmas": ""}),
    "ddpm_betas": Subject(
        ddpm_betas,
        process(lambda **options: DDPMLadder(ddpm_betas(**options))),
        {"num_rungs": 50},
        {"num_rungs": "", "beta_min": "1 1.5", "beta_max": "1 1.5 1e-30"},
    ),
    "cosine_betas": Subject(
        cosine_betas,
        process(lambda **options: DDPMLadder(cosine_betas(**options))),
        {"num_rungs": 50},
        {"num_rungs": "", "offset": "0 1 1e-30", "max_beta": "1e-30"},
    ),
    "geometric_sigmas": Subject(
        geometric_sigmas,
        process(lambda **options: NCSNLadder(geometric_sigmas(**options))),
        {"num_rungs": 50},
        {"num_rungs": "", "sigma_min": "1 1.5 1e-30", "sigma_max": "1 1.5 1e30 10**9"},
    ),
    "GaussianMixture": Subject(
        GaussianMixture,
        made(GaussianMixture),
        {"sde": VP, "weights": torch.ones(1), "means": torch.zeros(1, 2), "covariances": torch.eye(2)[None]},
        {"weights": "", "means": "", "covariances": ""},
    ),
    "ScoreModel": Subject(
        ScoreModel,
        made(ScoreModel, used_model),
        {"network": Function(lambda x, noise_label: x), "sde": VP},
        {"noise_label": ""},
    ),
    "QuantisedModel": Subject(
        QuantisedModel,
        made(QuantisedModel, used_model),
        {"network": Function(logits), "sde": VP, "levels": 3},
        {"levels": "", "low": "-1 0 1e-30", "high": NOT_NEGATIVE},
    ),
    "LearnedVariance": Subject(
        LearnedVariance,
        made(LearnedVariance, used_model),
        {"network": Function(lambda x, noise_label: torch.cat([x, x], 1)), "sde": DDPMLadder(cosine_betas(10))},
        {"noise_label": ""},
    ),
    "FixedVariance": Subject(
        FixedVariance, made(FixedVariance), {"model": mixture()}, {"data_std": NOT_NEGATIVE}, fixed=("model",)
    ),
    "JacobianVariance": Subject(
        JacobianVariance,
        made(JacobianVariance),
        {"model": mixture()},
        {"num_probes": "None 1 10**9 10**400", "each": "True False", "seed": "0 1 10**9 10**400"},
        fixed=("model",),
    ),
    "measure_variance": Subject(
        measure_variance,
        lambda model, /, **options: measure_variance(model, X_0, **options),
        {"num_times": 3},
        {
            "num_times": "",
            "each": "True False",
            "batch_size": "1 10**9 10**400",
            "seed": "0 1 10**9 10**400",
        },
        fixed=("model", "x_0"),
    ),
    "ClassifierGuidance": Subject(
        control.ClassifierGuidance,
        made(control.ClassifierGuidance),
        {"model": mixture(), "log_prob": lambda x, t: x.sum(1)},
        {"log_prob": ""},
    ),
    "Guided": Subject(
        control.Guided,
        made(control.Guided),
        {"model": mixture(), "reference": mixture()},
        {"interval": "", "rescale": "0 1 1e-30", "parallel": "0 1 1e-30", "largest": POSITIVE + " inf"},
    ),
    "Composed": Subject(
        control.Composed,
        made(control.Composed),
        {"posteriors": [mixture()], "prior": mixture()},
        {"posteriors": "", "prior": "", "covariances": "None", "prior_covariance": "None"},
    ),
    "DPS": Subject(control.DPS, made(control.DPS), {"model": mixture(), "observation": OBSERVED}),
    "PiGDM": Subject(control.PiGDM, made(control.PiGDM), {"model": mixture(), "observation": OBSERVED}),
    "MMPS": Subject(
        control.MMPS, made(control.MMPS), {"model": mixture(), "observation": OBSERVED}, {"iterations": "1"}
    ),
    "TDS": Subject(
        control.TDS,
        lambda model, **options: control.TDS(**options)(model, OBSERVED, (2,), seeds=SEEDS),
        {"num_steps": 4, "num_particles": 3},
        {"num_particles": "1", "eta": "1 1e-30", "resample_below": "0 1 1e-30"},
    ),
    "Observation": Subject(Observation, made(Observation), {"operator": KEEP, "y": X_0}, {"noise_std": NOT_NEGATIVE}),
    "Projection": Subject(Projection, made(Projection), {"operator": KEEP, "y": X_0}),
    "RePaint": Subject(control.RePaint, made(control.RePaint), {"operator": KEEP, "y": X_0}),
    "Controlled": Subject(
        Controlled,
        made(Controlled),
        {"solver": get_solver("ddim", num_steps=4), "control": Projection(KEEP, X_0)},
        {"control": ""},
    ),
    "Masked": Subject(Masked, made(Masked), {}, {"keep": ""}),
    "EachMasked": Subject(control.EachMasked, made(control.EachMasked), {}, {"keep": ""}),
    "LinearOperator": Subject(control.LinearOperator, made(control.LinearOperator), {}, {"function": ""}),
    "blurred": Subject(control.blurred, made(control.blurred), {}, {"std": "1 1.5 1e-30"}),
    "shrunk": Subject(control.shrunk, made(control.shrunk), {}, {"factor": "1 10**9 10**400"}),
    "noised": Subject(
        control.noised,
        lambda model, /, **options: control.noised(model, X_0, **options),
        {"strength": 0.5},
        {"strength": "1"},
        fixed=("model", "x_0"),
    ),
    "varied": Subject(
        control.varied,
        made(control.varied),
        {"sde": VP, "latents": X_T, "strength": 0.5},
        {"latents": "", "strength": "0 1 1e-30"},
    ),
    "slerp": Subject(
        control.slerp, made(control.slerp), {"a": X_0, "b": X_T, "share": T_MIN}, {"a": "", "b": "", "share": ""}
    ),
    "answer": Subject(
        answer,
        made(answer),
        {"method": "repaint", "solver": get_solver("ddim", num_steps=4), "model": mixture(), "observation": OBSERVED},
        # Of other methods.
        {"data_std": NUMBERS, **dict.fromkeys(("iterations", "num_particles", "num_steps"), WHOLE)},
    ),
    "box_mask": Subject(
        box_mask,
        made(box_mask),
        {"sizes": (4, 4), "box": (0.25, 0.25, 0.5, 0.5)},
        {"sizes": "", "box": ""},
    ),
    "random_mask": Subject(
        random_mask,
        made(random_mask),
        {"sizes": (4, 4), "hidden": 0.5, "seed": 0},
        {"sizes": "", "hidden": "0 1 1e-30", "seed": "0 1 10**9"},
    ),
    **{
        function.__name__: Subject(
            function,
            made(function),
            {"ensemble": torch.stack([X_0, X_T]), "truth": X_0},
            {"ensemble": "", "truth": ""},
        )
        for function in (crps, spread_skill)
    },
}


OUT_OF_REACH = ("the step size vanished", "steps were not enough")


def outcome(subject: Subject, options: Mapping[str, Any]) -> bool:
    """Return whether the options are taken; see that a refusal is one line, given before the model is asked."""
    model, refusal = Asked(), ""
    try:
        subject.run(model, **options)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
    # Which tolerances are out of reach is known when they are not reached.
    assert not refusal or model.calls == 0 or any(line in refusal for line in OUT_OF_REACH), refusal
    return not refusal


@pytest.mark.parametrize("name", SUBJECTS)
def test_arguments_take_what_their_row_says(name: str) -> None:
    subject = SUBJECTS[name]
    for argument in inspect.signature(subject.function).parameters:
        if argument in ("self", *subject.fixed):
            continue
        row = {**TAKEN, **subject.rows}.get(argument)
        assert row is not None, f"{argument} is new: add a row that says which values it takes"
        values = {text: value for text, value in VALUES.items() if text != subject.slow.get(argument)}
        taken = [text for text, value in values.items() if outcome(subject, {**subject.base, argument: value})]
        assert sorted(taken) == sorted(row.split()), argument
