"""Solvers: a model in, numbers out. Each knows a model only by `.sde`, `.score(x, t)` and `.denoise(x, t)`."""

from score_sde.solvers.base import Model, Solution, Solver
from score_sde.solvers.density.likelihood import Likelihood, log_likelihood, matched_prior
from score_sde.solvers.density.tuned import TunedLikelihood
from score_sde.solvers.density.tuning import tune_likelihood
from score_sde.solvers.ode.solver import decode, encode
from score_sde.solvers.registry import SOLVERS, get_solver
from score_sde.solvers.stochastic.step_log_prob import SampledPath, StepLogProb, sample_path, step_log_prob
from score_sde.solvers.trajectory import State

__all__ = [
    "SOLVERS",
    "Likelihood",
    "Model",
    "SampledPath",
    "Solution",
    "Solver",
    "State",
    "StepLogProb",
    "TunedLikelihood",
    "decode",
    "encode",
    "get_solver",
    "log_likelihood",
    "matched_prior",
    "sample_path",
    "step_log_prob",
    "tune_likelihood",
]
