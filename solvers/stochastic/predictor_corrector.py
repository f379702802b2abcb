r"""Predictor-corrector sampling (Song et al. 2021, arXiv:2011.13456, Algorithm 1).

    x ~ p_T
    for each step t -> s of the grid T = t_0 > … > t_{N-1} = t_min:
        x <- predict(x, t, s)
        x <- correct(x, s)                          corrector_steps times
    x <- E[x_0 | x_{t_min} = x]                     the final denoising step

Predicting comes first and correcting second, as in the paper; its published code has them the other way round.
Without a corrector N steps cost N network calls, the denoising among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.common.errors import choose
from score_sde.common.posterior import Posterior
from score_sde.common.score import check_score
from score_sde.solvers.base import Draw, Model, Solution, Solver, Steps
from score_sde.solvers.grids import Grid, number_of_times, time_grid
from score_sde.solvers.options import MOST_STEPS, check_between, check_positive
from score_sde.solvers.stochastic.correctors import corrector_step_size, langevin
from score_sde.solvers.stochastic.predictors import PREDICTORS
from score_sde.solvers.trajectory import Watch
from score_sde.solvers.transitions import GIVE_IT_NOISE, take
from score_sde.solvers.variances import posterior_of, score_of, step_std

# The length of a grid that is only named.
_NUM_STEPS = 1000


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Solver `pc`: `num_steps` times, at each one prediction and `corrector_steps` Langevin steps.

    Args:
        predictor: `euler_maruyama`, `reverse_diffusion`, `ancestral` or `none`.
        corrector: `langevin`, `ald` or `none`.
        num_steps: length of the grid; that of the times it lists, or 1000, if left out.
        grid: a name from `solvers.grids.GRIDS`, or the times as a list.
        t_min: last time; the process's own if left out.
        snr: signal-to-noise ratio `r` of the corrector's step size.
        corrector_steps: Langevin steps after each prediction.
        step_size: `time`, or `published` for the norm-based rule of the paper (biased, see `step_size_published`).
        denoise: end with the denoised mean, at `sigma = 0`; otherwise stop at `t_min`.

    Raises:
        UserError: an option is out of range or unknown.
    """

    predictor: str = "reverse_diffusion"
    corrector: str = "langevin"
    num_steps: int | None = None
    grid: Grid = "uniform_t"
    t_min: float | None = None
    snr: float = 0.16
    corrector_steps: int = 1
    step_size: str = "time"
    denoise: bool = True

    def __post_init__(self) -> None:
        choose("predictor", self.predictor, PREDICTORS)
        corrector_step_size(self.corrector, self.step_size)
        check_between("num_steps", self.number_of_times, 1 if self.denoise else 2, MOST_STEPS)
        check_between("corrector_steps", self.corrector_steps, 0, MOST_STEPS)
        check_positive("snr", self.snr)
        # A step of 2 sigma^2 on N(0, sigma^2 I): longer ones go astray.
        check_between("snr", self.snr, 0, 1)

    @property
    def number_of_times(self) -> int:
        """The length of the grid is given, or the grid's own, or 1000."""
        return (
            _NUM_STEPS
            if self.num_steps is None and isinstance(self.grid, str)
            else number_of_times(self.num_steps, self.grid)
        )

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        return self.split(model, x_T, draw).run(x_T, watch)

    def no_step_density(self, model: Model) -> str:
        """Return why steps have no log-probabilities; nothing if each is Gaussian, and there are some."""
        corrects = self.corrector != "none" and self.corrector_steps > 0
        if self.number_of_times < 2 or (self.predictor == "none" and not corrects):
            return f"solver 'pc' adds no noise here: {GIVE_IT_NOISE}"
        if corrects and self.step_size == "published":
            return (
                "solver 'pc' with the published step size has steps that are no Gaussians: their length depends on the "
                "noise; take step_size='time'"
            )
        return ""

    def split(self, model: Model, x_T: Tensor, draw: Draw) -> Steps:
        """Return predictions, corrections and the denoising, as steps of their own; arguments as of `solve`."""
        check_score(model, "solver 'pc'")
        sde, noise = model.sde, draw("solver")
        times = time_grid(sde, self.grid, self.number_of_times, self.t_min)
        predict, step_size = PREDICTORS[self.predictor], corrector_step_size(self.corrector, self.step_size)
        posterior = posterior_of(model)
        coefficients = predict(sde, times[:-1], times[1:]) if predict is not None else None

        def prediction(i: int, x: Tensor) -> Tensor:
            assert coefficients is not None
            if posterior is not None:
                return informed(i, x, posterior)
            if i == 0 and sde.ends_in_noise:
                # All else of the state is new noise.
                alpha, sigma = sde.at(times[1]).to(x)
                return take(noise, alpha * model.denoise(x, times[0]), sigma, times[1])
            a, b, c = (sde.expand(coefficient[i], x) for coefficient in coefficients)
            return take(noise, a * x + b * model.score(x, times[i]), c, times[i + 1])

        def informed(i: int, x: Tensor, posterior: Callable[[Tensor, Tensor], Posterior]) -> Tensor:
            """Predict with the variance of a model that knows it."""
            assert coefficients is not None
            data, variance = posterior(x, times[i])
            assert variance is not None
            if i == 0 and sde.ends_in_noise:
                mean = sde.at(times[1]).to(x)[0] * data
            else:
                mean = sde.expand(coefficients.a[i], x) * x
                mean = mean + sde.expand(coefficients.b[i], x) * score_of(sde, x, times[i], data)
            return take(noise, mean, step_std(sde, times[i + 1], times[i], variance), times[i + 1])

        def correction(i: int, x: Tensor) -> Tensor:
            assert step_size is not None
            return langevin(model, x, times[i + 1], noise, step_size, self.snr, self.corrector_steps)

        def denoising(i: int, x: Tensor) -> Tensor:
            return model.denoise(x, times[-1])

        kinds = [(prediction, 1)] if coefficients is not None else []
        kinds += [(correction, self.corrector_steps)] if step_size is not None else []
        steps = [(i, *kind) for i in range(len(times) - 1) for kind in kinds]
        ends = sde.at(torch.stack([times[0], *(times[i + 1] for i, _, _ in steps)]))
        if self.denoise:
            steps.append((len(times) - 1, denoising, 1))
            ends = ends.and_data()

        def step(k: int, x: Tensor) -> Tensor:
            i, move, _ = steps[k]
            return move(i, x)

        return Steps(ends, [calls for _, _, calls in steps], step)
