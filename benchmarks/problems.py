"""Problems whose probability flow is known as closely as one likes: `VESDE(0.002, 80)`, data of standard deviation 0.5.

A ring of eight narrow Gaussians in the plane, a mixture fitted to the digits in 64 dimensions, and the trained network
of a working folder, read as a model of the same process.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.trained import trained_network
from score_sde.models import GaussianMixture
from score_sde.sde import VESDE
from score_sde.solvers.base import Model, gaussian_of_model

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def ring() -> GaussianMixture:
    """Return eight Gaussians of standard deviation 0.03 on a circle; 0.5 a coordinate."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = math.sqrt(0.5) * torch.stack([angle.cos(), angle.sin()], dim=1)
    covariances = 0.03**2 * torch.eye(2, dtype=torch.float64).repeat(8, 1, 1)
    return GaussianMixture(VESDE(SIGMA_MIN, SIGMA_MAX), torch.ones(8), means, covariances)


def digits_mixture() -> GaussianMixture:
    """Return twenty Gaussians fitted to scikit-learn's digits, scaled to a standard deviation of 0.5."""
    from sklearn import mixture
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    pixels = 0.5 * (pixels - pixels.mean()) / pixels.std()
    fit = mixture.GaussianMixture(20, reg_covar=1e-3, random_state=0).fit(pixels)
    arrays = (torch.from_numpy(array) for array in (fit.weights_, fit.means_, fit.covariances_))
    return GaussianMixture(VESDE(SIGMA_MIN, SIGMA_MAX), *arrays)


class AsVE:
    """A model of any process is read as one of `VESDE(0.002, 80)`: the same denoiser at the same `sigma / alpha`.

    Args:
        model: the model that is read.
        scale: factor on the model's data.
    """

    def __init__(self, model: Model, scale: float) -> None:
        self.sde, self._model, self._scale = VESDE(SIGMA_MIN, SIGMA_MAX), model, scale
        gaussian = gaussian_of_model(model)
        self.gaussian = None if gaussian is None else gaussian.scaled(scale)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`."""
        own = self._model.sde.time_at_log_snr(self.sde.log_snr(t) + 2 * math.log(self._scale))
        return self._scale * self._model.denoise(self._model.sde.alpha(own).to(x) / self._scale * x, own)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`."""
        return (self.denoise(x, t) - x) / (self.sde.at(t).sigma ** 2).to(x)


def network(workdir: Path) -> tuple[Model, tuple[int, ...]]:
    """Return the newest network of a working folder, its data scaled to a standard deviation of 0.5, and the shape."""
    model, dataset, _, _ = trained_network(workdir)
    scale = 0.5 / dataset.units.encode(dataset.train).std().item()
    return AsVE(model, scale), dataset.shape
