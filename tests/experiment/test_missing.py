"""From arrays with gaps to what is missing given the rest, and the density of what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.part import observed
from score_sde.data import Batch
from score_sde.data.units import Standardised
from score_sde.experiment.run import Run
from score_sde.models import MLP, ScoreModel, UNet, part_of
from score_sde.models.layers.condition import Picture
from score_sde.sde import VPSDE
from score_sde.solvers import log_likelihood
from score_sde.training.objectives import get_objective, noise_losses
from tests.experiment.test_checkpoints import flags
from tests.experiment.test_checkpoints import run as run_main

SMALL = {"data.missing": True, "training.batch_size": 64, "model.width": 16, "training.sample_every": 0}


def with_gaps(count: int = 300) -> np.ndarray:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 3)) @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 3.0]]) + [0, 5, 9]
    x[:, 1:][generator.random((count, 2)) < 0.3] = np.nan
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "gaps.npy", with_gaps())
    return score_sde.fit(folder / "gaps.npy", num_steps=30, workdir=folder / "gaps", settings=SMALL)


def test_what_is_missing_is_filled_and_the_rest_stays(run: Run) -> None:
    x = with_gaps()[:40]
    x = x[np.isnan(x).any(1)]
    filled = run.fill(x, 3, num_steps=4)
    assert filled.shape == (3, *x.shape)
    known = ~np.isnan(x)
    np.testing.assert_array_equal(filled[:, known], np.broadcast_to(x[known], (3, known.sum())))
    assert np.isfinite(filled).all()
    # A fill depends on its own seed alone, and so does that of one example.
    np.testing.assert_array_equal(run.fill(x, num_steps=4), filled[0])
    np.testing.assert_allclose(run.fill(x[0], num_steps=4), filled[0, 0], rtol=1e-5)


def test_densities_of_what_is_observed_are_the_models_in_data_units(run: Run) -> None:
    x, units = torch.from_numpy(with_gaps()[:6]), run.dataset.units
    assert isinstance(units, Standardised)
    encoded = units.encode(x).to(distributed.device())
    options: dict[str, Any] = {"divergence": "exact"}
    expected = log_likelihood(part_of(run.model, observed(encoded)), encoded.nan_to_num(), **options).log_prob
    expected = expected.double().cpu()
    expected -= (~x.isnan() * units.std.log()).sum(1)
    log_prob = run.log_prob(x, **options)
    np.testing.assert_allclose(log_prob, expected, atol=2e-4)
    np.testing.assert_allclose(
        run.bits_per_dim(x, **options), -log_prob / np.log(2) / (~x.isnan()).sum(1).numpy(), rtol=1e-9
    )
    # Given the first number: by the model of the others, each of which has a scale.
    whole = x.nan_to_num(8.0)
    given = torch.tensor([True, False, False])
    encoded = units.encode(whole).to(distributed.device())
    expected = log_likelihood(part_of(run.model, observed(encoded, given)), encoded, **options).log_prob
    expected = expected.double().cpu()
    conditional = run.log_prob(whole, given=given, **options)
    np.testing.assert_allclose(conditional, expected - units.std[1:].log().sum(), atol=2e-4)


def test_mode_likelihood_measures_what_is_observed(run: Run) -> None:
    """As `run.bits_per_dim`, but for float32 in other batches; the mean is over examples, whatever they lack."""
    assert run.folder is not None
    exact = {"likelihood.divergence": "exact", "likelihood.batch_size": "4", "likelihood.num_examples": "10"}
    assert run_main("--mode=likelihood", f"--workdir={run.folder}", *flags(exact)) == 0
    found = json.loads((run.folder / "likelihood" / "test.json").read_text(encoding="utf-8"))
    test = run.dataset.test[:10]
    assert bool(test.isnan().any())
    bits = run.bits_per_dim(test.numpy(), divergence="exact", batch_size=4)
    assert found["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-6)
    assert found["standard_error"] == pytest.approx(bits.std(ddof=1) / 10**0.5, rel=1e-6)
    assert found["bounds"] == {}
    assert found["log_prob"] == pytest.approx(run.log_prob(test.numpy(), divergence="exact", batch_size=4).mean())
    assert abs(found["solver_error"]["mean"]) < 1e-3
    rows = (run.folder / "likelihood" / "test.csv").read_text(encoding="utf-8").split()[1:]
    np.testing.assert_allclose([float(row.split(",")[1]) for row in rows], bits, rtol=1e-5)
    assert not (run.folder / "likelihood" / "test_extremes.png").exists()


def test_modes_that_need_whole_examples(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for mode, values, said in [
        ("likelihood", {"likelihood.method": "tuned"}, "likelihood.method=tuned is for whole examples"),
        ("likelihood", {"likelihood.prior": "data"}, "likelihood.prior=data is for whole examples"),
        ("compare", {}, "lacks numbers, and mode compare is for whole examples"),
        ("tune", {}, "lacks numbers, and mode tune is for whole examples"),
        ("edit", {"edit.input": "test:0"}, "lacks numbers, and mode edit is for whole examples"),
    ]:
        capsys.readouterr()
        assert run_main(f"--mode={mode}", f"--workdir={run.folder}", *flags(values)) == 1
        share, line = capsys.readouterr().err.splitlines()
        assert "of the numbers of training examples are missing" in share
        assert said in line


def test_a_run_with_gaps_is_loaded_with_its_units_and_sampled(run: Run) -> None:
    assert run.folder is not None
    again = score_sde.load(run.folder)
    np.testing.assert_array_equal(again.sample(5, num_steps=3), run.sample(5, num_steps=3))
    assert again.model.gaussian is None


def test_the_loss_is_of_what_is_modelled_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    modelled = torch.tensor([[True, False, True], [False, False, True]])
    x_0, noise = torch.randn(2, 3, generator=generator) * modelled, torch.randn(2, 3, generator=generator)

    class Zero(nn.Module):
        def forward(self, x: torch.Tensor, noise_label: torch.Tensor) -> torch.Tensor:
            # States are 0 where nothing is modelled: nothing of what is hidden comes this way.
            assert torch.equal(x == 0, ~modelled)
            return 0 * x

    t = torch.full((2,), 0.3, dtype=torch.float64)
    losses = noise_losses(ScoreModel(Zero(), VPSDE()), x_0, noise, t, modelled)
    expected = [(noise[0, 0] ** 2 + noise[0, 2] ** 2) / 2, noise[1, 2] ** 2]
    torch.testing.assert_close(losses, torch.stack(expected))
    # DDPM's sum, halved, is that many times as much.
    sums = get_objective(VPSDE(), reduce_mean=False)(ScoreModel(Zero(), VPSDE()), Batch(x_0, None, modelled))
    torch.manual_seed(0)
    assert sums.values.shape == (2,)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP(6, width=8, conditions={"part": Picture(18)}), (2, 3)),
        (UNet(2, dims=1, conditions={"part": Picture(6)}), (2, 8)),
    ],
    ids=["mlp", "unet"],
)
def test_networks_hear_which_part(network: nn.Module, shape: tuple[int, int]) -> None:
    """To say nothing is to say that all is modelled; and what is said is heard."""
    for weight in network.requires_grad_(False).parameters():
        nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    x, label = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)), torch.ones(2)
    whole = observed(x).beside()
    torch.testing.assert_close(network(x, label, whole), network(x, label), rtol=1e-5, atol=1e-6)
    given = torch.zeros(shape, dtype=torch.bool)
    given[0, 0] = True
    told = observed(x, given).beside(Condition({"part": torch.zeros(2, 1)}))
    assert float((network(x, label, told) - network(x, label)).abs().amin()) > 1e-6


BAD: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "levels": (np.zeros((30, 8, 8), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None], {}, "without levels"),
    "few steps": (with_gaps(), {"model.flow_map": True, "training.objective": "lagrangian"}, "and no model.flow_map"),
    "measures": (with_gaps(), {"training.measure_every": 1}, "samples are measured beside whole examples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refused(kind: str, tmp_path: Path) -> None:
    x, settings, complaint = BAD[kind]
    with pytest.raises(UserError, match=complaint):
        score_sde.fit(x, num_steps=1, workdir=tmp_path / "run", settings={"data.missing": True, **settings})
    with pytest.raises(UserError, match="missing=True"):
        score_sde.fit(with_gaps(), num_steps=1)


def test_what_a_run_refuses(run: Run) -> None:
    with pytest.raises(UserError, match="nothing is missing of example 0"):
        run.fill(np.zeros((1, 3)))
    with pytest.raises(UserError, match="nothing is observed of example 1"):
        run.log_prob(np.array([[1.0, 2, 3], [np.nan] * 3]))
    with pytest.raises(UserError, match="not finite"):
        run.log_prob(np.array([[1.0, 2, np.inf]]))
