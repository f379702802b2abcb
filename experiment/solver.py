"""From the section `sampling` of a configuration to a solver; tables for `tuned` are made on demand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.errors import UserError, choose
from score_sde.common.interruption import keeping
from score_sde.common.progress import Progress
from score_sde.evaluation.watched import Watched
from score_sde.experiment import own
from score_sde.experiment.checkpoints import companions
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.texts import read_texts
from score_sde.solvers import SOLVERS, get_solver
from score_sde.solvers.base import Solver
from score_sde.solvers.fast.gits import gits_times, load_times, save_times
from score_sde.solvers.fast.named import FAST_SOLVERS
from score_sde.solvers.fast.thresholding import Threshold, dynamic_threshold, static_threshold
from score_sde.solvers.fast.tuned import save_table, table_path
from score_sde.solvers.fast.tuning import tune
from score_sde.solvers.grids import NoStepsError

THRESHOLDS: dict[str, Callable[[float, float], Threshold]] = {"static": static_threshold, "dynamic": dynamic_threshold}

# The options of solvers that are about the model.
_SHARED_OPTIONS = ("t_min", "data_std")

# The keys of the section `sampling` that are no options of the solver.
_NOT_OPTIONS = (
    "solver",
    "num_samples",
    "batch_size",
    "labels",
    "guidance",
    "guidance_interval",
    "classifier",
    "metrics",
    "inception",
    "copies",
)
# The number of steps of solvers that have no default of their own, and of tables that are made for samples.
_NUM_STEPS = 20
_NUM_TUNED_STEPS = 10
# The grid that is chosen for the model.
GITS = "gits"


def make_solver(config: ConfigDict, default_steps: int = _NUM_STEPS, **more: Any) -> Solver:
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
        known = _parameters(sampling.solver)
        given = {"num_steps": default_steps, **options} if known else {}
        return own.make("solver", sampling.solver, Solver, given)  # type: ignore[type-abstract]
    try:
        return get_solver(sampling.solver, **options, **more)
    except NoStepsError:
        return get_solver(sampling.solver, **options, **more, num_steps=default_steps)


def ignored_options(config: ConfigDict) -> set[str]:
    """Return the options given in the section `sampling` that its solver does not have."""
    return set(solver_options(config)) - set(_parameters(config.sampling.solver))


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
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


def solver_for(experiment: Experiment, default_steps: int = _NUM_STEPS) -> Solver:
    """Return the solver of the section `sampling` for a model; tables for solver `tuned`, and GITS's times, first."""
    sampling = experiment.config.sampling
    options: dict[str, Any] = {}
    if sampling.solver == "tuned":
        sampling.num_steps = sampling.num_steps or _NUM_TUNED_STEPS
        options["path"] = tuned_tables(experiment, [sampling.num_steps])
    elif sampling.grid == GITS and "grid" in _parameters(sampling.solver):
        sampling.num_steps = sampling.num_steps or default_steps
        options["grid"] = _gits_grid(experiment, sampling.num_steps)
    return make_solver(experiment.config, default_steps, **options)


def _gits_grid(experiment: Experiment, num_steps: int) -> list[float]:
    """Return so many times of a grid for the model, kept beside the checkpoint; they are found first, if need be."""
    model, t_min = experiment.model, experiment.config.sampling.t_min
    path = companions(experiment.folder, experiment.found) / f"gits_{num_steps}.json"
    if distributed.rank() == 0 and load_times(path, model.sde, t_min) is None:
        distributed.say(f"choosing {num_steps} times for this model")
        times = gits_times(model, num_steps, experiment.dataset.shape, t_min=t_min, device=distributed.device())
        save_times(path, times, model.sde)
    distributed.barrier()
    times_kept = load_times(path, model.sde, t_min)
    assert times_kept is not None
    return times_kept


def tuned_tables(experiment: Experiment, budgets: Sequence[int]) -> Path:
    """Return the folder of tables for solver `tuned`, beside the checkpoint; those that are missing are tuned first."""
    tables = companions(experiment.folder, experiment.found)
    for num_steps in budgets:
        if distributed.rank() == 0 and not table_path(tables, num_steps).exists():
            _tune(experiment, tables, num_steps)
    distributed.barrier()
    return tables


def _tune(experiment: Experiment, tables: Path, num_steps: int) -> None:
    """Make the table of `num_steps` steps for solver `tuned`, and write it into the folder `tables`."""
    distributed.say(f"tuning a sampler of {num_steps} steps")

    def kept() -> str:
        return (
            f"stopped while tuning a sampler of {num_steps} steps, which is not kept; those in {tables} are; repeat "
            "the command to go on"
        )

    with keeping(kept):
        with Progress("tuning") as bar:

            def report(iteration: int, error: float) -> None:
                bar.note = f"iteration {iteration}, held-out error {error:.3g}"

            tuned = tune(
                Watched(experiment.model, bar.call),
                num_steps,
                experiment.dataset.shape,
                data_std=experiment.config.sampling.data_std or 0.5,
                device=distributed.device(),
                report=report,
            )
        path = table_path(tables, num_steps)
        save_table(path, tuned.table, experiment.model.sde)
    distributed.say(f"{path}: held-out error {tuned.error:.3g}, untuned {tuned.start_error:.3g}")
