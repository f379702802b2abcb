r"""What a scheduler of the library diffusers says of the process, the label and the output of its network.

| scheduler                       | process                             | label at t          | the network returns   |
|---------------------------------|-------------------------------------|---------------------|-----------------------|
| `LADDERS` (DDPM, DDIM, PNDM, …) | DDPM's ladder of its alpha_bar      | the rung, from 0    | by `prediction_type`: |
|   … `timestep_type=continuous`, |   (`alphas_cumprod`; its `betas`,   | `log(sigma/alpha)   | noise, velocity,      |
|   `prediction_type=v_prediction`|   where these are the same thing)   |   / 4`              | denoised image        |
| `ScoreSdeVeScheduler`           | VE, its sigma_min and sigma_max     | sigma               | the score             |
| `FLOWS`                         | `x = (1 - t) x_0 + t eps`           | `N t`               | the flow, `eps - x_0` |

A scheduler is a process and a way of sampling in one, so that its settings are of three kinds: those that only choose
steps or a rule for them (`SAMPLING`), those that are read here (`_READ`), and those that make the process, the label or
the output another one than in the table (`_NEUTRAL`, with the values at which they do not). Anything else, a class or
a setting of a newer version, say, is refused by its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from score_sde.common.errors import UserError, nearest
from score_sde.models.pretrained.diffusers_flow import FLOWS, TIMES, flow_process
from score_sde.sde import SDE, VESDE, DDPMLadder

VE = "ScoreSdeVeScheduler"
LADDERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "SASolverScheduler",
    "RePaintScheduler",
    "UnCLIPScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "DPMSolverMultistepInverseScheduler",
)

_EDM = "scales its network's input and output by sigma_data (EDM), which the network's own files do not say"
_FLOW_MAP = "is for flow maps, whose network is told two times"
_CONSISTENCY = "is for consistency models, whose output is the end of a trajectory, so that they have no score"
_REFUSED = {
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "CosineDPMSolverMultistepScheduler": _EDM,
    "KarrasVeScheduler": "tells its network half of sigma, of images in other units than it draws",
    "FlowMapEulerDiscreteScheduler": _FLOW_MAP,
    "FlowMatchLCMScheduler": _CONSISTENCY,
    "LCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
    "CMStochasticIterativeScheduler": _CONSISTENCY,
    "ConsistencyDecoderScheduler": _CONSISTENCY,
    "SCMScheduler": _CONSISTENCY,
    "IPNDMScheduler": "has a process of its own, whose betas are noise levels and whose labels are parts of 1",
}
_WAY_OUT = "give scheduler_config.json (and model_index.json) the scheduler that the network was trained with"

# These change sampling, and neither the process nor what the network is told and returns.
SAMPLING = frozenset(
    {
        # Some choose which of the ladder's rungs are steps …
        "timestep_spacing",
        "steps_offset",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "lambda_min_clipped",
        "sigma_min",
        "sigma_max",
        # … and how the last step ends.
        "final_sigmas_type",
        "set_alpha_to_one",
        "set_alpha_to_zero",
        # Some rearrange the times of flows, which are refused.
        "flow_shift",
        "time_shift_type",
        # Some choose the rule for a step.
        "solver_order",
        "solver_type",
        "solver_p",
        "algorithm_type",
        "predict_x0",
        "predictor_order",
        "corrector_order",
        "disable_corrector",
        "lower_order_final",
        "euler_at_final",
        "skip_prk_steps",
        # Some say how much noise a step adds. (Of a network that predicts variances too, they are left out.)
        "variance_type",
        "tau_func",
        "eta",
        "noise_sampler_seed",
        "snr",
        "correct_steps",
        # Some change denoised images in between.
        "clip_sample",
        "clip_sample_range",
        "thresholding",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        # These remain from the time when the library had other frameworks beside PyTorch.
        "tensor_format",
    }
)

# Settings that are read have these values when a file does not name them. Some schedulers ignore some of them.
_READ: dict[str, Any] = {
    "num_train_timesteps": None,
    "beta_start": None,
    "beta_end": None,
    "beta_schedule": None,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
    "prediction_type": "epsilon",
    "timestep_type": "discrete",
    "interpolation_type": "linear",
    "sampling_eps": None,
}

_FLOW_SIGMAS = "its noise levels are those of a flow then, not of its betas, which is not supported yet"
_NEUTRAL: dict[str, tuple[Any, str]] = {
    "use_flow_sigmas": (False, _FLOW_SIGMAS),
    "use_dynamic_shifting": (False, _FLOW_SIGMAS),
    "shift_terminal": (None, _FLOW_SIGMAS),
    "shift": (1.0, _FLOW_SIGMAS),
    "predict_epsilon": (True, "an old name: say prediction_type='sample' instead"),
}

_PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "denoised"}

# alpha_bar is a float32 product of up to some thousand factors, which is so far from a float64 one.
_ROUNDING = 5e-6


class Meaning(NamedTuple):
    """A scheduler says how its network is to be used.

    Attributes:
        sde: the forward process.
        prediction: what the network returns, a key of `models.score_model.PARAMETRISATIONS`.
        noise_label: what the network is told of the time, a key of `models.preconditioning.NOISE_LABELS`, or a
            function of it.
        low: what stands for black; white is 1.
    """

    sde: SDE
    prediction: str
    noise_label: str | Callable[[Tensor], Tensor]
    low: float


def check_class(name: str) -> None:
    """Check that the process of a scheduler class is known.

    Raises:
        UserError: the class is not in the table.
    """
    if name == VE or name in LADDERS or name in FLOWS:
        return
    why = _REFUSED.get(name, f"is not a scheduler whose process is known here{nearest(name, (*LADDERS, *FLOWS, VE))}")
    raise UserError(f"{name} {why}: {_WAY_OUT}, if that was one with betas, such as {LADDERS[0]}, or {VE}")


def meaning(scheduler: Any) -> Meaning:
    """Return what a scheduler says of process, label and output, by the table above.

    Raises:
        UserError: its class, or one of its settings, means something that is not in the table; it is named.
    """
    name, settings = type(scheduler).__name__, scheduler.config
    check_class(name)
    if name in FLOWS:
        return _meaning_of_flow(name, settings)
    taken = inspect.signature(type(scheduler).__init__).parameters
    for key, value in settings.items():
        _check_setting(name, key, value, ignored=key not in taken)
    if name == VE:
        sde = VESDE(settings.sigma_min, settings.sigma_max, settings.sampling_eps)
        return Meaning(sde, "score", "sigma", low=0.0)
    prediction = settings.get("prediction_type") or "epsilon"
    if prediction not in _PREDICTIONS:
        raise UserError(f"{name} has prediction_type={prediction!r}, which is not one of {', '.join(_PREDICTIONS)}")
    noise_label = _ladder_label(name, settings)
    return Meaning(DDPMLadder(_betas(name, scheduler)), _PREDICTIONS[prediction], noise_label, low=-1.0)


def _meaning_of_flow(name: str, settings: Any) -> Meaning:
    """Return what a scheduler of flows says; all that it has besides chooses times."""
    for key, value in settings.items():
        if key == "invert_sigmas" and value:
            raise UserError(f"{name} has invert_sigmas=True: its network counts time from noise to data, not read here")
        if not (key.startswith("_") or key in TIMES or key in SAMPLING or key == "num_train_timesteps"):
            _check_known(name, key, value)
    process, count = flow_process(settings), settings.get("num_train_timesteps", 1000)
    return Meaning(process, "flow", lambda t: count * t, low=-1.0)


def _check_setting(name: str, key: str, value: Any, ignored: bool) -> None:
    """Raise UserError if this setting makes the scheduler mean something else than the table says.

    Args:
        name: the scheduler's class.
        key: the setting's name.
        value: the setting's value.
        ignored: whether the class knows no such setting.
    """
    if key.startswith("_") or key in SAMPLING:
        return
    if key in _NEUTRAL:
        neutral, why = _NEUTRAL[key]
        if value is not None and value != neutral:
            raise UserError(
                f"{name} has {key}={value!r}: {why}; if the network was trained otherwise, set it to {neutral!r} in "
                "scheduler_config.json"
            )
    elif key in _READ:
        if ignored and value is not None and value != _READ[key]:
            raise UserError(
                f"{name} has {key}={value!r}, which it ignores: remove it from scheduler_config.json if the network "
                "was trained without, or name the scheduler that it was trained with"
            )
    else:
        _check_known(name, key, value)


def _check_known(name: str, key: str, value: Any) -> None:
    """Raise UserError for a setting that is not known, unless it says no."""
    if value is not None and value is not False:
        raise UserError(
            f"{name} has {key}={value!r}, which is not known here: if it has to do with sampling only, not with what "
            "the network was trained on, remove it from scheduler_config.json"
        )


def _ladder_label(name: str, settings: Any) -> str:
    kind = settings.get("timestep_type") or "discrete"
    if kind not in ("discrete", "continuous"):
        raise UserError(f"{name} has timestep_type={kind!r}: known are discrete and continuous")
    # For other predictions the library tells rungs all the same.
    if kind == "discrete" or settings.get("prediction_type") != "v_prediction":
        if settings.get("interpolation_type") not in (None, "linear"):
            raise UserError(
                f"{name} has interpolation_type={settings['interpolation_type']!r}: it tells its network the rungs of "
                "other noise levels than those of its betas then; if the network was trained otherwise, set it to "
                "'linear'"
            )
        return "rung"
    for key in ("sigma_min", "sigma_max"):
        if settings.get(key) is not None:
            raise UserError(
                f"{name} has {key}={settings[key]!r} and timestep_type='continuous', so that its noise levels are not "
                "those of its betas, and which ones it was trained on is not known: remove it if it was on these"
            )
    return "edm"


def _betas(name: str, scheduler: Any) -> Tensor:
    """Return the betas of the scheduler's alpha_bar, float64."""
    betas, alpha_bar = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    count = scheduler.config.num_train_timesteps
    if len(betas) != count:
        raise UserError(f"{name} has {len(betas)} trained_betas, but num_train_timesteps={count}: they must agree")
    if not torch.allclose((1 - betas).cumprod(0), alpha_bar, rtol=_ROUNDING, atol=0):
        betas = 1 - alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    if float(betas[-1]) == 1 and (scheduler.config.get("prediction_type") or "epsilon") == "epsilon":
        raise UserError(
            f"{name} has alphas_cumprod[{count - 1}]=0, and prediction_type='epsilon': at alpha(T) = 0, pure noise, "
            "that says nothing of the data; networks for it predict v_prediction or sample"
        )
    if not bool(((betas > 0) & (betas < 1))[:-1].all() & (betas[-1] > 0) & (betas[-1] <= 1)):
        low, high = float(betas.min()), float(betas.max())
        raise UserError(f"{name} has betas from {low:.4g} to {high:.4g}, but each must lie between 0 and 1")
    return betas
