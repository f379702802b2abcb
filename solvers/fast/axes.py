r"""A model in the axes of the Gaussian that its data look like (`common.gaussian`).

With `x_0 = m + V u_0`, the process of `u = V^T (x - alpha m)` is that of `x`, of data of mean 0:

    score_u(u, t) = V^T score(alpha m + V u, t),        D_u(u, t) = V^T (D(alpha m + V u, t) - m)
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.common.gaussian import Gaussian
from score_sde.common.score import no_score
from score_sde.sde import SDE
from score_sde.solvers.base import Model


class InAxes:
    """`model` is asked in the axes of a Gaussian, and is a model again.

    Args:
        model: the model that is asked.
        gaussian: the Gaussian.
        like: states `(B, *dims)` that those which come are like.
    """

    def __init__(self, model: Model, gaussian: Gaussian, like: Tensor) -> None:
        self.model, self.gaussian = model, gaussian
        self._gaussian = gaussian.to(like)
        self._mean = self._gaussian.mean.expand(like.shape[1:]) if gaussian.mean.ndim == 0 else self._gaussian.mean
        self._mean = self._mean.reshape(like.shape[1:])
        # The state last turned, and what it is in the other axes: watches tell states by which tensor they are.
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def sde(self) -> SDE:
        """The forward process is the model's."""
        return self.model.sde

    @property
    def no_score(self) -> str:
        """The reason why there is no score is the model's; it is empty if there is one."""
        return no_score(self.model)

    def turned(self, x: Tensor, alpha: float) -> Tensor:
        """Return `u` of states `x`; shape of `x`."""
        u = self._gaussian.rotate(x - alpha * self._mean)
        self._last = u, x
        return u

    def turned_back(self, u: Tensor, alpha: float) -> Tensor:
        """Return `x` of states `u`; shape of `u`."""
        if self._last is None or self._last[0] is not u:
            self._last = u, torch.add(self._gaussian.rotate_back(u), self._mean, alpha=alpha)
        return self._last[1]

    def score(self, u: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(u)`; shape of `u`."""
        return self._gaussian.rotate(self.model.score(self.turned_back(u, float(self.sde.alpha(t))), t))

    def noise_at(self, u: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return `eps_hat` at `u`, differentiable by `alpha` and `sigma` `()` as well, those of `t`; shape of `u`."""
        x = self._gaussian.rotate_back(u) + alpha * self._mean
        if self.no_score:
            return self._gaussian.rotate(x - alpha * self.model.denoise(x, t)) / sigma
        return -sigma * self._gaussian.rotate(self.model.score(x, t))

    def denoise(self, u: Tensor, t: Tensor) -> Tensor:
        """Return `E[u_0 | u_t = u]`; shape of `u`."""
        return self._gaussian.rotate(self.data(u, t) - self._mean)

    def data(self, u: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | u_t = u]`; shape of `u`."""
        return self.model.denoise(self.turned_back(u, float(self.sde.alpha(t))), t)

    def of_data(self, data: Tensor) -> Tensor:
        """Return `u_0` of data `x_0`; shape of `data`."""
        return self._gaussian.rotate(data - self._mean)
