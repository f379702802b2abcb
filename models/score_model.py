r"""A network and a forward process make a score model.

With `x = alpha x_0 + sigma eps`, a network is trained to predict a combination of data and noise, given by two
functions of time:

    F* = a(t) x_0 + b(t) eps

    prediction    a                  b                 known from
    noise         0                  1                 Ho et al. 2020, arXiv:2006.11239
    score         0                  -1 / sigma        Song et al. 2021, arXiv:2011.13456
    denoised      1                  0                 "x_0-prediction", Ho et al. 2020
    velocity      -sigma / r         alpha / r         Salimans & Ho 2022, arXiv:2202.00512
    edm           sigma / (s q)      -s alpha / q      Karras et al. 2022, arXiv:2206.00364
    flow          -1                 1                 Lipman et al. 2023, arXiv:2210.02747

with `r^2 = alpha^2 + sigma^2`, `q^2 = s^2 alpha^2 + sigma^2` and `s` the standard deviation of the data (`data_std`).
The division by `r`, which is 1 for VP, keeps the velocity's size near 1 under any process. EDM's row is its table 1 in
the coordinates `y = x / alpha`, `rho = sigma / alpha`, so that it serves any process too; for `s = 1` it is the
velocity with its sign changed.

A prediction `F` of `F*` is one of everything else. Solving the two linear equations, with `c = alpha b - sigma a`,

    eps_hat = (alpha F - a x) / c         D = (b x - sigma F) / c         score = -eps_hat / sigma

and the error of the noise, in which all objectives are written, needs no difference of nearly equal numbers:

    eps_hat - eps = (alpha / c) (F - F*)

Coefficients are computed in float64 on the CPU and cast once. Where nothing of the data is left, at `alpha(T) = 0`, a
prediction of noise or score says nothing of them, and the mean of the data stands for `D`: it is the exact answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from score_sde.common.arguments import checked
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, choose
from score_sde.common.score import check_score
from score_sde.models.inputs import states_and_times
from score_sde.models.preconditioning import Preconditioned
from score_sde.sde import SDE

# A parametrisation is a function (alpha, sigma, data_std) -> (a, b).
Parametrisation = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def _velocity(alpha: Tensor, sigma: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
    """Return `a` and `b` of the velocity; shape of `alpha`."""
    norm = torch.hypot(alpha, sigma)
    return -sigma / norm, alpha / norm


def _edm(alpha: Tensor, sigma: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
    """Return `a` and `b` of EDM's prediction; shape of `alpha`."""
    norm = torch.hypot(data_std * alpha, sigma)
    return sigma / (data_std * norm), -data_std * alpha / norm


PARAMETRISATIONS: dict[str, Parametrisation] = {
    "noise": lambda alpha, sigma, data_std: (torch.zeros_like(alpha), torch.ones_like(alpha)),
    "score": lambda alpha, sigma, data_std: (torch.zeros_like(alpha), -1 / sigma),
    "denoised": lambda alpha, sigma, data_std: (torch.ones_like(alpha), torch.zeros_like(alpha)),
    "velocity": _velocity,
    "edm": _edm,
    "flow": lambda alpha, sigma, data_std: (-torch.ones_like(alpha), torch.ones_like(alpha)),
}


class ScoreModel(Preconditioned):
    """A network that predicts one of the combinations above gives score, denoised mean and noise.

    `x` has shape `(B, *dims)`, `t` shape `()` or `(B,)`, and a condition, if the network is told of any, `B` rows;
    results have the shape and dtype of `x`. NumPy arrays become tensors (`models.inputs`). Of `x` in another dtype than
    the network's weights, the network sees what is left in theirs: all else is done in that of `x`.

    Args:
        network: called as `network(x, noise_label)`, labels `(B,)`, or with a condition as `network(x, noise_label,
            condition)`; returns the shape of `x`.
        sde: the forward process.
        prediction: what the network predicts, a key of `PARAMETRISATIONS`.
        noise_label: what the network is told of the time: a key of `NOISE_LABELS`, or a function of `t` `(B,)`.
        data_std: standard deviation of the data, all dimensions together.
        scale_input: whether to divide the network's input by its standard deviation.

    Raises:
        UserError: there is no such prediction or label, the process has no such label, or `data_std` is not positive;
            when called: `x` or `t` has the wrong shape, or the network returns another shape than that of `x`.
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        prediction: str = "noise",
        noise_label: str | Callable[[Tensor], Tensor] = "log_snr",
        data_std: float = 1.0,
        scale_input: bool = True,
    ) -> None:
        if not data_std > 0:
            raise UserError(f"data_std must be positive, not {data_std:g}")
        super().__init__(network, sde, noise_label, data_std, scale_input)
        self.prediction = prediction
        self._combination = choose("prediction", prediction, PARAMETRISATIONS)

    def predict(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's own prediction `F`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        prediction = self.output(x, t, condition)
        if prediction.shape != x.shape:
            raise UserError(f"the network returns shape {tuple(prediction.shape)} for x of shape {tuple(x.shape)}")
        return prediction

    def noise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `eps_hat = E[eps | x_t = x]`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        alpha, sigma, a, _, c = self._coefficients(t)
        noise = self._combine(-a / c, x, alpha / c, self.predict(x, t, condition))
        return self._where_gone(x, t, noise, 1 / sigma, -alpha / sigma)

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `∇ log p_t(x) = -eps_hat / sigma`; shape of `x`.

        Raises:
            UserError: the model is a flow and has no score.
        """
        check_score(self, "this")
        x, t = states_and_times(self.sde, x, t)
        alpha, sigma, a, _, c = self._coefficients(t)
        score = self._combine(a / (c * sigma), x, -alpha / (c * sigma), self.predict(x, t, condition))
        return self._where_gone(x, t, score, -1 / sigma**2, alpha / sigma**2)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `D = E[x_0 | x_t = x]`; shape of `x`."""
        x, t = states_and_times(self.sde, x, t)
        return self._denoised_of(x, t, self.predict(x, t, condition))

    def _denoised_of(self, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Return `D` at a state for which `F` was predicted; shape of `x`."""
        _, sigma, _, b, c = self._coefficients(t)
        denoised = self._combine(b / c, x, -sigma / c, prediction)
        return self._where_gone(x, t, denoised, torch.zeros_like(sigma), torch.ones_like(sigma))

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `F* = a x_0 + b eps`, what the network is trained to predict; shape of `x_0`."""
        _, _, a, b, _ = self._coefficients(t)
        return self._combine(a, x_0, b, noise)

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `eps_hat - eps` at `x_t = alpha x_0 + sigma eps`, computed from `F - F*`; shape of `x_0`."""
        alpha, _, _, _, c = self._coefficients(t)
        error = self.predict(self.sde.perturb(x_0, noise, t), t, condition) - self.target(x_0, noise, t)
        return self.sde.expand(alpha / c, x_0) * error

    def _where_gone(self, x: Tensor, t: Tensor, answer: Tensor, of_x: Tensor, of_mean: Tensor) -> Tensor:
        """Return the answer, but `of_x x + of_mean E[x_0]` where the prediction says nothing of the data."""
        gone = self.sde.at(t).gone
        if self.prediction not in ("noise", "score") or not bool(gone.any()):
            return answer
        mean = torch.zeros_like(x[:1]) if self.gaussian is None else self.gaussian.mean.to(x).expand(x.shape[1:])
        known = self._combine(of_x, x, of_mean, mean)
        return torch.where(self.sde.expand(gone.double(), x).bool(), known, answer)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return `alpha, sigma, a, b` and `c = alpha b - sigma a`; float64, on the CPU, shape of `t`."""
        here = self.sde.at(t)
        a, b = self._combination(here.alpha, here.sigma, self.data_std)
        return here.alpha, here.sigma, a, b, here.alpha * b - here.sigma * a

    def _combine(self, coefficient_x: Tensor, x: Tensor, coefficient_y: Tensor, y: Tensor) -> Tensor:
        return self.sde.expand(coefficient_x, x) * x + self.sde.expand(coefficient_y, x) * y
