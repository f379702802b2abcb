"""What is written of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.evaluation.samples.draw import Samples, write_samples


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
