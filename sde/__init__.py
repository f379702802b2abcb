"""Forward processes: two scalar functions of time, and everything that follows from them."""

from sde.base import SDE
from sde.ladder import DDPMLadder, Ladder, NCSNLadder, cosine_betas, ddpm_betas, geometric_sigmas
from sde.subvp import SubVPSDE
from sde.ve import VESDE
from sde.vp import VPSDE

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "DDPMLadder",
    "Ladder",
    "NCSNLadder",
    "SubVPSDE",
    "cosine_betas",
    "ddpm_betas",
    "geometric_sigmas",
]
