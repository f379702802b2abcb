"""Solvers: a model in, numbers out. Each knows a model only by `.sde`, `.score(x, t)` and `.denoise(x, t)`."""

from solvers.likelihood import Likelihood, log_likelihood, matched_prior
from solvers.ode import decode, encode
from solvers.registry import SOLVERS, get_solver
from solvers.solution import Model, Solution

__all__ = [
    "SOLVERS",
    "Likelihood",
    "Model",
    "Solution",
    "decode",
    "encode",
    "get_solver",
    "log_likelihood",
    "matched_prior",
]
