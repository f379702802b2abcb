"""What is written of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from score_sde import VPSDE, GaussianMixture, get_solver
from score_sde.common.errors import UserError
from score_sde.common.plots import examples_pixels
from score_sde.data import Dataset
from score_sde.data.units import Standardised
from score_sde.evaluation.samples.draw import Samples, draw_samples, write_samples
from score_sde.models.analytic_variance import FixedVariance
from tests.reading import image


def test_samples_that_are_not_finite_are_left_out_and_counted(tmp_path):
    dataset = Dataset("points", torch.zeros(3, 2), torch.zeros(3, 2))
    x = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [3.0, 4.0]])
    with pytest.raises(UserError, match=r"1 of 3 samples are not finite and left out of .*ddim\.npz"):
        write_samples(Samples(x, 5, 0.1), [7, 8, 9], dataset, tmp_path, "ddim")
    written = np.load(tmp_path / "ddim.npz")
    assert written["seeds"].tolist() == [7, 9]
    assert written["vectors"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(UserError, match="1 of 1 samples are not finite: take more steps"):
        write_samples(Samples(x[1:2], 5, 0.1), [8], dataset, tmp_path, "euler")
    assert not (tmp_path / "euler.npz").exists()


@pytest.mark.parametrize(("shape", "name"), [((3,), "vectors"), ((1, 16), "samples"), ((1, 6, 8), "samples")])
def test_samples_of_every_kind_are_written_in_data_units_and_shown(tmp_path, shape, name):
    """What models see has mean 0 and deviation 1; files have 5000 + 700 x, in the dtype of the data."""
    data = 5000 + 700 * torch.randn(40, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units = Standardised(torch.full((), 5000.0).double(), torch.full((), 700.0).double(), torch.float64)
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
    dataset = Dataset("numbers", data[:30], data[30:], units)
    numbers, picture = write_samples(Samples(x, 5, 0.1), list(range(6)), dataset, tmp_path, "ddim")
    written = np.load(numbers)[name]
    assert written.dtype == np.float64
    np.testing.assert_array_equal(written, 5000 + 700 * x.double().numpy())
    drawn = examples_pixels(dataset.kind, written, data[:30].numpy())
    np.testing.assert_array_equal(image(picture)[..., :3], drawn)


def test_steps_have_the_variance_that_the_model_knows():
    """Samples that are drawn and counted are those of the solver alone, with whatever variance its steps have."""
    model = GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    solver, seeds = get_solver("pc", num_steps=5), list(range(8))
    x_T = model.sde.prior_sample((8, 2), seeds=seeds)
    for data_std in (0.0, 1.0):
        of_steps = FixedVariance(model, data_std)
        drawn = draw_samples(of_steps, solver, (2,), seeds, 8, progress=False).x
        assert torch.equal(drawn, solver(of_steps, x_T, seeds=seeds).x)
    assert not torch.equal(drawn, draw_samples(FixedVariance(model), solver, (2,), seeds, 8, progress=False).x)
