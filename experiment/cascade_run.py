"""A trained cascade from Python: a run that draws by all of its stages, and whose density is their product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from score_sde.common.condition import Condition, joined
from score_sde.common.errors import UserError
from score_sde.data.low_resolution import LOW_RESOLUTION, smaller, to_levels
from score_sde.experiment import sampling
from score_sde.experiment.arrays import as_examples
from score_sde.experiment.asked import beside_given
from score_sde.experiment.cascade import draw
from score_sde.experiment.condition_values import by_name, condition_of
from score_sde.experiment.run import Examples, Run
from score_sde.solvers.base import Solver


def _of_a_stage(name: str) -> Callable[..., Any]:
    """Return a method that refuses what is of one model, and names the stage's own."""

    def refuse(self: Cascade, *_: Any, **__: Any) -> NoReturn:
        last = list(self.stages)[-1]
        raise UserError(
            f"a cascade is several models, and {name} is of one: ask a stage, run.stages[{last!r}].{name}(…), which "
            "is told small pictures, condition={'low_resolution': …}"
        )

    return refuse


class Cascade(Run):
    """A cascade is a run whose model is a product: that of its last stage, given what those before it draw.

    It samples, enlarges pictures and measures them; what else a run does is of a stage.

    Args:
        runs: the stages, by name.
        folder: the folder of the cascade.

    Attributes:
        stages: the stages, by name, runs like any other; what the other attributes are of is the last one.
    """

    def __init__(self, runs: Mapping[str, Run], folder: Path) -> None:
        super().__init__(list(runs.values())[-1]._experiment)
        self.stages = dict(runs)
        self.folder = folder

    animate, rank, redraw, fill = map(_of_a_stage, ("animate", "rank", "redraw", "fill"))
    encode, decode, posterior = map(_of_a_stage, ("encode", "decode", "posterior"))

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
        """Draw samples `(N, *shape)`, levels as uint8, by all stages.

        Arguments are those of `Run.sample`, and hold for all stages; options of one are given by its name, as in
        `glyphs_16={"num_steps": 30}`.
        """
        options |= {"num_steps": num_steps, "guidance": guidance}
        return self._enlarged(None, num_samples, condition, seed, solver, options)

    def upscale(
        self,
        x: Examples,
        *,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Enlarge pictures `(N, C, h, w)`, or one, of a size that a stage draws, by all stages after it.

        Args:
            x: the pictures, as the data have them.
            condition: the class of all, or of each, or what else they are asked to be; as of `sample`.
            seed: picture `i` is enlarged with `seed + i`.
            solver: a name, or a solver.
            options: further keys of the section `sampling`, or, by a stage's name, of that one.

        Raises:
            UserError: no stage is told pictures of this size.
        """
        shape = tuple(np.shape(x))
        datasets = [run._experiment.dataset for run in self.stages.values()][:-1]
        fitting = [dataset for dataset in datasets if shape[-len(dataset.shape) :] == dataset.shape]
        if not fitting:
            sizes = ", ".join(str(dataset.shape) for dataset in datasets)
            raise UserError(f"pictures of shape {shape}: this cascade enlarges ones of {sizes}, or (N, …) of them")
        small, alone = as_examples(fitting[0], x)
        drawn = self._enlarged(small, len(small), condition, seed, solver, options)
        return drawn[0] if alone else drawn

    def _enlarged(
        self,
        small: Tensor | None,
        count: int | None,
        condition: Any,
        seed: int | None,
        solver: str | Solver | None,
        options: Mapping[str, Any],
    ) -> np.ndarray:
        """Return samples made of small pictures by the stages that they are for; None for samples of all stages."""
        runs = list(self.stages.values())
        shapes = [run._experiment.dataset.shape for run in runs]
        first = 0 if small is None else shapes.index(tuple(small.shape[1:])) + 1
        given, experiments, asked = self._by_name(condition), [], []
        for name, run in list(self.stages.items())[first:]:
            told, rows = run._asked(given, count)
            count = rows or self.config.sampling.num_samples
            shared = {key: value for key, value in options.items() if key not in self.stages}
            experiment = run._sampling(count, seed, solver, {**shared, **options.get(name, {})})
            experiments.append(experiment)
            if told is None:
                asked.append(sampling.condition_of_samples(experiment))
            else:
                asked.append(beside_given(experiment.config, experiment.dataset, told))
        drawn = draw(experiments, asked, sampling.seeds_of(experiments[-1].config), first, small)
        return self._experiment.dataset.units.decode(drawn[-1].samples.x).numpy()

    def _measured(
        self, examples: Tensor, condition: Any, seed: int | None, options: Mapping[str, Any], given: Any = None
    ) -> Tensor:
        """Return `log p(x)` of each example, `(N,)`: the sum of the stages' own, each given the smaller picture."""
        if given is not None:
            raise UserError("a cascade knows no parts of pictures: leave given out")
        runs, told, total = list(self.stages.values()), self._by_name(condition), torch.zeros(len(examples))
        for before, run in zip([None, *runs[:-1]][::-1], runs[::-1], strict=True):
            if before is None:
                return total + run._measured(examples, told, seed, options)
            small = to_levels(smaller(examples, before._experiment.dataset.shape))
            given_small: Any = {LOW_RESOLUTION: small}
            if isinstance(told, Condition):
                made, _ = condition_of(run.config, run._experiment.dataset, given_small, len(small))
                given_small = joined(made, told.to("cpu"))
            elif told is not None:
                given_small |= told
            total = total + run._measured(examples, given_small, seed, options)
            examples = small
        return total

    def _by_name(self, condition: Any) -> Any:
        """Return what is asked for by the names that the first stage knows, which are those of all."""
        if condition is None or isinstance(condition, Condition):
            return condition
        first = next(iter(self.stages.values()))
        return by_name(first.config, first._experiment.dataset, condition)
