"""A fit recovers the mixture that the data came from, and is scikit-learn's."""

from __future__ import annotations

import numpy as np
import torch
from sklearn import mixture

from score_sde.models.gaussian_mixture import fit_mixture
from score_sde.sde import VPSDE


def test_fit_recovers_weights_means_and_covariances() -> None:
    generator = np.random.default_rng(0)
    first = generator.multivariate_normal([-3, 0], [[0.5, 0.2], [0.2, 0.3]], 6000)
    second = generator.multivariate_normal([2, 1], [[0.1, 0.0], [0.0, 0.4]], 2000)
    model = fit_mixture(VPSDE(), torch.from_numpy(np.concatenate([first, second])), 2)
    order = model.means[:, 0].argsort()
    covariances = (model.basis @ torch.diag_embed(model.eigenvalues) @ model.basis.mT)[order]
    # Four standard errors of 2000 samples' weights, means and covariances.
    torch.testing.assert_close(model.log_weights.exp()[order], torch.tensor([0.75, 0.25]).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(model.means[order], torch.tensor([[-3.0, 0], [2, 1]]).double(), atol=0.06, rtol=0)
    expected = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 0.4]]]).double()
    torch.testing.assert_close(covariances, expected, atol=0.05, rtol=0)


def test_fit_of_images_has_scikit_learns_density() -> None:
    sde, images = VPSDE(), torch.rand(300, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    model = fit_mixture(sde, images, 3, seed=1)
    flat = images.double().flatten(1).numpy()
    expected = mixture.GaussianMixture(3, random_state=1).fit(flat).score_samples(flat)
    found = model.log_prob(images.double(), torch.tensor(0.0))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-8)
