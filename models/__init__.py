"""Score models: networks, and distributions whose score is known."""

from models.ddpm import DDPM
from models.gaussian_mixture import GaussianMixture
from models.ncsnpp import NCSNpp

__all__ = ["DDPM", "GaussianMixture", "NCSNpp"]
