"""From the section `sampling` of a configuration to a solver."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError, choose
from score_sde.experiment import own
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.texts import read_texts
from score_sde.solvers import SOLVERS, get_solver
from score_sde.solvers.base import Solver
from score_sde.solvers.fast.named import FAST_SOLVERS
from score_sde.solvers.fast.thresholding import Threshold, dynamic_threshold, static_threshold
from score_sde.solvers.grids import NoStepsError
from score_sde.solvers.ode.integrator import METHODS, Integrator

THRESHOLDS: dict[str, Callable[[float, float], Threshold]] = {"static": static_threshold, "dynamic": dynamic_threshold}

# The options of solvers that are about the model.
_SHARED_OPTIONS = ("t_min", "data_std")

# The keys of the section `sampling` that are no options of the solver.
_NOT_OPTIONS = (
    "solver",
    "num_samples",
    "batch_size",
    "labels",
    "prompt",
    "negative_prompt",
    "condition",
    "controls",
    "control_scales",
    "low_resolution_noise",
    "prior",
    "guidance",
    "guidance_interval",
    "guidance_rescale",
    "guidance_parallel",
    "guidance_largest",
    "reference",
    "classifier",
    "metrics",
    "inception",
    "copies",
    "learned_noise",
    "variance",
)
# The number of steps of solvers that have no default of their own.
NUM_STEPS = 20
# The grid that is chosen for the model.
GITS = "gits"


def make_solver(config: ConfigDict, default_steps: int = NUM_STEPS, **more: Any) -> Solver:
    """Make the solver of the section `sampling`, with those options that are given and that it has, and `more`.

    Solvers that need a number of steps have `default_steps`, unless it is given, or the grid says it. Where the grid is
    to be chosen for the model and is not among `more`, the solver has its own.
    """
    sampling = config.sampling
    ignored = ignored_options(config)
    options = {name: value for name, value in solver_options(config).items() if name not in ignored}
    if options.get("grid") == GITS:
        if sampling.solver not in FAST_SOLVERS:
            raise UserError(f"grid {GITS} is for solvers of the fast family, such as ipndm, not for {sampling.solver}")
        del options["grid"]
    if own.is_own(sampling.solver):
        known = option_names(sampling.solver)
        given = {"num_steps": default_steps, **options} if known else {}
        return own.make("solver", sampling.solver, Solver, given)  # type: ignore[type-abstract]
    try:
        return get_solver(sampling.solver, **(options | more))
    except NoStepsError:
        return get_solver(sampling.solver, **(options | more), num_steps=default_steps)


def chooses_steps(solver: str | Solver, method: str | None) -> bool:
    """Say whether steps are those of an ODE method, `sampling.method`, that chooses them."""
    return solver == "ode" and not (method in METHODS and Integrator(method).takes_fixed_steps)


def drop_steps_of_another_solver(config: ConfigDict, given: Collection[str]) -> None:
    """Leave out, in place, steps that were for another solver, where an ODE solver was asked for that chooses its own.

    Args:
        config: the configuration.
        given: the dotted keys that were set by hand, which remain.
    """
    for name, keys in (("sampling", ("num_steps", "grid")), ("edit", ("num_steps",))):
        if f"{name}.solver" in given and chooses_steps(config[name].solver, config.sampling.method):
            config[name].update({key: None for key in keys if f"{name}.{key}" not in given})


def ignored_options(config: ConfigDict) -> set[str]:
    """Return the options given in the section `sampling` that its solver does not have."""
    return set(solver_options(config)) - set(option_names(config.sampling.solver))


def option_names(name: str) -> Mapping[str, inspect.Parameter]:
    """Return the options that the solver of this name has; none for an object that was handed over."""
    if not own.is_own(name):
        return inspect.signature(choose("solver", name, SOLVERS)).parameters
    made = own.find("solver", name)
    return {} if isinstance(made, Solver) else inspect.signature(made).parameters


def note_ignored(experiment: Experiment) -> None:
    """Note which of the options set by hand the solver does not have."""
    solver = experiment.config.sampling.solver
    ignored = ignored_options(experiment.config)
    if solver == "tuned":
        ignored -= {"data_std"}  # tuning uses it all the same
    for key, _ in experiment.overrides:
        if key.removeprefix("sampling.") in ignored and key.startswith("sampling."):
            distributed.note(f"solver {solver!r} does not use {key}")


def solver_options(config: ConfigDict) -> dict[str, Any]:
    """Return the options for solvers that the section `sampling` gives."""
    given = {name: value for name, value in config.sampling.items() if name not in _NOT_OPTIONS and value is not None}
    options = read_texts(given)
    if "threshold" in options:
        threshold = choose("threshold", options["threshold"], THRESHOLDS)
        options["threshold"] = threshold(config.data.low, config.data.high)
    return options


def shared_options(sampling: ConfigDict) -> dict[str, Any]:
    """Return the options given in the section `sampling` that are about the model, not about one solver."""
    return {name: sampling[name] for name in _SHARED_OPTIONS if sampling[name] is not None}
