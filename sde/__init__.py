"""Forward processes: two scalar functions of time, and everything that follows from them."""

from score_sde.sde.base import SDE
from score_sde.sde.ladder import DDPMLadder, Ladder, NCSNLadder, cosine_betas, ddpm_betas, geometric_sigmas
from score_sde.sde.learned import LearnedSDE
from score_sde.sde.marginals import Marginals
from score_sde.sde.rectified_flow import RectifiedFlow
from score_sde.sde.subvp import SubVPSDE
from score_sde.sde.ve import VESDE
from score_sde.sde.vp import VPSDE

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "DDPMLadder",
    "Ladder",
    "LearnedSDE",
    "Marginals",
    "NCSNLadder",
    "RectifiedFlow",
    "SubVPSDE",
    "cosine_betas",
    "ddpm_betas",
    "geometric_sigmas",
]
