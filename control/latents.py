r"""Editing through latents and through noise.

encode      the probability flow ODE up to T and back is the identity (`solvers.encode`): a picture has one latent
temperature a latent times tau, decoded: tau < 1 is nearer to the mean    Song et al. 2021, arXiv:2011.13456,
                                                                          section 4.3 and appendix D.2
slerp       latents between two, on a sphere                              Shoemake 1985; Song et al., ibid.
SDEdit      noise is added to a picture, and taken away again             Meng et al. 2022, arXiv:2108.01073
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.gaussian import Gaussian
from score_sde.common.score import check_score
from score_sde.models.wrapper import StepsAsModel
from score_sde.sde import SDE
from score_sde.sde.truncated import Truncated
from score_sde.solvers import Model
from score_sde.solvers.base import States, gaussian_of_model, sample_noise


@checked
def slerp(a: States, b: States, share: Tensor) -> Tensor:
    """Interpolate spherically from `a` (share 0) to `b` (share 1), `(B, *dims)` each, each example by itself.

    `[sin((1 - share) omega) a + sin(share omega) b] / sin omega`, with `omega` the angle between the two; the straight
    line where it vanishes.

    Args:
        a: the end at share 0, `(B, *dims)`.
        b: the end at share 1, `(B, *dims)`.
        share: how far to go from `a` to `b`, `(B,)` or `()`.
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    lengths = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = (flat_a * flat_b).sum(1) / lengths.clamp(min=torch.finfo(a.dtype).tiny)
    omega = torch.arccos(cosine.clamp(-1, 1))
    share = share.to(a)
    straight = torch.sin(omega) < 1e-6
    safe = torch.where(straight, 1.0, omega)
    to_a = torch.where(straight, 1 - share, torch.sin((1 - share) * safe) / torch.sin(safe))
    to_b = torch.where(straight, share + 0 * omega, torch.sin(share * safe) / torch.sin(safe))
    return SDE.expand(to_a, a) * a + SDE.expand(to_b, b) * b


class Until(StepsAsModel):
    """A model's process ends at an earlier time, from which solvers start.

    Args:
        model: the model whose process is cut short, of any kind.
        T: where the process ends, between the model's `t_min` and `T`.

    Raises:
        UserError: `T` is out of range.
    """

    @checked
    def __init__(self, model: Model, T: float) -> None:
        super().__init__(model)
        self._truncated = Truncated(model.sde, T)

    @property
    def sde(self) -> SDE:
        """The forward process goes up to `T` only."""
        return self._truncated

    @property
    def gaussian(self) -> Gaussian | None:
        """The Gaussian that the data look like is the model's, if it knows one."""
        return gaussian_of_model(self.model)


@checked
def noised(
    model: Model,
    x_0: States,
    strength: float,
    *,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Until, Tensor]:
    """Return SDEdit's beginning: pictures with noise, and the model up to their time; `solver(*noised(…))` is the rest.

    Args:
        model: any model.
        x_0: pictures `(B, *dims)`, in model units.
        strength: how far the way to noise is gone, as a part of `T`; 1 forgets the pictures (nearly).
        seeds: one seed an example, for its noise; drawn from `generator` if left out.
        generator: source of seeds.

    Raises:
        UserError: the strength is out of range.
    """
    check_score(model, "SDEdit")
    until = Until(model, strength * model.sde.T)
    noise = sample_noise(x_0, seeds, generator, stream="control").normal(x_0)
    return until, model.sde.perturb(x_0, noise, torch.tensor(until.sde.T, dtype=torch.float64))
