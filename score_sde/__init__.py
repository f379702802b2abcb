"""Score-based generative modelling by stochastic differential equations: the public names.

    import score_sde
    from score_sde import VPSDE, GaussianMixture, ScoreModel, get_solver, log_likelihood

    ds = score_sde.load_dataset(path="photos", image_size=32, num_channels=3)
    ds.train, ds.test, ds.validation        uint8 (N, C, H, W) or float32 vectors (N, d), as training has them

A name is imported when it is first asked for, so that none pays for another. Everything else lies in the rooms, such as
`score_sde.solvers.density.bounds`. In a checkout the rooms lie beside this folder, and are found there all the same.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from score_sde.control import DPS, MMPS, TDS, Guided, LinearOperator, Observation, PiGDM
    from score_sde.data import Dataset, load_dataset
    from score_sde.evaluation.samples.ensembles import crps, spread_skill
    from score_sde.experiment.python import fit, load
    from score_sde.experiment.run import Run
    from score_sde.models import DDPM, EMA, MLP, GaussianMixture, NCSNpp, ScoreModel
    from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, LearnedSDE, NCSNLadder, RectifiedFlow, SubVPSDE
    from score_sde.solvers import (
        SOLVERS,
        decode,
        encode,
        get_solver,
        log_likelihood,
        matched_prior,
        sample_path,
        step_log_prob,
        tune_likelihood,
    )

_ROOM_OF = {
    "DPS": "control",
    "MMPS": "control",
    "TDS": "control",
    "Guided": "control",
    "LinearOperator": "control",
    "Observation": "control",
    "PiGDM": "control",
    "crps": "evaluation.samples.ensembles",
    "spread_skill": "evaluation.samples.ensembles",
    "Dataset": "data",
    "load_dataset": "data",
    "Run": "experiment.run",
    "fit": "experiment.python",
    "load": "experiment.python",
    "DDPM": "models",
    "EMA": "models",
    "GaussianMixture": "models",
    "MLP": "models",
    "NCSNpp": "models",
    "ScoreModel": "models",
    "DDPMLadder": "sde",
    "LearnedSDE": "sde",
    "NCSNLadder": "sde",
    "SDE": "sde",
    "RectifiedFlow": "sde",
    "SubVPSDE": "sde",
    "VESDE": "sde",
    "VPSDE": "sde",
    "SOLVERS": "solvers",
    "decode": "solvers",
    "encode": "solvers",
    "get_solver": "solvers",
    "log_likelihood": "solvers",
    "matched_prior": "solvers",
    "sample_path": "solvers",
    "step_log_prob": "solvers",
    "tune_likelihood": "solvers",
}

__all__ = [
    "DDPM",
    "DPS",
    "EMA",
    "MLP",
    "MMPS",
    "SDE",
    "SOLVERS",
    "TDS",
    "VESDE",
    "VPSDE",
    "DDPMLadder",
    "Dataset",
    "GaussianMixture",
    "Guided",
    "LearnedSDE",
    "LinearOperator",
    "NCSNLadder",
    "NCSNpp",
    "Observation",
    "PiGDM",
    "RectifiedFlow",
    "Run",
    "ScoreModel",
    "SubVPSDE",
    "crps",
    "decode",
    "encode",
    "fit",
    "get_solver",
    "load",
    "load_dataset",
    "log_likelihood",
    "matched_prior",
    "sample_path",
    "spread_skill",
    "step_log_prob",
    "tune_likelihood",
]

_HERE = Path(__file__).parent
if not (_HERE / "sde").is_dir():
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> Any:
    """Import a public name from its room (PEP 562)."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'score_sde' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"score_sde.{_ROOM_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
