"""Solvers: a model in, numbers out. Each knows a model only by `.sde`, `.score(x, t)` and `.denoise(x, t)`."""

from solvers.registry import SOLVERS, get_solver
from solvers.solution import Model, Solution

__all__ = ["SOLVERS", "Model", "Solution", "get_solver"]
