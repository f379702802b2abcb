"""A Gaussian mixture fitted to data: a model with an exact score that needs no training."""

from __future__ import annotations

import torch
from sklearn import mixture
from torch import Tensor

from models.gaussian_mixture import GaussianMixture
from sde import SDE


def fit_mixture(sde: SDE, data: Tensor, num_components: int, seed: int = 0) -> GaussianMixture:
    """Fit by expectation-maximisation, with full covariances, from k-means.

    Args:
        sde: the forward process.
        data: examples `(N, *dims)` in model units. Quantised data are dequantised first: levels alone have singular
            covariances.
        num_components: number of Gaussians.
        seed: of the initial k-means.

    Raises:
        ValueError: there are fewer examples than components.
    """
    fitted = mixture.GaussianMixture(num_components, random_state=seed).fit(data.double().flatten(1).cpu().numpy())
    weights, means, covariances = (
        torch.from_numpy(array) for array in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    return GaussianMixture(sde, weights, means, covariances)
