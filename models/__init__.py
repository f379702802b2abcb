"""Score models: networks, and distributions whose score is known."""

from models.gaussian_mixture import GaussianMixture

__all__ = ["GaussianMixture"]
