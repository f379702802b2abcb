"""A Gaussian mixture fitted to data: a model with an exact score that needs no training."""

from __future__ import annotations

import warnings

import torch
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from errors import UserError
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
        UserError: a component has fewer examples than a covariance takes, as where many are alike.
    """
    flat = data.double().flatten(1).cpu().numpy()
    try:
        with warnings.catch_warnings():
            # Where it has not converged, or examples are alike, it is a mixture all the same, and its score exact.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = mixture.GaussianMixture(num_components, random_state=seed).fit(flat)
    except ValueError as error:
        raise UserError(
            f"{num_components} Gaussians cannot be fitted to {len(flat)} examples: take fewer, model.num_components"
        ) from error
    weights, means, covariances = (
        torch.from_numpy(array) for array in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    return GaussianMixture(sde, weights, means, covariances)
