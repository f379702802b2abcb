"""Which of several conditions an example has, by a bound under each of them with the same times and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.evaluation.likelihood.dequantisation import UniformDequantiser
from score_sde.models import Given
from score_sde.solvers.density.bounds import continuous_bound, gaussian_decoder

CAPTIONS = ["dark", "bright", "dark or bright"]
SETTINGS = {
    "data.image_size": 8,
    "data.num_channels": 1,
    "model.channels": 8,
    "model.channel_multipliers": (1, 1),
    "model.attention_depths": (1,),
    "training.batch_size": 16,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
    "training.learning_rate": 1e-2,
    "training.warmup_steps": 0,
    "training.ema_decay": 0.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that hears captions, and has hardly been trained."""
    x = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("runs")
    settings = {**SETTINGS, "data.folder": str(folder)}
    return score_sde.fit(
        x,
        condition={"caption": 10 * CAPTIONS},
        workdir=folder / "run",
        config="vp/glyphs",
        num_steps=2,
        settings=settings,
    )


def test_captions_are_ranked_by_the_bound_with_the_same_noise(run):
    """Each number is the continuous bound of the example alone with its own seed, less the noise's density."""
    x = run.dataset.test[:2]
    found = run.rank(x.numpy(), CAPTIONS, seed=3, bound_calls=4, batch_size=2)
    assert found.shape == (2, 3)
    assert found.dtype == np.float64
    assert np.ptp(found, axis=1).min() > 1e-2
    words, device = run.dataset.condition_units["caption"], distributed.device()
    for row in range(2):
        draw = UniformDequantiser(run.dataset.quantised).sample(
            x[row : row + 1], SampleNoise([3 + row], stream="dequantisation")
        )
        x_0 = draw.x.to(device)
        for column, caption in enumerate(CAPTIONS):
            model = Given(run.model, Condition({"caption": words.read([caption])}).to(device))
            bound = continuous_bound(model, x_0, gaussian_decoder(x_0), num_calls=4, seeds=[3 + row])
            np.testing.assert_allclose(found[row, column], float(bound.log_prob - draw.log_q), rtol=1e-5)
    np.testing.assert_allclose(run.rank(x[1].numpy(), CAPTIONS, seed=4, bound_calls=4), found[1], rtol=1e-5)


def test_what_cannot_be_ranked_is_refused(run):
    x = run.dataset.test[:1].numpy()
    with pytest.raises(UserError, match=r"by one bound, not by discrete, continuous"):
        run.rank(x, CAPTIONS, bounds=("discrete", "continuous"))
    with pytest.raises(UserError, match="has the word 'darkly' of 'darkly'"):
        run.rank(x, ["dark", "darkly"])
    with pytest.raises(UserError, match="arrays has no classes"):
        score_sde.fit(
            torch.randn(50, 2), config="vp/vectors", num_steps=1, settings={"model.width": 8, "model.num_blocks": 1}
        ).rank([[0.0, 0.0]], [0, 1])
