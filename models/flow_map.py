r"""Flow maps: a model told two times jumps along the flow, from any one to any other, in one network call.

The probability flow in `y = x / alpha`, `rho = sigma / alpha` is the same for every process, `dy/drho = (y - D(y, rho))
/ rho`. In `1/rho` all but the denoised mean can be integrated, so that from `x` at `t` one is at `s` at

    y_s / rho_s = y_t / rho_t + ∫ D(X_u, u) d(1/rho_u)        from 1/rho_t to 1/rho_s
    y_s         = (rho_s / rho_t) y_t + (1 - rho_s / rho_t) D(x, t, s)

with `D(x, t, s)` the mean of the integrand, of what is denoised along the way. That is DDIM's step with another D, for
the network to predict. Where `s = t` nothing moves, whatever it says, and D is the denoised mean itself, hence the
score; at `s = 0` one arrives at `D(x, t, 0)`: the consistency function (Song et al. 2023, arXiv:2303.01469). Two-time
maps are those of Boffi et al. 2024, arXiv:2406.07507, and of MeanFlow (Geng et al. 2025, arXiv:2505.13447), where the
mean is one of velocities.

`D` of two times is the denoised mean of a score model (`ScoreModel`, `QuantisedModel`) whose network is told the second
time as a condition, `until`: features of the *position*

    w = asinh( c / (rho_s + 0.01 c) ),        c the standard deviation of the data,

which grows from 0, where there is only noise, to `asinh(100)` at the data, like `-log rho` where there is structure to
resolve; an error of D counts as much at every position.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.gaussian import Gaussian
from score_sde.models.inputs import states_and_times
from score_sde.models.layers.condition import Vector
from score_sde.models.quantised_model import QuantisedModel
from score_sde.models.score_model import ScoreModel
from score_sde.sde import SDE
from score_sde.sde.marginals import on_host

UNTIL = "until"
# Structure is resolved down to this part of the data's standard deviation.
_RESOLUTION = 0.01
_LAST_POSITION = math.asinh(1 / _RESOLUTION)
_NUM_FREQUENCIES = 8
# What a network is told of the second time. It starts unheard, so that a trained score model starts as what it was.
KIND = Vector(2 * _NUM_FREQUENCIES, init_scale=0.0)


class FlowMap(nn.Module):
    """A score model whose network is told a second time gives jumps along the flow, and the score where times agree.

    `x` has shape `(B, *dims)`, `t` and `s` shape `()` or `(B,)`; results have the shape and dtype of `x`.

    Its attribute `gaussian` is as that of the score model.

    Args:
        model: the score model; its network is told `until`, of kind `KIND`, beside its other conditions.

    Raises:
        UserError: the network takes no condition; when called: as the score model.
    """

    def __init__(self, model: ScoreModel | QuantisedModel) -> None:
        super().__init__()
        if not _takes_condition(model.network):
            raise UserError(
                f"a flow map tells its network a second time, as the condition {UNTIL!r}, and "
                f"{type(model.network).__name__} takes none: it has to be called as network(x, noise_label, condition)"
            )
        self.model = model
        self.gaussian: Gaussian | None = model.gaussian

    @property
    def sde(self) -> SDE:
        """The forward process is the score model's."""
        return self.model.sde

    @property
    def no_score(self) -> str:
        """The reason why there is no score is the score model's; it is empty if there is one."""
        return self.model.no_score

    @property
    def network(self) -> nn.Module:
        """The network is the score model's."""
        return self.model.network

    @property
    def data_std(self) -> float:
        """The standard deviation of the data is as the score model has it."""
        return self.model.data_std

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `∇ log p_t(x)`; shape of `x`."""
        return self.model.score(x, t, self._still(x, t, condition))

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `E[x_0 | x_t = x] = D(x, t, t)`; shape of `x`."""
        return self.model.denoise(x, t, self._still(x, t, condition))

    def noise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `E[eps | x_t = x]`; shape of `x`."""
        return self.model.noise(x, t, self._still(x, t, condition))

    def noise_error(self, x_0: Tensor, noise: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the error of the noise at `x_t = alpha x_0 + sigma noise`, as the score model; shape of `x_0`."""
        return self.model.noise_error(x_0, noise, t, self._still(x_0, t, condition))

    def jump(self, x: Tensor, t: Tensor, s: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the state at time `s` of the flow that is at `x` at `t`; shape of `x`. At 0 it is data.

        Raises:
            UserError: `s` is later than `t`, or `t` is 0.
        """
        x, t = states_and_times(self.sde, x, t)
        _, s = states_and_times(self.sde, x, s)
        if not bool(((s <= t) & (t > 0)).all()):
            raise UserError("a jump goes towards the data: from a time above 0 to one that is not later")
        return along(self.sde, x, t, s, self.mean_denoised(x, t, self.position(rho_of(self.sde, s)), condition))

    def mean_denoised(self, x: Tensor, t: Tensor, position: Tensor, condition: Condition | None = None) -> Tensor:
        """Return `D(x, t, s)`, the mean of what is denoised on the way to a position, `()` or `(B,)`; shape of `x`."""
        return self.model.denoise(x, t, _and_until(condition, position, x))

    def position(self, rho: Tensor) -> Tensor:
        """Return the position `w` at noise-to-signal ratios `rho`; float64, shape of `rho`."""
        return torch.asinh(self.data_std / (rho + _RESOLUTION * self.data_std))

    def rate(self, rho: Tensor) -> Tensor:
        """Return `dw / d log rho`, the rate at which the position changes; float64, shape of `rho`."""
        return -torch.tanh(self.position(rho)) * rho / (rho + _RESOLUTION * self.data_std)

    def rho_at(self, position: Tensor) -> Tensor:
        """Return the noise-to-signal ratio at a position; float64, shape of `position`."""
        return self.data_std / torch.sinh(position) - _RESOLUTION * self.data_std

    def _still(self, x: Tensor, t: Tensor, condition: Condition | None) -> Condition:
        """Return the condition that says, too, that the second time is the first."""
        x, t = states_and_times(self.sde, x, t)
        return _and_until(condition, self.position(rho_of(self.sde, t)), x)


def _takes_condition(network: nn.Module) -> bool:
    """Return whether a network can be called with a third argument."""
    try:
        inspect.signature(network.forward).bind(None, None, None)
    except TypeError:
        return False
    return True


def rho_of(sde: SDE, t: Tensor) -> Tensor:
    """Return the noise-to-signal ratio at times `t`, 0 at time 0; float64, shape of `t`."""
    t = on_host(t)
    return torch.where(t > 0, sde.at(t).rho, 0.0)


def along(sde: SDE, x: Tensor, t: Tensor, s: Tensor, denoised: Tensor) -> Tensor:
    """Return the state at `s` from `x` at `t` if on the way the denoised mean is `denoised`; shape of `x`.

    That is `x_s = (sigma_s / sigma_t) x + alpha_s (1 - rho_s / rho_t) D`: at `s = 0` D, and where `s = t`, exactly `x`.
    """
    here, there, rho_s = sde.at(t), sde.at(s), rho_of(sde, s)
    sigma_s = torch.where(rho_s > 0, there.sigma, 0.0)
    alpha_s = torch.where(rho_s > 0, there.alpha, 1.0)
    return sde.expand(sigma_s / here.sigma, x) * x + sde.expand(alpha_s * (1 - rho_s / here.rho), x) * denoised


def features(position: Tensor) -> Tensor:
    """Describe positions `(B,)` by cosines and sines of up to four periods over all of the way, `(B, 16)`."""
    k = torch.arange(_NUM_FREQUENCIES, dtype=position.dtype, device=position.device)
    angle = (math.pi / _LAST_POSITION) * position[:, None]
    return torch.cat([torch.cos(angle * k), torch.sin(angle * (k + 0.5))], dim=1)


def _and_until(condition: Condition | None, position: Tensor, x: Tensor) -> Condition:
    """Return a condition that says, too, to which position states `x` are to come."""
    values = {} if condition is None else condition.values
    if UNTIL in values:
        raise UserError(f"a condition called {UNTIL!r} is the flow map's own: call yours otherwise")
    told = features(position.expand(len(x))).to(x.device, x.dtype, non_blocking=True)
    return Condition({**values, UNTIL: told}, {} if condition is None else condition.hidden_rows)
