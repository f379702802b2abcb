"""Every scheduler of the installed diffusers, with every setting: read as what it does itself, or refused by name."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models.preconditioning import NOISE_LABELS
from score_sde.models.pretrained.diffusers_flow import FLOWS
from score_sde.models.pretrained.diffusers_schedulers import LADDERS, VE, Meaning, meaning
from score_sde.models.score_model import ScoreModel
from score_sde.sde import DDPMLadder

diffusers = pytest.importorskip("diffusers")

# The library's own, of NumPy and of settings that it will drop.
pytestmark = pytest.mark.filterwarnings("ignore")

# What schedulers without a default configuration need.
NEEDED: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 0},
    "VQDiffusionScheduler": {"num_vec_classes": 4},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
}

# Other values for every setting of the schedulers that are read.
OTHERS: dict[str, list[Any]] = {
    "algorithm_type": ["dpmsolver", "dpmsolver++", "sde-dpmsolver++", "deis", "data_prediction", "noise_prediction"],
    "beta_end": [0.05],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"],
    "beta_start": [0.001],
    "clip_sample": [True, False],
    "clip_sample_range": [3.0],
    "correct_steps": [2],
    "corrector_order": [1],
    "disable_corrector": [[0]],
    "dynamic_thresholding_ratio": [0.9],
    "eta": [0.5],
    "euler_at_final": [True],
    "final_sigmas_type": ["sigma_min"],
    "flow_shift": [3.0],
    "interpolation_type": ["log_linear"],
    "lambda_min_clipped": [-5.1],
    "lower_order_final": [True, False],
    "noise_sampler_seed": [3],
    "num_train_timesteps": [50],
    "predict_x0": [False],
    "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction", "trigflow"],
    "predictor_order": [1],
    "rescale_betas_zero_snr": [True],
    "sample_max_value": [2.0],
    "sampling_eps": [1e-3],
    "set_alpha_to_one": [True, False],
    "shift_terminal": [0.1],
    "sigma_max": [20.0],
    "sigma_min": [0.1],
    "skip_prk_steps": [True],
    "snr": [0.1],
    "snr_shift_scale": [1.0, 2.0],
    "solver_order": [1, 3],
    "solver_p": [None],
    "solver_type": ["heun", "bh1", "logrho"],
    "steps_offset": [1],
    "tau_func": [None],
    "thresholding": [True],
    "time_shift_type": ["linear"],
    "timestep_spacing": ["leading", "linspace", "trailing"],
    "timestep_type": ["continuous", "discrete"],
    "trained_betas": [np.linspace(0.002, 0.01, 100)],
    "use_beta_sigmas": [True],
    "use_dynamic_shifting": [True],
    "use_exponential_sigmas": [True],
    "use_flow_sigmas": [True],
    "use_karras_sigmas": [True],
    "use_lu_lambdas": [True],
    "variance_type": ["fixed_small", "fixed_large", "learned", "learned_range"],
}
# Those that make a scheduler mean what no model here can be.
REFUSED = (
    "use_flow_sigmas=True",
    "use_dynamic_shifting=True",
    "interpolation_type='log_linear'",
    "prediction_type='flow_prediction'",
    "prediction_type='trigflow'",
)


def every_class() -> dict[str, type]:
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(diffusers.schedulers.__path__, "diffusers.schedulers."):
            for name, value in vars(importlib.import_module(module.name)).items():
                own = inspect.isclass(value) and value.__module__ == module.name
                if own and name.endswith("Scheduler") and hasattr(value, "from_config"):
                    found[name] = value
    return found


CLASSES = every_class()


def noise_to_data(scheduler: Any, timesteps: Tensor) -> Tensor:
    """Return `sigma / alpha` at these timesteps, by what the scheduler itself does to data."""
    one, zero = torch.ones(len(timesteps), 1), torch.zeros(len(timesteps), 1)
    noise = scheduler.add_noise(zero, one, timesteps)
    return (noise / scheduler.add_noise(one, zero, timesteps)).flatten().double()


def check_process(scheduler: Any, found: Meaning) -> None:
    """See that the process and the noise label are those that the scheduler uses itself."""
    if type(scheduler).__name__ == VE:
        scheduler.set_timesteps(10)
        scheduler.set_sigmas(10)
        times = scheduler.timesteps.double()
        torch.testing.assert_close(found.sde.sigma(times).float(), scheduler.sigmas, rtol=1e-5, atol=0)
        assert found.sde.t_min == scheduler.config.sampling_eps
        assert (found.prediction, found.noise_label, found.low) == ("score", "sigma", 0.0)
        return
    sde: Any = found.sde
    assert isinstance(sde, DDPMLadder)
    alpha_bar = scheduler.alphas_cumprod.double()
    rungs = torch.arange(len(alpha_bar))
    times = sde.time(rungs)
    torch.testing.assert_close(sde.alpha(times) ** 2, alpha_bar, rtol=1e-5, atol=0)
    # The library's are products of float32s near 1.
    torch.testing.assert_close(sde.sigma(times) ** 2, 1 - alpha_bar, rtol=1e-5, atol=1e-6)
    if not hasattr(scheduler, "add_noise") or type(scheduler).__name__ == "RePaintScheduler":
        return  # which refers to the others
    scheduler.set_timesteps(8)
    # Those of methods that evaluate between their steps are out of order, and the noise they add is not of them.
    labels = scheduler.timesteps[:: scheduler.order] if "sigmas" in vars(scheduler) else scheduler.timesteps
    theirs = noise_to_data(scheduler, labels)
    if found.noise_label == "edm":
        t = sde.time_at_log_snr(-2 * theirs.log())
        torch.testing.assert_close(NOISE_LABELS["edm"](sde, sde.at(t)), labels.double(), rtol=1e-4, atol=1e-4)
        return
    assert found.noise_label == "rung"
    torch.testing.assert_close(NOISE_LABELS["rung"](sde, sde.at(times)), rungs.double())
    # Between rungs they interpolate the noise level itself or its logarithm, or round the label.
    whole = bool((labels == labels.round()).all()) and "sigmas" not in vars(scheduler)
    margin = 0 if whole else 1
    rho = torch.exp(-0.5 * sde.log_snr(times))
    low, high = (
        rho[rung.long().clamp(0, len(rungs) - 1)] for rung in ((labels - margin).ceil(), (labels + margin).floor())
    )
    assert bool(((theirs >= low * (1 - 1e-3)) & (theirs <= high * (1 + 1e-3))).all())


def variations(scheduler_class: Any) -> Iterator[tuple[str, Any]]:
    """Each other value of each setting, and the scheduler with it, where the library allows it; of few rungs, since
    some make their tables slowly.
    """
    for key in inspect.signature(scheduler_class.__init__).parameters:
        if key in ("self", "kwargs"):
            continue
        for value in OTHERS[key]:
            try:
                yield f"{key}={value!r}", scheduler_class(**({"num_train_timesteps": 100} | {key: value}))
            except (NotImplementedError, ValueError):
                continue


def test_every_scheduler_of_the_library_is_here():
    assert {*LADDERS, *FLOWS, VE} <= CLASSES.keys()
    assert len(CLASSES) > 50


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in (*LADDERS, *FLOWS, VE)])
def test_other_schedulers_are_refused_by_name(name):
    with pytest.raises(UserError, match=rf"^{name} (is|has|scales|tells) .*: give scheduler_config\.json"):
        meaning(CLASSES[name](**NEEDED.get(name, {})))


@pytest.mark.parametrize("name", [*LADDERS, VE])
def test_every_setting_is_read_as_the_scheduler_does_or_refused_by_name(name):
    scheduler_class: Any = CLASSES[name]
    check_process(scheduler_class(), meaning(scheduler_class()))
    read, refused = 0, set()
    for setting, scheduler in variations(scheduler_class):
        if setting == "rescale_betas_zero_snr=True" and float(scheduler.alphas_cumprod[-1]) == 0:
            with pytest.raises(
                UserError, match=r"alphas_cumprod\[99\]=0, and prediction_type='epsilon': .* says nothing"
            ):
                meaning(scheduler)
            scheduler.register_to_config(prediction_type="v_prediction")
            check_process(scheduler, meaning(scheduler))
        elif setting in REFUSED:
            with pytest.raises(UserError, match=rf"^{name} has {re.escape(setting)}[:,]") as error:
                meaning(scheduler)
            assert str(error.value).isprintable()
            refused.add(setting)
        else:
            check_process(scheduler, meaning(scheduler))
            read += 1
    assert read >= 6
    assert bool(refused) == (name not in ("RePaintScheduler", VE))


def test_noise_levels_of_a_flow_are_refused():
    for scheduler in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"):
        with pytest.raises(UserError) as error:
            meaning(CLASSES[scheduler](use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0))
        assert str(error.value) == (
            f"{scheduler} has use_flow_sigmas=True: its noise levels are those of a flow then, not of its betas, which "
            "is not supported yet; if the network was trained otherwise, set it to False in "
            "scheduler_config.json"
        )


def test_continuous_labels_are_a_quarter_of_the_log_of_the_noise_level():
    scheduler = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    found: Any = meaning(scheduler)
    check_process(scheduler, found)
    ends = found.sde.at(found.sde.time(torch.tensor([999, 0])))
    labels = NOISE_LABELS[found.noise_label](found.sde, ends)
    assert labels.tolist() == pytest.approx([1.2647, -1.1513], abs=1e-4)
    check_process(
        log_linear := diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type="v_prediction", interpolation_type="log_linear"
        ),
        meaning(log_linear),
    )
    # Of other predictions the library makes nothing of it.
    assert meaning(diffusers.EulerDiscreteScheduler(timestep_type="continuous")).noise_label == "rung"
    for key in ("sigma_min", "sigma_max"):
        with pytest.raises(UserError, match=f"has {key}=8.0 and timestep_type='continuous'"):
            meaning(
                diffusers.EulerDiscreteScheduler(
                    timestep_type="continuous", prediction_type="v_prediction", **{key: 8.0}
                )
            )


class Told(torch.nn.Module):
    """Remembers what it was told, and returns a function of the state."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.labels = labels
        return torch.sin(3 * x) + 0.2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDPMScheduler", {"clip_sample": False}),
        ("DDIMScheduler", {"clip_sample": False, "beta_schedule": "scaled_linear"}),
        ("CogVideoXDDIMScheduler", {"clip_sample": False}),
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "timestep_type": "continuous"}),
        ("LMSDiscreteScheduler", {}),
    ],
)
def test_the_label_and_the_denoised_image_are_the_schedulers_own(name, settings, prediction):
    scheduler = CLASSES[name](prediction_type=prediction, **settings)
    sde, kind, labels, _ = meaning(scheduler)
    model = ScoreModel(network := Told(), sde, kind, labels, scale_input=False)
    scheduler.set_timesteps(8)
    x = torch.linspace(-1, 1, 7, dtype=torch.float64).reshape(1, 7)
    for timestep in scheduler.timesteps:
        rho = noise_to_data(scheduler, timestep[None])
        t = sde.time_at_log_snr(-2 * rho.log())
        # Their states are of variance 1 in some, and x_0 plus noise in others.
        state = x / torch.sqrt(1 + rho**2) if (scaled := "sigmas" in vars(scheduler)) else x
        theirs = scheduler.step(network(state, timestep), timestep, x).pred_original_sample
        ours = model.denoise(state if scaled else x, t)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3 * float(theirs.abs().max()))
        if not scaled or settings:
            assert math.isclose(float(network.labels), float(timestep), rel_tol=1e-2, abs_tol=2e-2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"snr_shift_scale": 3.0}, "has snr_shift_scale=3.0, which it ignores"),
        ({"timestep_type": "continuous"}, "has timestep_type='continuous', which it ignores"),
        ({"use_flow_sigmas": True}, "has use_flow_sigmas=True: its noise levels are those of a flow"),
        ({"shift": 3.0}, "has shift=3.0: its noise levels are those of a flow"),
        ({"predict_epsilon": False}, "has predict_epsilon=False: an old name: say prediction_type='sample' instead"),
        ({"sigma_data": 0.5}, "has sigma_data=0.5, which is not known here"),
        ({"of_the_future": "yes"}, "has of_the_future='yes', which is not known here"),
    ],
)
def test_settings_that_the_scheduler_does_not_know_itself(settings, said):
    diffusers.utils.logging.set_verbosity_error()
    meaning(diffusers.DDPMScheduler.from_config(dict.fromkeys(settings)))
    with pytest.raises(UserError) as error:
        meaning(diffusers.DDPMScheduler.from_config(settings))
    assert str(error.value).startswith(f"DDPMScheduler {said}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trained_betas": [0.1, 0.2, 1.0]}, r"has alphas_cumprod\[2\]=0, and prediction_type='epsilon'"),
        ({"trained_betas": [0.1, 1.0, 0.2], "prediction_type": "sample"}, r"has betas from "),
        ({"trained_betas": [0.1, -0.2, 0.3]}, r"has betas from -0\.2 to 0\.3"),
        ({"trained_betas": [0.1, float("nan"), 0.3]}, r"has betas from nan to nan"),
        ({"trained_betas": [0.1, 0.2]}, r"has 2 trained_betas, but num_train_timesteps=3"),
    ],
)
def test_tables_that_are_no_process(settings, said):
    with pytest.raises(UserError, match=said):
        meaning(diffusers.DDPMScheduler(num_train_timesteps=3, **settings))


def test_betas_are_used_as_they_are_where_alpha_bar_is_theirs():
    """To the last bit, since alpha_bar is rounded."""
    scheduler = diffusers.DDIMScheduler()
    found: Any = meaning(scheduler)
    assert torch.equal(found.sde.betas, scheduler.betas.double())
