"""Tables for solver `tuned`: made on demand, or by mode `tune`, and kept beside the checkpoint.

tuned.json                  for the model as it is
tuned_classes_1.5.json      for samples of classes, guided with this scale
tuned_prompts_7.json        for samples of prompts

A table serves the weights and the guidance that it was tuned to, whatever the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.interruption import keeping
from score_sde.common.progress import Progress
from score_sde.data.conditions import of_classes
from score_sde.data.units import Bins, Points
from score_sde.evaluation.watched import Watched
from score_sde.experiment import conditions
from score_sde.experiment.checkpoints import companions
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.prompts import led_away_from, number_of_prompts, prompted
from score_sde.experiment.solver import GITS, NUM_STEPS, make_solver, option_names
from score_sde.solvers.base import Model, Solver
from score_sde.solvers.fast.gits import gits_times, load_times, save_times
from score_sde.solvers.fast.learned_noise import learn_noise
from score_sde.solvers.fast.tuned import Kept, load_tables, save_tables, weights_digest
from score_sde.solvers.fast.tuning import num_examples, tune

# The number of steps of tables that are made for samples.
_NUM_TUNED_STEPS = 10
# The most training examples that samples are compared with.
_MOST_EXAMPLES = 4096


def solver_for(
    experiment: Experiment, default_steps: int = NUM_STEPS, with_classes: bool = False, with_prompts: bool = False
) -> Solver:
    """Return the solver of the section `sampling` for a model, or for it given classes or prompts; tables for `tuned`,
    and GITS's times, are made first."""
    sampling, options = experiment.config.sampling, dict[str, Any]()
    if sampling.threshold is not None and not isinstance(experiment.dataset.units, Bins | Points):
        raise UserError("sampling.threshold is for levels: latents, and numbers without levels, have no limits")
    if sampling.solver == "tuned":
        sampling.num_steps = sampling.num_steps or _NUM_TUNED_STEPS
        options["path"] = tuned_tables(
            experiment, [sampling.num_steps], sampling.learned_noise, with_classes, with_prompts
        )
        options |= {"eta": "learned"} if sampling.learned_noise else {}
    elif sampling.grid == GITS and "grid" in option_names(sampling.solver):
        sampling.num_steps = sampling.num_steps or default_steps
        options["grid"] = _gits_grid(experiment, sampling.num_steps)
    return make_solver(experiment.config, default_steps, **options)


def _gits_grid(experiment: Experiment, num_steps: int) -> list[float]:
    """Return so many times of a grid for the model, kept beside the checkpoint; they are found first, if need be."""
    model, t_min = experiment.model, experiment.config.sampling.t_min
    path = companions(experiment.folder, experiment.found) / f"gits_{num_steps}.json"
    if distributed.rank() == 0 and load_times(path, model.sde, t_min) is None:
        distributed.say(f"choosing {num_steps} times for this model")
        times = gits_times(model, num_steps, experiment.dataset.model_shape, t_min=t_min, device=distributed.device())
        save_times(path, times, model.sde)
    distributed.barrier()
    times_kept = load_times(path, model.sde, t_min)
    assert times_kept is not None
    return times_kept


def tuned_tables(
    experiment: Experiment,
    numbers: Sequence[int],
    noise: bool = False,
    with_classes: bool = False,
    with_prompts: bool = False,
) -> Path:
    """Return the file of tables for solver `tuned`; those that are missing are tuned first.

    Args:
        experiment: the model, and how the section `sampling` guides it.
        numbers: the numbers of steps that there are to be tables of.
        noise: whether amounts of noise are to be learned for them, too.
        with_classes: whether samples are asked to be of classes.
        with_prompts: whether they are asked for in words; tables are learned of the prompts of the section `sampling`,
            and serve others.

    Raises:
        UserError: the file is of another model, or tables are asked for that cannot be learned.
    """
    if with_prompts and (with_classes or noise):
        raise UserError("tables are learned for prompts, or for classes, or with noise: ask for one of these")
    if noise and experiment.config.sampling.reference is not None:
        raise UserError("noise is learned without guidance: leave out sampling.reference, or sampling.learned_noise")
    if noise and with_classes:
        raise UserError("noise is learned for samples of any class: leave out the classes, or sampling.learned_noise")
    path = companions(experiment.folder, experiment.found) / _name(experiment, with_classes, with_prompts)
    if distributed.rank() == 0:
        have = load_tables(path) if path.exists() else {}
        if any(kept.model not in ("", weights_digest(experiment.model)) for kept in have.values()):
            raise UserError(f"{path} was tuned to a model of other weights than this one's: delete it, or move it away")
        missing = sorted(set(numbers) - have.keys())
        if missing:
            if with_prompts and experiment.config.sampling.prompt is None:
                raise UserError(
                    f"there is no table of {missing[0]} steps for this guidance in {path}: make one, --mode tune "
                    f"--config.sampling.prompt=FILE.txt --config.sampling.guidance="
                    f"{experiment.config.sampling.guidance:g} --config.tuning.num_steps={missing[0]}"
                )
            have |= _tune(experiment, path, have, missing, with_classes, with_prompts)
        without = sorted(number for number in set(numbers) if have[number].amounts is None)
        if noise and without:
            _learn_noise(experiment, path, have, without)
    distributed.barrier()
    return path


def _name(experiment: Experiment, with_classes: bool, with_prompts: bool = False) -> str:
    sampling = experiment.config.sampling
    if not with_classes and not with_prompts and sampling.reference is None:
        return "tuned.json"
    parts = [f"{sampling.guidance:g}", *(f"{end:g}" for end in sampling.guidance_interval or ())]
    remedies = {
        "rescale": sampling.guidance_rescale or None,
        "parallel": None if sampling.guidance_parallel == 1 else sampling.guidance_parallel,
        "largest": sampling.guidance_largest,
    }
    parts += [f"{name}{value:g}" for name, value in remedies.items() if value is not None]
    parts += [name for name in ("classifier", "reference") if sampling[name]]
    parts += ["negative"] if with_prompts and sampling.negative_prompt is not None else []
    return f"tuned{'_classes' * with_classes}{'_prompts' * with_prompts}_{'_'.join(parts)}.json"


def _asked(experiment: Experiment, count: int, with_classes: bool, with_prompts: bool = False) -> Model:
    """Return the model of `count` samples: of all classes or prompts in turn, if they are asked to be of such."""
    config, dataset = experiment.config, experiment.dataset
    away = None
    if with_prompts:
        asked = prompted(config, dataset, number_of_prompts(config))
        assert asked is not None
        asked, away = asked[torch.arange(count) % len(asked)], led_away_from(config, dataset, count)
    else:
        asked = of_classes(torch.arange(count) % dataset.num_classes if with_classes else None)
    check_heard(config, dataset, asked, controls_of(experiment.model))
    if asked is None and config.sampling.reference is None:
        return experiment.model
    guides = conditions.find_guides(config, dataset, experiment.model.sde)
    return conditions.make_guidance(config, experiment.model, asked, guides, away)


def _tune(
    experiment: Experiment,
    path: Path,
    have: Mapping[int, Kept],
    numbers: Sequence[int],
    with_classes: bool,
    with_prompts: bool = False,
) -> dict[int, Kept]:
    """Make tables of these numbers of steps, and write them into the file `path`, beside those that it has."""
    named, shape, sde = ", ".join(map(str, numbers)), experiment.dataset.model_shape, experiment.model.sde
    model = _asked(experiment, num_examples(shape), with_classes, with_prompts)
    distributed.say(f"tuning samplers of {named} steps" if len(numbers) > 1 else f"tuning a sampler of {named} steps")
    with keeping(lambda: _kept(path)):
        with Progress("tuning") as bar:

            def report(number: int, iteration: int, error: float) -> None:
                bar.note = f"{number} steps, iteration {iteration}, held-out error {error:.3g}"

            tuned = tune(
                Watched(model, bar.call),
                numbers,
                shape,
                iterations=experiment.config.tuning.iterations,
                data_std=experiment.config.sampling.data_std or 0.5,
                device=distributed.device(),
                report=report,
            )
        digest = weights_digest(experiment.model)
        made = {n: Kept(one.table, sde.log_snr(one.table.times), None, digest) for n, one in tuned.items()}
        _save(path, {**have, **made}, experiment.model)
    for number, one in tuned.items():
        distributed.say(f"{path}: {number} steps, held-out error {one.error:.3g}, untuned {one.start_error:.3g}")
    return made


def _learn_noise(experiment: Experiment, path: Path, have: dict[int, Kept], numbers: Sequence[int]) -> None:
    """Learn amounts of noise for the tables of these numbers of steps, and write them into the file `path`."""
    dataset = experiment.dataset
    if not len(dataset.train):
        raise UserError("noise is learned from training examples, which are not here: leave out sampling.learned_noise")
    step = -(-len(dataset.train) // _MOST_EXAMPLES)
    data = dataset.encode(dataset.train[::step], seed=0).to(distributed.device())
    with keeping(lambda: _kept(path)):
        with Progress("learning noise") as bar:
            model = Watched(experiment.model, bar.call)
            for number in numbers:
                bar.note = f"{number} steps"
                have[number] = have[number]._replace(amounts=learn_noise(have[number].table, model, data))
        _save(path, have, experiment.model)
    for number in numbers:
        amounts = ", ".join(f"{amount:.2f}" for amount in have[number].amounts or ())
        distributed.say(f"{path}: {number} steps, noise of each {amounts}")


def _save(path: Path, tables: Mapping[int, Kept], model: Any) -> None:
    amounts = {number: kept.amounts for number, kept in tables.items() if kept.amounts is not None}
    plain = {number: kept.table for number, kept in tables.items()}
    save_tables(path, plain, model.sde, amounts, weights_digest(model))


def _kept(path: Path) -> str:
    return f"stopped while tuning samplers, which are not kept; those in {path} are; repeat the command to go on"
