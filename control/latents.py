r"""Editing through latents and through noise.

encode      the probability flow ODE up to T and back is the identity (`solvers.encode`): a picture has one latent
temperature a latent times tau, decoded: tau < 1 is nearer to the mean    Song et al. 2021, arXiv:2011.13456,
                                                                          section 4.3 and appendix D.2
slerp       latents between two, on a sphere                              Shoemake 1985; Song et al., ibid.
SDEdit      noise is added to a picture, and taken away again             Meng et al. 2022, arXiv:2108.01073
variation   a latent is replaced by noise in part, and decoded: `sqrt(1 - s^2) x_T + s n`, `n` from the prior

Both changes have a strength between 0, where the example comes back, and 1, where it is forgotten: the answer is then
the sample of the same seed, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.gaussian import Gaussian
from score_sde.common.noise import SampleNoise, seeds_from_generator
from score_sde.common.score import check_score
from score_sde.models.wrapper import StepsAsModel
from score_sde.sde import SDE
from score_sde.sde.truncated import Truncated
from score_sde.solvers import Model
from score_sde.solvers.base import States, gaussian_of_model, sample_noise
from score_sde.solvers.options import check_between


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
) -> tuple[Model, Tensor]:
    """Return SDEdit's beginning: pictures with noise, and the model up to their time; `solver(*noised(…))` is the rest.

    Args:
        model: any model.
        x_0: pictures `(B, *dims)`, in model units.
        strength: how far the way to noise is gone, as a part of `T`; at 1 nothing is left of the pictures, and samples
            are those that begin at `model.sde.prior_sample(…, seeds=seeds)`.
        seeds: one seed an example, for its noise; drawn from `generator` if left out.
        generator: source of seeds.

    Raises:
        UserError: the strength is out of range.
    """
    check_score(model, "SDEdit")
    seeds = sample_noise(x_0, seeds, generator, stream="prior").seeds
    if strength == 1:
        return model, model.sde.prior_sample(x_0.shape, seeds=seeds, dtype=x_0.dtype, device=x_0.device)
    until = Until(model, strength * model.sde.T)
    noise = SampleNoise(seeds, "prior").normal(x_0)
    return until, model.sde.perturb(x_0, noise, torch.tensor(until.sde.T, dtype=torch.float64))


@checked
def varied(
    sde: SDE,
    latents: States,
    strength: float,
    *,
    seeds: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return latents with a part replaced by noise, `sqrt(1 - s^2) x_T + s n`: as likely under the prior as they were.

    Args:
        sde: the forward process.
        latents: latents `(B, *dims)`, as from `solvers.encode`.
        strength: the share `s` of the noise; at 1 nothing is left of the latents, and with 0 they are as they were.
        seeds: one seed an example, for its noise, which is that of `sde.prior_sample`.
        generator: source of seeds where they are left out.

    Raises:
        UserError: the strength is out of range.
    """
    check_between("strength", strength, 0, 1)
    seeds = seeds_from_generator(len(latents), generator) if seeds is None else seeds
    noise = sde.prior_sample(latents.shape, seeds=seeds, dtype=latents.dtype, device=latents.device)
    return math.sqrt(1 - strength**2) * latents + strength * noise
