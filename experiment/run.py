"""A trained run from Python: `load` or `fit` gives one, and it samples, measures densities, encodes and decodes.

    run = load("runs/digits")
    run.sample(64, seed=0)           examples, as `run.dataset.train` holds them
    run.bits_per_dim(x)              one number an example
    run.fill(x, given=known)         what is missing of examples, given the rest

Examples go in and come out in the units and the format of the data: NumPy arrays or tensors, one or many. What is not
asked for otherwise is as the run's configuration has it, so that numbers are those of the command line, to the last
bit: sample `i` has the seed `seed + i`, and so has the noise by which example `i` is measured.

Nothing here needs the data that the run was trained on: their shape, classes, units and scale are in its checkpoint.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents
from score_sde.experiment import (
    build,
    checks,
    conditions,
    configuration,
    controls,
    differentiable,
    filling,
    moving,
    own,
    redrawing,
    sampling,
)
from score_sde.experiment.arrays import as_array, as_examples
from score_sde.experiment.asked import beside_given
from score_sde.experiment.composed_posterior import ComposedPosterior
from score_sde.experiment.condition_values import check_heard, condition_of, observed
from score_sde.experiment.editing import NUM_STEPS
from score_sde.experiment.embeddings import embed, of_embeddings
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.joint_embedding import check_joint_embedding
from score_sde.experiment.likelihood import make_measurement
from score_sde.experiment.parts import is_told_of_parts, shown_levels
from score_sde.experiment.posterior import Posterior
from score_sde.experiment.ranking import bounds_of_each
from score_sde.experiment.solver import chooses_steps, drop_steps_of_another_solver
from score_sde.models import Given, rows_of
from score_sde.solvers import decode, encode
from score_sde.solvers.base import Solution, Solver

Examples = np.ndarray | Tensor | Sequence[Any]


class Run:
    """A run holds a trained model, and answers questions about it.

    Args:
        experiment: the model, with its configuration, the description of its data and its folder.

    Attributes:
        model: the model: `.sde`, `.score(x, t)` and `.denoise(x, t)`, in model units.
        config: the configuration.
        folder: the folder of the run.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.model = experiment.model
        self.config: ConfigDict = experiment.config
        self.folder = experiment.folder

    def __repr__(self) -> str:
        """Return what the run is of."""
        data = self._experiment.dataset
        return f"Run({data.kind} {data.name} of shape {data.shape}, {self._experiment.path})"

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that the run was trained on, with its examples, in the units of the run; read when asked for.

        Raises:
            UserError: the data are not there any more.
        """
        described = self._experiment.dataset
        if len(described.train):
            return described
        dataset = of_embeddings(self.config, build.make_dataset(self.config))
        if isinstance(described.units, Latents):
            dataset = replace(dataset, units=described.units)
        dataset.check_like(described.description, build.knows_classes(self.config), repr(self))
        return dataset.in_units_of(described.description)

    def sample(
        self,
        num_samples: int | None = None,
        *,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Draw samples, `(N, *shape)`, in data units and the data's dtype: levels as uint8.

        Args:
            num_samples: how many; like whatever is left out, as the configuration has it.
            condition: the class of all samples, by its name or number, or of each, a list; or, in data units, what else
                they are conditioned on, of all or of each; or several of these by name.
            seed: sample `i` is drawn with `seed + i`.
            solver: a name, or a solver.
            num_steps: the solver's number of steps.
            guidance: scale of the guidance towards the condition.
            options: further keys of the section `sampling`, such as `batch_size`, `eta` or `t_min`.

        Raises:
            UserError: there is no such option, class or condition.
        """
        asked, count = self._asked(condition, num_samples)
        experiment = self._sampling(count, seed, solver, {"num_steps": num_steps, "guidance": guidance, **options})
        asked = None if asked is None else beside_given(experiment.config, experiment.dataset, asked)
        x = sampling.sample(experiment, asked).samples.x
        return self._experiment.dataset.units.decode(x).numpy()

    def fill(
        self,
        x: Examples,
        num_samples: int | None = None,
        *,
        given: Any = None,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        num_steps: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Return examples with what is missing of them drawn given the rest, in data units; the rest is as it was.

        A model that was trained for this (`data.masks`, `data.missing`) draws it itself; another one by ΠGDM.

        Args:
            x: examples, NaN where they are not known.
            num_samples: how often each is filled; the answer then has shape `(num_samples, *x.shape)`. Once, in the
                shape of `x`, if left out.
            given: which numbers are known, truths of the shape of `x`, or of one example; what is not NaN, if left out.
            condition: the class of all examples, or of each.
            seed: sample `j` of example `i` of `N` is drawn with `seed + j N + i`.
            solver: a name, or a solver; like the rest as of `sample`.
            num_steps: the solver's number of steps.
            options: further keys of the section `sampling`, such as `prompt` and `guidance`.

        Raises:
            UserError: nothing is missing of an example, or there is no such option, class or condition.
        """
        examples, known, alone = filling.read_known(self._experiment.dataset, x, given)
        if solver is None and not filling.draws_itself(self._experiment):
            solver, num_steps = self.config.edit.solver, num_steps or self.config.edit.num_steps
            num_steps = num_steps or self._num_steps(solver, options, NUM_STEPS)
        times = 1 if num_samples is None else num_samples
        experiment = self._sampling(times * len(examples), seed, solver, {"num_steps": num_steps, **options})
        told = None if condition is None else self._condition(condition, len(examples))
        return self._shaped(filling.fill(experiment, examples, known, told), alone, num_samples)

    def redraw(
        self,
        x: Examples,
        strength: float = 0.5,
        num_samples: int | None = None,
        *,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        num_steps: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Return examples drawn again from the noise of a strength on (SDEdit), in data units.

        Args:
            x: examples.
            strength: how far the way to noise is gone, in parts of it: near 0 examples come back, at 1 they are new.
            num_samples: how often each is drawn; shapes and seeds are as of `fill`.
            condition: as of `sample`, like the rest: `prompt`, `guidance` …

        Raises:
            UserError: there is no such option, class or condition, or the strength is out of range.
        """
        examples, alone = as_examples(self._experiment.dataset, x)
        times = 1 if num_samples is None else num_samples
        experiment = self._sampling(times * len(examples), seed, solver, {"num_steps": num_steps, **options})
        told = None if condition is None else self._condition(condition, len(examples))
        units = self._experiment.dataset.units
        drawn = redrawing.redraw(experiment, units.encode(examples), strength, told)
        answers = units.decode(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2])
        return self._shaped(answers, alone, num_samples)

    def log_prob(
        self, x: Examples, *, condition: Any = None, given: Any = None, seed: int | None = None, **options: Any
    ) -> Any:
        """Return the log-density of examples in data units, in nats, `(N,)` float64, or one number for one example.

        Of examples that lack numbers, which are NaN, it is that of the numbers that they have (with `data.missing`).

        Of levels it is the bound on their log-probability that dequantisation gives. Where `x` is a tensor that wants
        gradients, so is the answer.

        Args:
            x: examples, as `run.dataset.train` has them.
            condition: that of all examples, or of each; as of `sample`.
            given: which numbers of an example are conditioned on, truths of its shape, or of that of `x`; the density
                is that of the others then.
            seed: the noise of example `i` is that of `seed + i`.
            options: further keys of the section `likelihood`, such as `divergence` or `rtol`.

        Raises:
            UserError: examples are not of the shape of the data, or there is no such option or density.
        """
        if isinstance(x, Tensor) and x.requires_grad:
            if given is not None:
                raise UserError("a density given some of the numbers is not differentiated: leave out given")
            experiment = self._with("likelihood", seed, options)
            return differentiable.log_prob(experiment, lambda count: self._given(condition, count), x)
        examples, alone = as_examples(self._experiment.dataset, x, gaps=self.config.data.missing)
        log_prob = self._measured(examples, condition, seed, options, given).numpy()
        return float(log_prob[0]) if alone else log_prob

    def rank(self, x: Examples, conditions: Any, *, seed: int | None = None, **options: Any) -> np.ndarray:
        """Return a bound on `log p(x | c)` under each of K conditions, such as captions, `(N, K)`, in nats, float64.

        The larger, the likelier; of one example `(K,)`. Noise is the same under all, so that differences are sharp.

        Args:
            x: examples, as `run.dataset.train` has them.
            conditions: several, as of `sample`.
            seed: the noise of example `i` is that of `seed + i`.
            options: further keys of the section `likelihood`, such as `bound_calls`, network calls a condition.

        Raises:
            UserError: as of `log_prob`, or the model has no bound.
        """
        examples, alone = as_examples(self._experiment.dataset, x)
        asked = observed(self.config, self._experiment.dataset, conditions)
        experiment = self._with("likelihood", seed, {"bounds": ("continuous",), **options})
        found = bounds_of_each(experiment, examples, self._condition(asked, len(asked))).numpy()
        return found[0] if alone else found

    def posterior(self, x: Any = None, *, prior: Any = None) -> Posterior:
        """Return the posterior of what the model is of, such as a simulator's parameters, given what was observed.

        Args:
            x: an observation, as a condition of `sample`; or several independent ones of the same parameters, rows;
                None if each question says it.
            prior: of several: None for the model's own; "uniform", in the box that the run was fitted with; or
                `(mean, covariance)` of a Gaussian, in data units.
        """
        rows = None if x is None else observed(self.config, self._experiment.dataset, x)
        if rows is not None and len(rows) > 1:
            return ComposedPosterior(self, self._experiment, rows, prior, self._drawn)
        return Posterior(self, self._experiment, x)

    def bits_per_dim(self, x: Examples, *, condition: Any = None, seed: int | None = None, **options: Any) -> Any:
        """Return `-log2 p(x) / d` of examples, `(N,)` float64, or one number for one; arguments as of `log_prob`.

        Of what has no levels it is a density in data units, and may be negative; `d` are the numbers that are there.
        """
        examples, alone = as_examples(self._experiment.dataset, x, gaps=self.config.data.missing)
        count = (~examples.isnan()).flatten(1).sum(1).numpy()
        bits = -self._measured(examples, condition, seed, options).numpy() / (count * np.log(2))
        return float(bits[0]) if alone else bits

    def encode(self, x: Examples, *, condition: Any = None, **options: Any) -> np.ndarray:
        """Return the latents at `T` of examples, by the probability flow ODE; `decode` goes back.

        Args:
            x: examples, as `run.dataset.train` has them.
            condition: that of all examples, or of each; as of `sample`.
            options: those of `solvers.encode`.
        """
        examples, alone = as_examples(self._experiment.dataset, x)
        latents = self._solved(encode, self._experiment.dataset.units.encode(examples), condition, options).numpy()
        return latents[0] if alone else latents

    def decode(self, z: Examples, *, condition: Any = None, **options: Any) -> np.ndarray:
        """Return the examples of latents `z`, in data units; arguments else as of `encode`.

        Raises:
            UserError: latents are not of the shape of the data.
        """
        latents = torch.as_tensor(as_array(z)).to(torch.get_default_dtype())
        alone = latents.shape == self._experiment.dataset.model_shape
        x = self._solved(decode, latents[None] if alone else latents, condition, options)
        examples = self._experiment.dataset.units.decode(x).numpy()
        return examples[0] if alone else examples

    def embed(self, x: Any) -> np.ndarray:
        """Return the embeddings of pictures or captions in a joint space, `(N, d)`, or of one alone, `(d,)`; float32.

        Args:
            x: pictures, as `run.dataset.train` has them; or a caption, or a list of them.

        Raises:
            UserError: the run is of another kind of model, or pictures or captions are none that it knows.
        """
        return embed(self._experiment, x)

    def animate(
        self,
        path: str | os.PathLike[str],
        *,
        num_samples: int = 16,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        num_steps: int | None = None,
        seconds: float = 4.0,
        **options: Any,
    ) -> Path:
        """Write a GIF of samples on their way from noise to data, as suits the kind of the data; return its path.

        What is shown of a state is `x / sqrt(alpha^2 + sigma^2)`, in data units.

        Args:
            path: the file.
            num_samples: how many are shown.
            condition: as of `sample`, like the next two.
            seed: sample `i` is drawn with `seed + i`.
            solver: a name, or a solver.
            num_steps: the solver's number of steps, and so of frames, of which there are 60 at most; 60 if left out,
                but of solvers that choose their steps.
            seconds: how long the way takes.
            options: further keys of the section `sampling`.
        """
        asked, _ = self._asked(condition, num_samples)
        num_steps = num_steps or self._num_steps(solver or self.config.sampling.solver, options, 60)
        experiment = self._sampling(num_samples, seed, solver, {"num_steps": num_steps, **options})
        asked = None if asked is None else beside_given(experiment.config, experiment.dataset, asked)
        return moving.animate(experiment, asked, Path(path), seconds)

    def _num_steps(self, solver: str | Solver, options: Mapping[str, Any], usual: int) -> int | None:
        """Return the usual number of steps; None of a solver that chooses them."""
        return None if chooses_steps(solver, options.get("method", self.config.sampling.method)) else usual

    @staticmethod
    def _shaped(answers: Tensor, alone: bool, num_samples: int | None) -> np.ndarray:
        """Return answers `(K, N, *shape)` without the axes that were not asked for."""
        array = (answers[:, 0] if alone else answers).numpy()
        return array[0] if num_samples is None else array

    def _sampling(
        self, count: int | None, seed: int | None, solver: str | Solver | None, options: Mapping[str, Any]
    ) -> Experiment:
        """Return the experiment with what samples are to be drawn by."""
        name = solver if solver is None or isinstance(solver, str) else own.hand_over(solver)
        return self._with("sample", seed, {"num_samples": count, "solver": name, **options})

    def _drawn(self, model: Any, count: int, seed: int, options: Mapping[str, Any]) -> np.ndarray:
        """Draw so many samples of another model of these data, in data units; options as of `sample`."""
        rest = dict(options)
        experiment = self._sampling(count, seed, rest.pop("solver", None), rest)
        return self._experiment.dataset.units.decode(sampling.drawn_from(experiment, model)).numpy()

    def _with(self, mode: str, seed: int | None, options: Mapping[str, Any]) -> Experiment:
        """Return the experiment with these options of the section that the mode has, those that are not None."""
        section = {"sample": "sampling"}.get(mode, mode)
        config = copy.deepcopy(self.config)
        values = {f"{section}.{key}": value for key, value in options.items() if value is not None}
        if seed is not None:
            values["seed"] = seed
        with naming(mode):
            configuration.from_dict(values, "run", config)
            drop_steps_of_another_solver(config, {*values, *(key for key, _ in self._experiment.overrides)})
            checks.check(config, mode)
        if config.sampling.controls != self.config.sampling.controls:
            raise UserError("controls are joined as a run is loaded: load(…, settings={'sampling.controls': …})")
        return replace(self._experiment, config=config, model=controls.at_scales(self.model, config))

    def _asked(self, condition: Any, count: int | None) -> tuple[Condition | None, int | None]:
        """Return the condition of `count` samples, and their number, which its rows decide where it is None."""
        return (
            (None, count)
            if condition is None
            else condition_of(self.config, self._experiment.dataset, condition, count)
        )

    def _given(self, condition: Any, count: int) -> Any:
        """Return the model, with the condition of so many examples bound to it, if any is given."""
        dataset = self._experiment.dataset
        if condition is None:
            check_heard(self.config, dataset, None, controls.controls_of(self.model))
            return self.model
        return Given(self.model, self._condition(condition, count))

    def _condition(self, condition: Any, count: int) -> Condition:
        """Return what the model is told of so many examples."""
        dataset = self._experiment.dataset
        if not (conditions.is_class_conditional(self.config) or build.told_names(self.config, dataset)):
            raise UserError("this model knows no classes: leave the condition out")
        told, _ = condition_of(self.config, dataset, condition, count)
        if "class" in told.values and not conditions.is_class_conditional(self.config):
            raise UserError("this model knows no classes: leave them out of the condition")
        check_heard(self.config, dataset, told, controls.controls_of(self.model))
        return told.to(distributed.device())

    def _check_parts(self) -> None:
        if not is_told_of_parts(self.config):
            raise UserError(
                "this model was told of whole examples alone: train one with data.masks=half,box,all, or with "
                "data.missing=True"
            )

    def _measured(
        self, examples: Tensor, condition: Any, seed: int | None, options: Mapping[str, Any], given: Any = None
    ) -> Tensor:
        """Return `log p(x)`, in data units, of each example, `(N,)`, float64."""
        if given is not None:
            self._check_parts()
            truths = torch.as_tensor(as_array(given))
            if truths.dtype != torch.bool:
                raise UserError(f"given says which numbers are known: truths, not {truths.dtype}")
            try:
                given = truths.expand(examples.shape)
            except RuntimeError as error:
                shapes = f"{tuple(truths.shape)}, for examples of {tuple(examples.shape)}"
                raise UserError(f"given has shape {shapes}") from error
        experiment = self._with("likelihood", seed, options)
        shown = shown_levels(experiment.config, experiment.dataset) if given is not None else None
        model = self._given(condition, len(examples))
        measurement = replace(make_measurement(experiment), model=model, bounds={}, given=given, shown=shown)
        first, size, parts = experiment.config.seed, experiment.config.likelihood.batch_size, []
        for start in range(0, len(examples), size):
            part = slice(start, min(start + size, len(examples)))
            measured = rows_of(measurement, part)(examples[part], list(range(first + part.start, first + part.stop)))
            parts.append((measured.log_prob - measured.log_q).mean(1))
        return torch.cat(parts)

    def _solved(self, solve: Callable[..., Solution], x: Tensor, condition: Any, options: Mapping[str, Any]) -> Tensor:
        """Return where the probability flow takes states `x` `(N, *shape)`, in batches."""
        check_joint_embedding(self.config, "encode")
        if x.shape[1:] != self._experiment.dataset.model_shape:
            raise UserError(f"examples have shape {self._experiment.dataset.model_shape}, not {tuple(x.shape[1:])}")
        model, size = self._given(condition, len(x)), self.config.sampling.batch_size
        parts = [slice(start, start + size) for start in range(0, len(x), size)]
        device = distributed.device()
        return torch.cat([solve(rows_of(model, part), x[part].to(device), **options).x.cpu() for part in parts])
