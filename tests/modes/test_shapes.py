"""Data of every kind from end to end, from the command line: numbers go in and come out in the units of the data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from score_sde import VPSDE, get_solver, load, load_dataset
from score_sde.data.units import standardised
from score_sde.evaluation.samples.draw import draw_samples
from tests.modes.test_main import complaint, run

__all__ = ["complaint"]

# Of each kind: the shape and dtype of examples as files have them, and where they lie.
KINDS = {
    "vectors": ((3,), np.float64, 1.7e9, 1.0),
    "series": ((2, 7), np.float32, 7.0, 1e-3),
    "images": ((6, 5, 3), np.uint8, 0, 0),
    "fields": ((1, 6, 5), np.float64, 5000.0, 700.0),
    "volumes": ((1, 4, 3, 5), np.float32, 0.0, 1000.0),
    "volumes of levels": ((1, 4, 3, 5), np.uint8, 0, 0),
}
NAMES = {"vectors": "vectors", "images": "images"}
DATA = ["--config.data.test_share=0.25"]
UNET = ["--config.model.channels=8", "--config.model.channel_multipliers=1"]
TRAIN = ["--config.training.num_steps=3", "--config.training.batch_size=4", "--config.training.sample_every=0"]
SAMPLE = ["--config.sampling.num_samples=5", "--config.sampling.num_steps=2", "--config.sampling.batch_size=3"]
CHEAP = ["num_examples=3", "batch_size=2", "method=adams", "num_steps=6", "num_checks=0", "bounds="]
LIKELIHOOD = [f"--config.likelihood.{option}" for option in CHEAP]
ONE_ROUND = ["solvers=ddim,dpmpp_2m", "budgets=2", "num_samples=10", "num_trajectories=0", "repetitions=1"]
COMPARE = [f"--config.compare.{option}" for option in ONE_ROUND]
EDIT = ["input=test:0-1", "method=projection", "solver=ddim", "num_steps=2", "num_samples=2", "mask=random"]
INPAINT = [f"--config.edit.{option}" for option in EDIT]


def write_data(path: Path, kind: str) -> None:
    """Write some examples."""
    shape, dtype, place, scale = KINDS[kind]
    generator = np.random.default_rng(0)
    if dtype == np.uint8:
        np.save(path, generator.integers(0, 256, (60, *shape), dtype=np.uint8))
    else:
        np.save(path, (place + scale * generator.standard_normal((60, *shape))).astype(dtype))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Write figures empty: what they show is tested in `tests/common/test_pictures.py`, and drawing takes seconds."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: Path(path).touch())
    monkeypatch.setattr("score_sde.common.plots.pixels", lambda figure: np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_from_end_to_end(kind, tmp_path, capsys, undrawn):
    path, folder = tmp_path / "data.npy", tmp_path / "run"
    write_data(path, kind)
    shape, dtype, _, scale = KINDS[kind]
    network = ["--config.model.width=8"] if kind == "vectors" else UNET
    assert run("--mode=train", f"--config.data.path={path}", *DATA, *network, *TRAIN, "--workdir", folder) == 0
    newest = folder / "checkpoints" / "step_0000003.pt"
    trained, dataset = load(newest), load_dataset(path=path, test_share=0.25)
    assert dataset.kind == kind.split()[0]

    assert run("--mode=sample", "--workdir", folder, *SAMPLE) == 0
    drawn = np.load(folder / "samples" / "default.npz")
    samples = drawn[NAMES.get(kind, "samples")]
    solver = get_solver("default", num_steps=2, data_std=trained.config.sampling.data_std)
    x = draw_samples(trained.model, solver, dataset.shape, list(range(5)), 3, progress=False).x
    examples = dataset.units.decode(x)
    assert (samples.dtype, samples.shape) == (dtype, (5, *shape))
    np.testing.assert_array_equal(samples, examples.movedim(1, -1) if kind == "images" else examples)

    assert run("--mode=likelihood", "--workdir", folder, *LIKELIHOOD) == 0
    summary = json.loads((folder / "likelihood" / "test.json").read_text())
    options: dict[str, Any] = {"batch_size": 2, "method": "adams", "num_steps": 6}
    log_prob = trained.log_prob(dataset.test[:3], **options)
    # A GPU adds up gradients in an order that no two runs share.
    rel = 1e-6 if torch.cuda.is_available() else 0
    assert summary["log_prob"] == pytest.approx(log_prob.mean(), rel=rel, abs=0)
    assert summary["nats_per_dim"] == pytest.approx(-log_prob.mean() / np.prod(shape), rel=max(rel, 1e-12))
    bits_per_dim = trained.bits_per_dim(dataset.test[:3], **options).mean()
    assert summary["bits_per_dim"] == pytest.approx(bits_per_dim, rel=max(rel, 1e-12))
    printed = capsys.readouterr().out
    if dtype == np.uint8:
        assert f"{summary['bits_per_dim']:.4f} ± " in printed
        assert "nats" not in printed
    else:
        assert (summary["levels"], "dequantisation" in summary) == (None, False)
        assert f"{summary['nats_per_dim']:.4f} ± " in printed
        assert " nats/dim in data units (" in printed
        assert "levels" not in printed

    assert run("--mode=compare", "--workdir", folder, *COMPARE) == 0
    with open(folder / "compare" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["solver"] for row in rows] == ["ddim", "dpmpp_2m", "data"]
    assert np.isfinite([float(row[name]) for row in rows for name in ("frechet", "sliced_wasserstein", "c2st")]).all()

    assert run("--mode=edit", "--workdir", folder, *INPAINT) == 0
    edited = np.load(folder / "edit" / "inpaint.npz")
    given = dataset.test[:2].movedim(1, -1) if kind == "images" else dataset.test[:2]
    assert edited["answers"].dtype == dtype
    np.testing.assert_allclose(edited["inputs"], given, rtol=0, atol=1e-6 * max(scale, 7 * 2**-4))
    same = edited["answers"] == edited["inputs"][:, None]
    # Half of the places are kept, and no other; of the volumes 30 of 60, of three columns one.
    places = same.all((0, 1)).all(-1 if kind == "images" else 0) if len(shape) > 1 else same.all((0, 1))
    assert places.sum() == places.size - round(places.size / 2)

    # Alone, and from another folder, when the data are gone.
    alone, elsewhere = tmp_path / "elsewhere" / "alone.pt", tmp_path / "elsewhere" / "results"
    alone.parent.mkdir()
    newest.rename(alone)
    other = path.rename(tmp_path / "other.npy")
    assert run("--mode=sample", "--checkpoint", alone, "--workdir", elsewhere, *SAMPLE) == 0
    again = np.load(elsewhere / "samples" / "default.npz")[NAMES.get(kind, "samples")]
    np.testing.assert_array_equal(again, samples)
    from_alone = ["--checkpoint", str(alone), "--workdir", str(elsewhere), f"--config.data.path={other}"]
    assert run("--mode=likelihood", *from_alone, *LIKELIHOOD) == 0
    measured = json.loads((elsewhere / "likelihood" / "test.json").read_text())["log_prob"]
    assert measured == pytest.approx(log_prob.mean(), rel=rel, abs=0)


SERIES = ["--config=vp/series", "--config.model.network=mixture", "--config.model.num_components=1"]
HIDDEN = np.arange(12) // 3 % 3 == 1  # by a box from the third to the sixth of twelve


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory) -> Path:
    """A folder with series that are normal, and correlated, around 5000."""
    folder = tmp_path_factory.mktemp("gaussian")
    times = np.arange(12)
    factor = np.linalg.cholesky(np.exp(-np.abs(times[:, None] - times) / 4))
    normal = np.random.default_rng(0).standard_normal((2000, 1, 12))
    np.save(folder / "series.npy", 5000 + 700 * normal @ factor.T)
    return folder


def edited(folder: Path, task: str, *arguments: str) -> tuple[dict, dict]:
    """Edit the first test series by the exact model of the Gaussian; return the arrays and the numbers."""
    data = f"--config.data.path={folder / 'series.npy'}"
    assert run("--mode=edit", *SERIES, data, "--workdir", folder, f"--config.edit.task={task}", *arguments) == 0
    numbers = json.loads((folder / "edit" / f"{task}.json").read_text())
    return dict(np.load(folder / "edit" / f"{task}.npz")), numbers


def moments(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the model's mean and covariance, in data units, the first test series, and their standard deviation."""
    dataset = load_dataset(path=folder / "series.npy")
    train = dataset.train[:, 0].numpy()
    return (
        train.mean(0),
        np.cov(train.T, bias=True),
        dataset.test[:2, 0].numpy(),
        standardised(dataset.train).std.item(),
    )


def test_what_is_hidden_of_a_series_is_distributed_as_given_the_rest(gaussian):
    """As the conditional Gaussian is, by RePaint, which comes near with its repeats; what is observed is kept."""
    count = 100
    options = ["input=test:0-1", f"num_samples={count}", "box=0.25,0.25", "method=repaint", "solver=ddim"]
    options += ["num_steps=25", "repeats=20"]
    several = ["--config.sampling.batch_size=200", *(f"--config.edit.{option}" for option in options)]
    arrays, numbers = edited(gaussian, "inpaint", *several)
    mean, covariance, series, std = moments(gaussian)
    np.testing.assert_allclose(arrays["inputs"][:, 0], series, rtol=1e-9, atol=1e-3)
    np.testing.assert_array_equal(np.isnan(arrays["observed"][:, 0]), [HIDDEN, HIDDEN])
    np.testing.assert_allclose(arrays["observed"][:, 0, ~HIDDEN], series[:, ~HIDDEN], rtol=0, atol=1e-3)
    gain = covariance[HIDDEN][:, ~HIDDEN] @ np.linalg.inv(covariance[~HIDDEN][:, ~HIDDEN])
    expected = mean[HIDDEN] + (series[:, ~HIDDEN] - mean[~HIDDEN]) @ gain.T
    left = np.sqrt(np.diag(covariance[HIDDEN][:, HIDDEN] - gain @ covariance[~HIDDEN][:, HIDDEN]))
    answers = arrays["answers"][:, :, 0, HIDDEN]
    # Three standard errors of means and deviations; without what was observed means would lie 18 of them away.
    assert np.abs((expected - mean[HIDDEN]) / left).max() * np.sqrt(count) > 15
    np.testing.assert_allclose((answers.mean(1) - expected) / left, 0, atol=3 / np.sqrt(count))
    np.testing.assert_allclose(answers.std(1, ddof=1) / left, 1, atol=3 / np.sqrt(2 * count))
    np.testing.assert_allclose(
        arrays["answers"][:, :, 0, ~HIDDEN], series[:, None, ~HIDDEN].repeat(count, 1), rtol=1e-6
    )
    assert numbers["largest_misfit_in_standard_deviations"] == 0
    assert numbers["spread_in_standard_deviations"] == pytest.approx(
        np.sqrt(arrays["answers"].var(1, ddof=1).mean()) / std, rel=1e-4
    )


def test_latents_of_series_are_those_of_the_gaussian(gaussian):
    """Along eigenvectors of the covariance the flow stretches by the ratio of the deviations at its two ends."""
    tight = ["--config.sampling.rtol=1e-6", "--config.sampling.atol=1e-6", "--config.edit.input=test:0-1"]
    arrays, numbers = edited(gaussian, "encode", *tight)
    assert numbers["largest_difference_from_the_input_in_standard_deviations"] < 1e-4
    mean, covariance, series, std = moments(gaussian)
    np.testing.assert_allclose(arrays["answers"][:, 0, 0], series, rtol=0, atol=1e-4 * std)
    variances, basis = np.linalg.eigh(covariance / std**2)
    sde = VPSDE()
    start, end = (sde.at(torch.tensor(t, dtype=torch.float64)) for t in (sde.t_min, sde.T))
    deviations = [np.sqrt(float(at.alpha) ** 2 * variances + float(at.sigma) ** 2) for at in (start, end)]
    centre = (mean - mean.mean()) / std @ basis
    latents = float(end.alpha) * centre + ((series - mean.mean()) / std @ basis - float(start.alpha) * centre) * (
        deviations[1] / deviations[0]
    )
    assert numbers["root_mean_square_of_the_latents"] == pytest.approx(np.sqrt((latents**2).mean()), rel=1e-4)
    arrays, numbers = edited(gaussian, "interpolate", *tight, "--config.edit.num_samples=3")
    assert numbers["largest_difference_of_the_ends_in_standard_deviations"] < 1e-4
    np.testing.assert_allclose(arrays["answers"][0, [0, 2], 0], series, rtol=0, atol=1e-4 * std)


def test_edits_that_mean_nothing_are_refused(gaussian, complaint, tmp_path, monkeypatch):
    data = ["--mode=edit", *SERIES, f"--config.data.path={gaussian / 'series.npy'}", "--workdir", tmp_path]

    def line(*arguments: str) -> str:
        return complaint(*data, *arguments)

    # Of the reading there is nothing to be said here.
    monkeypatch.setattr("score_sde.common.distributed.note", lambda line: None)
    one = "--config.edit.input=test:0"
    tasks = "do: inpaint, superres, deblur, sdedit, vary, interpolate, encode"
    colour = line(one, "--config.edit.task=colorize")
    assert colour.endswith(f"colorize means nothing for series, as series has; {tasks}")
    assert "a box is (start, length)" in line(one, "--config.edit.box=0.25,0.25,0.5,0.5")
    assert "of series a mask is box or random" in line(one, "--config.edit.mask=mask.png")
    assert "files are of pictures, and series has series" in line("--config.edit.input=picture.png")
    factor = ["--config.edit.task=superres", "--config.edit.factor=5"]
    assert "series of 12 cannot be had from smaller ones by edit.factor=5" in line(one, *factor)
