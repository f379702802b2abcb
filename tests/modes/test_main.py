"""The command line from end to end, and what it says to mistakes."""

from __future__ import annotations

import csv
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from absl.testing import flagsaver
from PIL import Image
from scipy.stats import multivariate_normal

from score_sde import __main__ as main
from score_sde import load
from score_sde.common import distributed
from score_sde.common.noise import SampleNoise
from score_sde.data import Bins, load_dataset
from score_sde.evaluation.likelihood.measurement import Measurement
from score_sde.evaluation.samples.inception import Extractors, measure_images
from score_sde.experiment import build, configuration, sampling
from score_sde.solvers import get_solver, log_likelihood
from score_sde.solvers.fast.gits import gits_times
from tests.evaluation.samples.test_inception import Linear
from tests.reading import ROOT, image

TOY = ["--config", "configs/vp/eight_gaussians.py", "--config.model.width=16", "--config.model.num_blocks=1"]
SHORT = ["--config.training.num_steps=20", "--config.training.checkpoint_every=10", "--config.data.validation=100"]
DIGITS = ["--config.model.channels=4", "--config.model.num_blocks=1", "--config.data.validation=20"]


def run(*arguments: str | Path) -> int:
    """Return the exit code of `python main.py` with these arguments, in this process."""
    with flagsaver.flagsaver():
        try:
            return main.main(main.parse(["main.py", *map(str, arguments)]))
        except SystemExit as exit_:
            return int(exit_.code or 0)


@pytest.fixture
def complaint(capsys) -> Callable[..., str]:
    """Run the command line, which must fail with one line on stderr; return the line."""

    def failing(*arguments: str) -> str:
        capsys.readouterr()
        assert run(*arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return failing


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A workdir with a model of points in the plane, trained for 20 steps."""
    folder = tmp_path_factory.mktemp("toy")
    assert run("--mode=train", *TOY, *SHORT, "--workdir", folder) == 0
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A workdir with a tiny model of the digits, trained for 20 steps with the default configuration file."""
    folder = tmp_path_factory.mktemp("digits")
    assert run("--mode=train", *DIGITS, *SHORT, "--workdir", folder) == 0
    return folder


def test_training_leaves_its_configuration_checkpoints_and_logs(digits):
    config = json.loads((digits / "config.json").read_text())
    assert config["model"]["channels"] == 4
    assert config["training"]["num_steps"] == 20
    assert config["sde"]["name"] == "vp"
    stems = ("best", "step_0000010", "step_0000020")
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".pt", ".safetensors")]
    assert sorted(path.name for path in (digits / "checkpoints").iterdir()) == names
    with open(digits / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["step"] == "20"
    # By noise level, of log-SNR from about 11 down to about -10.
    assert sum(name.startswith("loss_at_log_snr/") for name in rows[-1]) == 8
    assert list((digits / "logs").glob("events.out.tfevents.*"))


def test_samples_of_images(digits):
    arguments = ["--config.sampling.solver=ddim", "--config.sampling.num_steps=5", "--config.sampling.num_samples=10"]
    assert run("--mode=sample", "--workdir", digits, *arguments) == 0
    drawn = np.load(digits / "samples" / "ddim.npz")
    assert drawn["images"].shape == (10, 8, 8, 1)
    assert drawn["images"].dtype == np.uint8
    assert set(np.unique(drawn["images"])) <= {round(255 * level / 16) for level in range(17)}
    assert int(drawn["nfe"]) == 5
    assert float(drawn["seconds"]) > 0
    # 4 x 3 cells of 8 pixels and a gap of 1, six times enlarged.
    assert image(digits / "samples" / "ddim.png").shape[:2] == (6 * (3 * 9 + 1), 6 * (4 * 9 + 1))


def drawn_points(toy, tmp_path, *arguments) -> np.ndarray:
    newest = toy / "checkpoints" / "step_0000020.pt"
    assert run("--mode=sample", "--checkpoint", newest, "--workdir", tmp_path, *arguments) == 0
    return np.load(tmp_path / "samples" / "ddim.npz")["vectors"]


def test_samples_depend_on_their_own_seeds_alone(toy, tmp_path):
    """Whatever the batch size, and whichever of them are drawn; `eta` 1 makes the solver draw noise of its own."""
    options = ["--config.sampling.solver=ddim", "--config.sampling.num_steps=5", "--config.sampling.eta=1"]
    together = drawn_points(toy, tmp_path, *options, "--config.sampling.num_samples=64")
    again = drawn_points(toy, tmp_path, *options, "--config.sampling.num_samples=64")
    assert np.array_equal(together, again)
    alone = ["--config.sampling.num_samples=8", "--config.sampling.batch_size=1"]
    one_by_one = drawn_points(toy, tmp_path, *options, *alone)
    np.testing.assert_allclose(one_by_one, together[:8], rtol=1e-4, atol=1e-5)
    shifted = drawn_points(toy, tmp_path, *options, *alone, "--config.seed=5")
    np.testing.assert_allclose(shifted[:3], together[5:8], rtol=1e-4, atol=1e-5)
    assert np.abs(shifted[0] - together[0]).max() > 0.01


def test_a_checkpoint_brings_its_configuration(toy, tmp_path):
    drawn = drawn_points(toy, tmp_path, "--config.sampling.solver=ddim", "--config.sampling.num_samples=3")
    assert drawn.shape == (3, 2)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["width"] == 16


def test_weights_alone_are_a_checkpoint_too(toy, tmp_path):
    options = ["--config.sampling.solver=ddim", "--config.sampling.num_samples=3"]
    drawn = drawn_points(toy, tmp_path / "whole", *options)
    weights = toy / "checkpoints" / "step_0000020.safetensors"
    assert run("--mode=sample", "--checkpoint", weights, "--workdir", tmp_path / "alone", *options) == 0
    assert np.array_equal(np.load(tmp_path / "alone" / "samples" / "ddim.npz")["vectors"], drawn)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_brings_the_folder_of_its_run_or_one_of_its_own_name(toy, tmp_path, monkeypatch, capsys, suffix):
    """Also where the default run is of another model; and what is written beside another model is noted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    other = configuration.load_file("configs/vp/digits.py")
    configuration.save(other, tmp_path / "runs" / "digits" / "config.json")
    run_folder = tmp_path / "toy" / "checkpoints"
    run_folder.mkdir(parents=True)
    newest = shutil.copy(toy / "checkpoints" / f"step_0000020{suffix}", run_folder)
    options = ["--mode=sample", "--config.sampling.num_samples=2", "--config.sampling.num_steps=3"]
    assert run(*options, "--checkpoint", newest) == 0
    assert (tmp_path / "toy" / "samples" / "default.npz").exists()
    best = shutil.copy(newest, tmp_path / f"best{suffix}")
    assert run(*options, "--checkpoint", best) == 0
    assert (tmp_path / "runs" / "best" / "samples" / "default.npz").exists()
    assert not (tmp_path / "runs" / "digits" / "samples").exists()
    assert capsys.readouterr().err == ""
    shutil.copy(toy / "checkpoints" / "step_0000020.pt", run_folder)
    assert run(*options, "--checkpoint", best, "--workdir", "toy") == 0
    assert capsys.readouterr().err.startswith("note: toy is the run of another model than ")


def test_a_folder_of_the_users_own_is_meant_by_a_tilde_wherever_a_path_is_taken(toy, tmp_path, monkeypatch, complaint):
    home, here = tmp_path / "home", tmp_path / "here"
    shutil.copytree(toy, home / "toy")
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    shutil.copy(ROOT / "configs" / "vp" / "eight_gaussians.py", home / "own.py")
    options = ["--mode=sample", "--config.sampling.num_samples=2", "--config.sampling.num_steps=3"]
    assert run(*options, "--checkpoint=~/toy/checkpoints/step_0000020.pt", "--config=~/own.py", *TOY[2:], SHORT[2]) == 0
    assert run(*options, "--workdir=~/toy", "--config.sampling.solver=ddim") == 0
    assert sorted(path.name for path in (home / "toy" / "samples").glob("*.npz")) == ["ddim.npz", "default.npz"]
    assert not any(here.iterdir())
    nobody = "there is no folder of the user that ~nobody-of-this-name/x begins with: write it out"
    for flag in ("config", "workdir", "checkpoint"):
        assert complaint("--mode=sample", f"--{flag}=~nobody-of-this-name/x") == f"error: {nobody}"
    named = {"data.folder": "section data: folder", "sampling.classifier": "sampling.classifier"}
    for mode, key in (("likelihood", "data.folder"), ("sample", "sampling.classifier")):
        line = complaint(f"--mode={mode}", "--workdir", toy, f"--config.{key}=~nobody-of-this-name/x")
        assert line == f"error: {named[key]}: {nobody}"


def test_suffixes_of_checkpoints_may_be_in_capitals(toy, tmp_path):
    for suffix in (".pt", ".safetensors"):
        copy = shutil.copy(toy / "checkpoints" / f"step_0000020{suffix}", tmp_path / f"best{suffix.upper()}")
        drawn = ["--mode=sample", "--config.sampling.num_samples=2", "--config.sampling.num_steps=3"]
        assert run(*drawn, "--checkpoint", copy, "--workdir", tmp_path / suffix) == 0


def test_an_average_is_chosen_by_its_decay(toy, tmp_path, complaint):
    options = ["--config.sampling.solver=ddim", "--config.sampling.num_samples=3"]
    drawn = drawn_points(toy, tmp_path / "main", *options)
    assert np.array_equal(drawn_points(toy, tmp_path / "named", *options, "--config.average=0.999"), drawn)
    line = complaint("--mode=sample", "--workdir", toy, "--config.average=0.5")
    assert "no average with decay 0.5; it has: 0.999" in line


def test_inceptions_metrics_of_samples(digits, tmp_path, monkeypatch, complaint, toy, capsys):
    """With a small network in Inception's place; grey digits are shown to it in colour, all levels as 8 bits."""
    extractors = Extractors(*(Linear(scale, 192).requires_grad_(False) for scale in (1.0, 3.0)))
    monkeypatch.setattr(sampling, "inception", lambda weights, device: extractors)
    newest = digits / "checkpoints" / "step_0000020.pt"
    arguments = ["--mode=sample", "--config.sampling.solver=ddim", "--config.sampling.num_samples=20"]
    options = ["--checkpoint", newest, "--workdir", tmp_path, "--config.sampling.metrics=fid, kid,is"]
    assert run(*arguments, *options) == 0
    metrics = json.loads((tmp_path / "samples" / "ddim_metrics.json").read_text())
    samples = torch.from_numpy(np.load(tmp_path / "samples" / "ddim.npz")["images"]).movedim(-1, 1)
    dataset = load_dataset("digits", validation=100)
    real = dataset.levels_to_uint8(dataset.train).movedim(-1, 1)
    expected = measure_images(["fid", "kid", "is"], samples, real, extractors)
    assert metrics.pop("settings")["sampling.solver"] == "ddim"
    assert metrics == {**{name: pytest.approx(value) for name, value in expected.items()},
                       "num_samples": 20, "num_real": 1337}  # fmt: skip
    assert len(list((tmp_path / "samples").glob("fid_statistics_*.safetensors"))) == 1
    # They stay as long as their samples do.
    for more, there in ([], True), (["--config.seed=1"], False):
        capsys.readouterr()
        assert run(*arguments, *options[:4], "--config.sampling.metrics=", *more) == 0
        assert (tmp_path / "samples" / "ddim_metrics.json").exists() == there
        assert ("ddim_metrics.json removed, since what it belonged to is replaced" in capsys.readouterr().err) != there
    line = complaint(*arguments, "--workdir", toy, "--config.sampling.metrics=fid")
    assert "compares images with training images" in line


def test_data_of_ones_own_take_one_command(tmp_path, monkeypatch, capsys):
    """From a folder of photos of all sizes to a grid of samples, bits/dim and distances; then the same folder by
    itself is enough to draw from the model."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "photos" / ("dark" if number % 2 else "bright") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(path)
    data = ["--config.data.path=photos", "--config.data.image_size=8", "--config.data.test_share=0.5"]
    small = ["--config.model.channels=4", "--config.model.num_blocks=1", "--config.model.channel_multipliers=1,2"]
    short = ["num_steps=4", "batch_size=4", "sample_every=2", "measure_every=4", "num_measured=8", "log_every=1"]
    options = [*data, *small, *(f"--config.training.{option}" for option in short)]
    assert run("--mode=train", *options) == 0
    names = sorted(path.name for path in (tmp_path / "runs" / "photos" / "previews").iterdir())
    assert names == ["step_0000002.png", "step_0000004.png"]
    with open(tmp_path / "runs" / "photos" / "metrics.csv") as file:
        row = list(csv.DictReader(file))[-1]
    # Of 8-bit noise hardly anything can be known.
    assert float(row["test_bits_per_dim"]) > 7
    assert float(row["frechet"]) > 0
    assert run("--mode=sample", *data, "--config.sampling.num_samples=2") == 0
    assert np.load(tmp_path / "runs" / "photos" / "samples" / "default.npz")["images"].shape == (2, 8, 8, 3)
    capsys.readouterr()
    assert run("--mode=train", *options, "--config.training.num_steps=6", "--config.training.learning_rate=1e-4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "from now on training.num_steps=6 instead of 4" in lines
    assert "from now on training.learning_rate=0.0001 instead of 0.001" in lines


def test_a_grid_is_chosen_for_the_model_and_kept(toy, tmp_path, capsys):
    options = ["solver=ipndm", "grid=gits", "num_steps=5", "num_samples=4"]
    flags = [f"--config.sampling.{option}" for option in options]
    assert run("--mode=sample", "--workdir", toy, *flags) == 0
    assert "choosing 5 times for this model" in capsys.readouterr().out
    newest = toy / "checkpoints" / "step_0000020"
    times = json.loads((newest / "gits_5.json").read_text())["times"]
    model = load(newest.with_suffix(".pt")).model
    assert times == gits_times(model, 5, (2,), device=distributed.device())
    drawn = np.load(toy / "samples" / "ipndm.npz")["vectors"]
    x_T = model.sde.prior_sample((4, 2), seeds=range(4), device=distributed.device())
    expected = get_solver("ipndm", grid=times)(model, x_T).x
    np.testing.assert_allclose(drawn, load(toy).dataset.units.decode(expected.cpu()), rtol=1e-5, atol=1e-6)
    assert run("--mode=sample", "--workdir", toy, *flags) == 0
    assert "choosing" not in capsys.readouterr().out
    assert run("--mode=sample", "--workdir", toy, "--config.sampling.solver=pc", "--config.sampling.grid=gits") == 1
    assert "grid gits is for solvers of the fast family" in capsys.readouterr().err


def test_options_that_a_solver_lacks_are_noted(toy, tmp_path, capsys):
    drawn_points(toy, tmp_path, "--config.sampling.solver=ddim", "--config.sampling.snr=0.1")
    assert capsys.readouterr().err == "note: solver 'ddim' does not use sampling.snr\n"


def likelihoods(folder: Path) -> tuple[dict, np.ndarray]:
    """Read the JSON file, and the rows of the CSV file."""
    rows = np.loadtxt(folder / "likelihood" / "test.csv", delimiter=",", skiprows=1)
    return json.loads((folder / "likelihood" / "test.json").read_text()), rows


def test_likelihood_of_points_is_that_of_the_gaussian_that_was_fitted(tmp_path):
    """One Gaussian `N(m, C)`, fitted to the data: at `t_min` it is `N(alpha m, alpha^2 C + sigma^2)`."""
    mixture = ["--config", "configs/vp/eight_gaussians.py", "--config.model.network=mixture"]
    exact = ["--config.likelihood.prior=data", "--config.likelihood.rtol=1e-6", "--config.likelihood.t_min=0.01"]
    arguments = [*mixture, *exact, "--config.model.num_components=1", "--config.likelihood.num_examples=50"]
    assert run("--mode=likelihood", *arguments, "--workdir", tmp_path) == 0
    summary, rows = likelihoods(tmp_path)
    data = load_dataset("eight_gaussians", validation=2000)
    train, test = data.train.double().numpy(), data.test[:50].double().numpy()
    alpha_squared = math.exp(-(0.1 * 0.01 + 19.9 * 0.01**2 / 2))
    covariance = alpha_squared * np.cov(train.T, bias=True) + (1 - alpha_squared) * np.eye(2)
    log_prob = multivariate_normal(math.sqrt(alpha_squared) * train.mean(0), covariance).logpdf(test)
    np.testing.assert_allclose(rows[:, 2], log_prob, atol=2e-4)
    np.testing.assert_allclose(rows[:, 1], -log_prob / (2 * math.log(2)), atol=2e-4)
    assert summary["bits_per_dim"] == pytest.approx(rows[:, 1].mean(), rel=1e-12)
    assert summary["nats_per_dim"] == pytest.approx(-rows[:, 2].mean() / 2, rel=1e-12)
    assert summary["standard_error"] == pytest.approx(rows[:, 1].std(ddof=1) / math.sqrt(50), rel=1e-12)
    assert (summary["num_examples"], summary["t_min"], summary["levels"]) == (50, 0.01, None)
    assert list(rows[:, 0]) == list(range(50))


def test_likelihood_of_images_counts_their_own_levels(digits, tmp_path, on_cpu):
    """`-log2 P(k) / d <= -log2 p(x) / d - log2(2 / 17)`; each example's number is its own, whatever the batch."""
    newest = digits / "checkpoints" / "step_0000020.pt"
    options = ["--config.likelihood.num_examples=4", "--config.likelihood.t_min=1e-3"]
    # Adaptive steps may be others on another device.
    options += ["--config.likelihood.method=adams", "--config.likelihood.num_steps=30"]
    arguments = ["--mode=likelihood", "--checkpoint", newest, "--workdir", tmp_path, *options]
    assert run(*arguments) == 0
    summary, together = likelihoods(tmp_path)
    np.testing.assert_allclose(together[:, 1], -together[:, 2] / (64 * math.log(2)), rtol=1e-12)
    noise = SampleNoise(range(4), stream="dequantisation")
    x = Bins(17).encode(load_dataset("digits").test[:4], noise)
    model = load(newest).model
    density = log_likelihood(model, x, t_min=1e-3, seeds=range(4), method="adams", num_steps=30).log_prob
    np.testing.assert_allclose(together[:, 2], density + 64 * math.log(2 / 17), rtol=1e-6)
    assert summary["bits_per_dim"] == pytest.approx(together[:, 1].mean(), rel=1e-12)
    assert (summary["levels"], summary["checkpoint"]) == (17, str(newest))
    assert run(*arguments, "--config.likelihood.batch_size=1") == 0
    _, alone = likelihoods(tmp_path)
    np.testing.assert_allclose(alone[:, 1], together[:, 1], rtol=1e-4)


def test_likelihoods_go_on_where_they_were_interrupted(digits, tmp_path, monkeypatch):
    """The third batch of five fails; the second run measures only the rest, and writes what one run writes."""
    newest = digits / "checkpoints" / "step_0000020.pt"
    options = ["num_examples=5", "batch_size=1", "num_checks=2", "t_min=1e-3", "bound_calls=2", "save_latents=True"]
    arguments = ["--mode=likelihood", "--checkpoint", newest, *(f"--config.likelihood.{option}" for option in options)]
    assert run(*arguments, "--workdir", tmp_path / "whole") == 0
    measured: list[list[int]] = []

    def measure(self, examples, seeds, fails=True):
        if fails and len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(seeds)
        return whole(self, examples, seeds)

    whole = Measurement.__call__
    monkeypatch.setattr(Measurement, "__call__", measure)
    assert run(*arguments, "--workdir", tmp_path / "parts") == 130
    monkeypatch.setattr(Measurement, "__call__", partialmethod(measure, fails=False))
    assert run(*arguments, "--workdir", tmp_path / "parts") == 0
    assert measured == [[0], [1], [2], [3], [4]]
    one, two = (likelihoods(tmp_path / name) for name in ("whole", "parts"))
    np.testing.assert_array_equal(one[1], two[1])
    for key in ("bits_per_dim", "standard_error", "bounds", "standard_deviations", "solver_error", "nfe"):
        assert one[0][key] == two[0][key]
    names = ["test.csv", "test.json", "test.png", "test_extremes.png", "test_latents.npz"]
    assert sorted(path.name for path in (tmp_path / "parts" / "likelihood").iterdir()) == names
    latents = np.load(tmp_path / "parts" / "likelihood" / "test_latents.npz")["latents"]
    assert latents.shape == (5, 1, 8, 8)
    # The most likely, and below them the least likely.
    assert image(tmp_path / "parts" / "likelihood" / "test_extremes.png").shape[:2] == (
        6 * (2 * 9 + 1),
        6 * (5 * 9 + 1),
    )
    # Another seed is another measurement: nothing of it is taken over.
    assert run(*arguments, "--workdir", tmp_path / "parts", "--config.seed=1") == 0
    assert measured[5:] == [[1], [2], [3], [4], [5]]


@pytest.mark.parametrize("dequantisation", ["truncated_normal", "variational"])
def test_dequantisations_of_images(digits, tmp_path, dequantisation):
    """Each writes the time of its density; what was learned lies beside the checkpoint and is learned once."""
    newest = digits / "checkpoints" / "step_0000020.pt"
    options = [f"dequantisation={dequantisation}", "num_examples=3", "num_draws=2", "num_checks=0", "flow_steps=2"]
    arguments = ["--mode=likelihood", "--checkpoint", newest, *(f"--config.likelihood.{option}" for option in options)]
    assert run(*arguments, "--workdir", tmp_path) == 0
    summary, rows = likelihoods(tmp_path)
    assert "importance_weighted" not in summary
    if dequantisation == "variational":
        learned = newest.with_suffix("") / "dequantisation.pt"
        before = learned.stat().st_mtime_ns
        assert run(*arguments, "--workdir", tmp_path) == 0
        assert learned.stat().st_mtime_ns == before
        np.testing.assert_array_equal(likelihoods(tmp_path)[1], rows)
    else:
        # `sigma / alpha` is a third of half a bin's width there.
        variance = -math.expm1(-(0.1 * summary["t_min"] + 19.9 * summary["t_min"] ** 2 / 2))
        assert math.sqrt(variance / (1 - variance)) == pytest.approx(1 / 17 / 3, rel=1e-6)


def test_a_model_of_points_has_no_density_on_bins(complaint, tmp_path):
    mixture = ["--config=configs/vp/digits.py", "--config.model.network=mixture"]
    mixture.append("--config.data.uniform_dequantisation=False")
    line = complaint("--mode=likelihood", *mixture, "--workdir", tmp_path)
    assert "likelihood.dequantisation=uniform" in line
    assert "use truncated_normal" in line


def test_solvers_side_by_side_on_a_mixture_that_needs_no_training(tmp_path, capsys):
    overrides = [("model.network", "mixture"), ("model.num_components", "8"), ("compare.solvers", "ddim,tuned")]
    overrides += [("compare.budgets", "8"), ("compare.repetitions", "2"), ("compare.num_samples", "60")]
    file = "configs/vp/eight_gaussians.py"
    arguments = [f"--config.{key}={value}" for key, value in overrides]
    assert run("--mode=compare", "--config", file, *arguments, "--workdir", tmp_path) == 0
    output = capsys.readouterr().out.splitlines()
    assert "tuning a sampler of 8 steps" in output
    assert output[-2].startswith("Use `tuned`")
    with open(tmp_path / "compare" / "results.csv") as results:
        rows = {row["solver"]: row for row in csv.DictReader(results)}
    assert rows["ddim"]["nfe"] == rows["tuned"]["nfe"] == "8"
    assert "| 8 | `tuned`" in (tmp_path / "compare" / "table.md").read_text()
    assert image(tmp_path / "compare" / "pareto.png").shape[1] > 500

    # DDIM's error once more: the median distance to the trajectory's end from the same latents, twice.
    config = configuration.load_file(file)
    configuration.override(config, overrides)
    model = build.make_mixture(config, build.make_dataset(config))
    errors = []
    for repetition in range(2):
        latents = model.sde.prior_sample((60, 2), seeds=range(60 * repetition, 60 * repetition + 60))
        exact = get_solver("ode", rtol=1e-6, atol=1e-6)(model, latents).x
        errors.append((get_solver("ddim", num_steps=8)(model, latents).x - exact).norm(dim=1).median().item())
    assert float(rows["ddim"]["endpoint_error"]) == pytest.approx(np.mean(errors), rel=1e-3)
    assert float(rows["tuned"]["endpoint_error"]) < np.mean(errors) / 10


def test_training_goes_on_where_it_ended(toy, tmp_path, capsys):
    workdir = ["--workdir", tmp_path]
    assert run("--mode=train", *TOY, *SHORT, *workdir, "--config.training.num_steps=10") == 0
    capsys.readouterr()
    assert run("--mode=train", *workdir, "--config.training.num_steps=20") == 0
    assert "from step 10" in capsys.readouterr().out
    assert run("--mode=train", *workdir) == 0
    assert "has had its 20 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["training"]["num_steps"] == 20


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give --mode: one of train, sample, likelihood, compare, tune, edit"),
        (["--mode=trian"], "--mode=trian: value should be one of <train|sample|likelihood|compare|tune|edit|export>"),
        (["--mode=train", "extra"], "unexpected argument 'extra'"),
        (["--mode=train", "--workdri=x"], "Unknown command line flag 'workdri'. Did you mean: workdir"),
        (["--mode=train", "--config=configs/vp/digit.py"], "did you mean 'configs/vp/digits.py'?"),
        (["--mode=train", "--config.training.num_step=3"], "did you mean 'training.num_steps'?"),
        (["--mode=train", "--config.training.num_steps=3.5"], "--config.training.num_steps takes an integer"),
        (["--mode=train", "--config.training.num_steps"], "--config.training.num_steps takes an integer, not ''"),
        (["--mode=train", "--config.training.batch_size=0"], "training.batch_size must be at least 1, not 0"),
        (["--mode=train", "--config.seed=-1"], "seed must be at least 0, not -1"),
        (["--mode=train", "--config.training.num_steps=0"], "training.num_steps must be at least 1, not 0"),
        (["--mode=train", "--config.data.distortion=2"], "data.distortion must lie between 0 and 1, not 2"),
        (["--mode=train", "--config.training.t_min=-1"], "training.t_min must lie between 0 and 1, not -1"),
        (["--mode=train", "--config.training.learning_rate=-1"], "training.learning_rate must be positive, not -1"),
        (["--mode=train", "--config.sde.beta_max=-1"], "sde.beta_max must lie between 0 and 100, not -1"),
        (["--mode=train", "--config.sde.name=ve", "--config.sde.sigma_min=60"], "below sigma_max=50"),
        (["--mode=train", "--config.sde.name=ncsn", "--config.sde.num_rungs=1"], "at least 2 rungs"),
        (["--mode=train", "--config.data.dataset=digit"], "did you mean 'digits'?"),
        (["--mode=train", "--config.data.dataset=cifar10"], "cifar-10-batches-py"),
        (["--mode=train", "--config.data.image_size=9"], "digits has examples of shape (1, 8, 8), not (1, 9, 9)"),
        (["--mode=train", "--config.data.image_size=8", "--config.data.num_channels=1"], "--config.data.levels=17"),
        (["--mode=train", "--config.training.shard=True"], "start several with torchrun"),
        (["--mode=train", "--config.training.accumulation=5"], "batch_size=64 cannot be divided among 1 processes"),
        (["--mode=train", "--config.training.more_ema_decays=0.5,2"], "must lie between 0 and 1"),
        (["--mode=train", "--config.data.path=nowhere"], "there is no nowhere, which path names"),
        (["--mode=train", "--config.data.low=1"], "data.low=1 must lie below data.high=1"),
        (["--mode=train", "--config.model.embedding=fourier"], "not model.noise_label=log_snr: use rho"),
        (["--mode=train", "--config.data.augment=flop"], "did you mean 'flip'?"),
        (["--mode=train", "--config.sde.name=vpp"], "no SDE is called 'vpp' (did you mean 'vp'?)"),
        (["--mode=train", "--config.model.network=mlpp"], "did you mean 'mlp'?"),
        (["--mode=train", "--config.model.channel_multipliers=1,2,2,2,2"], "images of 8 x 8 cannot be halved evenly"),
        (
            ["--mode=train", "--config=vp/digits", "--config.data.dataset=two_moons"],
            "--config.model.prediction=velocity",
        ),
        (["--mode=train", "--config.model.prediction=nois"], "did you mean 'noise'?"),
        (["--mode=train", "--config.training.weighting=sigma"], "did you mean 'sigma2'?"),
        (["--mode=train", "--config.training.objective=discrete"], "discrete training needs a ladder"),
        (["--mode=train", "--config.training.optimizer=sgd"], "no optimizer is called 'sgd'"),
        (["--mode=train", "--config.training.schedule=linear"], "no schedule is called 'linear'"),
        (["--mode=train", "--config.training.precision=half"], "no precision is called 'half'"),
        (["--mode=train", "--checkpoint=x.pt"], "leave out --checkpoint"),
        (["--mode=sample"], "there is no workdir"),
        (["--mode=likelihood"], "python main.py --mode train --workdir"),
        (["--mode=compare"], "there is no workdir"),
        (["--mode=sample", "--checkpoint=missing.pt"], "there is no checkpoint missing.pt"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_mistakes_get_one_line(complaint, tmp_path, arguments, expected):
    assert expected in complaint(*arguments, "--workdir", tmp_path / "new")
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode=sample", "--config.sampling.solver=dimm"], "no solver is called 'dimm' (did you mean 'ddim'?)"),
        (["--mode=sample", "--config.sampling.num_steps=0"], "sampling.num_steps must be at least 1"),
        (
            [
                "--mode=sample",
                "--config.sampling.num_steps=1",
                "--config.sampling.denoise=False",
                "--config.sampling.solver=ddim",
            ],
            "at least 2, not 1",
        ),
        (["--mode=sample", "--config.sampling.t_min=0", "--config.sampling.solver=ddim"], "not finite: t_min"),
        (["--mode=sample", "--config.sampling.grid=", "--config.sampling.solver=ddim"], "a name or a list of times"),
        (
            ["--mode=sample", "--config.sampling.options=0.1", "--config.sampling.solver=ode"],
            "options are written NAME=VALUE",
        ),
        (
            ["--mode=sample", "--config.sampling.options=max_step=1,first=2", "--config.sampling.solver=ode"],
            "no option 'first' (did you mean 'first_step'?)",
        ),
        (["--mode=likelihood", "--config.likelihood.options=max_num_steps=2"], "2 steps were not enough"),
        (["--mode=likelihood", "--config.likelihood.grid=karras"], "chooses its steps"),
        (["--mode=sample", "--config.sampling.num_steps=9", "--config.sampling.solver=ode"], "chooses its steps"),
        (["--mode=compare", "--config.compare.budgets="], "compare.budgets must have at least 1 item, not 0"),
        (["--mode=compare", "--config.compare.solvers="], "compare.solvers must have at least 1 item, not 0"),
        (["--mode=compare", "--config.compare.num_samples=3"], "compare.num_samples must be at least 5, not 3"),
        (["--mode=sample", "--config.sampling.t_min=2", "--config.sampling.solver=ddim"], "t_min"),
        (["--mode=sample", "--config.sampling.grid=0,1", "--config.sampling.solver=ddim"], "grid"),
        (["--mode=sample", "--config.sampling.num_samples=0"], "sampling.num_samples must be at least 1"),
        (["--mode=likelihood", "--config.likelihood.split=valid"], "did you mean 'validation'?"),
        (["--mode=likelihood", "--config.likelihood.prior=flat"], "no prior is called 'flat'"),
        (["--mode=likelihood", "--config.likelihood.divergence=trace"], "no divergence is called 'trace'"),
        (["--mode=likelihood", "--config.data.validation=0", "--config.likelihood.split=validation"], "no validation"),
        (["--mode=sample", "--config.model.width=8"], "was trained with model.width=16, not 8"),
        (["--mode=sample", "--config=configs/vp/digits.py"], "was trained with data.dataset=eight_gaussians"),
        (["--mode=train", "--config.seed=3"], "was begun with seed=0, not 3"),
        (["--mode=train", "--config=configs/vp/digits.py"], "was begun with data.dataset=eight_gaussians, not digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_about_a_run_get_one_line(complaint, toy, arguments, expected):
    before = (toy / "config.json").read_text()
    assert expected in complaint(*arguments, "--workdir", toy)
    assert (toy / "config.json").read_text() == before


def test_a_truncated_checkpoint_gets_one_line(complaint, toy, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes((toy / "checkpoints" / "step_0000020.pt").read_bytes()[:-1000])
    assert "broken.pt: it is truncated" in complaint("--mode=sample", "--workdir", toy, "--checkpoint", broken)


def test_a_damaged_checkpoint_gets_one_line(complaint, toy, tmp_path):
    contents = bytearray((toy / "checkpoints" / "step_0000020.pt").read_bytes())
    contents[200:260] = bytes(60)
    (tmp_path / "broken.pt").write_bytes(contents)
    assert "broken.pt: it is damaged" in complaint(
        "--mode=sample", "--workdir", toy, "--checkpoint", tmp_path / "broken.pt"
    )


def test_a_workdir_without_checkpoints_gets_one_line(complaint, tmp_path):
    assert "there is no checkpoint in" in complaint("--mode=sample", "--workdir", tmp_path)


def test_a_loss_that_is_not_finite_gets_one_line(complaint, tmp_path):
    workdir = ["--workdir", tmp_path]
    options = ["--config.training.learning_rate=1e30", "--config.training.checkpoint_every=1"]
    line = complaint("--mode=train", *TOY, *SHORT, *workdir, *options, "--config.training.evaluate_every=0")
    assert " is nan at step " in line or " is inf at step " in line
    assert "step_0000001.pt" in line


def test_a_full_disk_gets_one_line_and_leaves_no_half_written_checkpoint(complaint, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What a run remembers of its data fits, its checkpoint does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        line = complaint("--mode=train", *TOY, *SHORT, "--config.model.width=256", "--workdir", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step_0000010.pt: File too large; free some space" in line
    assert list((tmp_path / "checkpoints").iterdir()) == []


def process(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "main.py", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, **options)


def test_a_mistake_from_the_shell(tmp_path):
    failed = process("--mode=sample", "--workdir", tmp_path / "missing")
    _, errors = failed.communicate(timeout=120)
    assert failed.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "Traceback" not in errors
    assert "there is no workdir" in errors


def test_help_from_the_shell():
    helped = process("--helpshort")
    output, _ = helped.communicate(timeout=60)
    assert "--mode: <train|sample|likelihood|compare|tune|edit|export>" in output
    assert "Score-based generative modelling" in output
    assert max(map(len, output.splitlines())) <= 120


def test_control_c_during_training_saves_and_says_how_to_go_on(tmp_path):
    training = process("--mode=train", *TOY, "--workdir", tmp_path, "--config.training.checkpoint_every=5")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoints/*.pt")) and time.monotonic() < deadline and training.poll() is None:
        time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 130
    assert "Traceback" not in errors
    line = errors.strip().splitlines()[-1]
    assert f"python main.py --mode train --workdir {tmp_path}" in line
    step = int(line.split("after step ")[1].split(",")[0])
    assert (tmp_path / "checkpoints" / f"step_{step:07d}.pt").exists()


def test_results_made_with_other_settings_are_not_replaced_in_silence(toy, tmp_path, capsys):
    """The note says what was different; none where nothing was, nor for what changes nothing."""
    shutil.copytree(toy, tmp_path / "run")
    workdir = ["--workdir", tmp_path / "run"]

    def note(*arguments: str) -> str:
        capsys.readouterr()
        assert run(*arguments, *workdir) == 0
        return capsys.readouterr().err

    draw = ["--mode=sample", "--config.sampling.num_samples=4"]
    samples = tmp_path / "run" / "samples" / "default.npz"
    assert note(*draw, "--config.sampling.num_steps=5") == ""
    assert note(*draw, "--config.sampling.num_steps=5", "--config.sampling.batch_size=2") == ""
    line = f"note: {samples} replaced (it had sampling.num_steps=5, now 4)\n"
    assert note(*draw, "--config.sampling.num_steps=4") == line
    assert json.loads(np.load(samples)["settings"].item())["sampling.num_steps"] == 4
    assert "(it had seed=0, now 1)" in note(*draw, "--config.sampling.num_steps=4", "--config.seed=1")
    older = ["--checkpoint", tmp_path / "run" / "checkpoints" / "step_0000010.pt"]
    before_last = note(*draw, *older, "--config.sampling.num_steps=4", "--config.seed=1")
    assert "(it had checkpoint=step_0000020.pt, now step_0000010.pt)" in before_last

    measure = ["--mode=likelihood", "--config.likelihood.num_checks=0", "--config.likelihood.bounds="]
    three, two = (f"--config.likelihood.num_examples={count}" for count in (3, 2))
    assert note(*measure, three, "--config.likelihood.save_latents=True") == ""
    assert note(*measure, three, "--config.likelihood.batch_size=1") == ""
    ends = tmp_path / "run" / "likelihood" / "test_latents.npz"
    assert ends.exists()
    replaced, removed = note(*measure, two).splitlines()
    assert "test.json replaced (it had likelihood.num_examples=3, now 2; examples=" in replaced
    assert removed == f"note: {ends} removed, since what it belonged to is replaced"
    assert not ends.exists()

    few = ["solvers=ddim,euler", "budgets=3,5", "repetitions=1", "num_samples=5", "num_trajectories=1"]
    side_by_side = ["--mode=compare", *(f"--config.compare.{value}" for value in few)]
    assert note(*side_by_side) == ""
    assert "settings.json replaced (it had compare.budgets=3,5, now 4,5)" in note(
        *side_by_side, "--config.compare.budgets=4,5"
    )


def test_one_check_of_a_likelihood_will_do(toy, tmp_path, capsys):
    """The solver's error then has no standard error of its own; with no checks it is left out."""
    newest = toy / "checkpoints" / "step_0000020.pt"
    arguments = ["--mode=likelihood", "--checkpoint", newest, "--workdir", tmp_path, "--config.likelihood.bounds="]
    arguments.append("--config.likelihood.num_examples=3")
    assert run(*arguments, "--config.likelihood.num_checks=1") == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("deviations by source: ")
    assert last.endswith(" (of 1 example)")
    assert "±" not in last
    assert run(*arguments, "--config.likelihood.num_checks=0") == 0
    assert "deviations" not in capsys.readouterr().out


def test_too_few_examples_for_distances_are_refused_before_training(tmp_path, complaint):
    measured = ["--config.training.measure_every=10"]
    few = complaint("--mode=train", *TOY, *SHORT, *measured, "--config.training.num_measured=4", "--workdir", tmp_path)
    assert "training.num_measured=4 is too few to compare with data: 5 or more" in few
    assert list(tmp_path.iterdir()) == []
    enough = ["--config.training.num_measured=5", "--config.training.num_steps=1"]
    assert run("--mode=train", *TOY, *SHORT, *measured, *enough, "--workdir", tmp_path) == 0


def test_a_dozen_vectors_of_ones_own_are_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32))
    own = ["--config", "configs/vp/vectors.py", "--config.data.path=vectors.npy", "--workdir", "own"]
    small = ["--config.model.width=16", "--config.model.num_blocks=1", "--config.training.num_steps=2"]
    assert run("--mode=train", *own, *small) == 0
    assert run("--mode=sample", *own, *small, "--config.sampling.num_samples=5") == 0
    assert np.load(tmp_path / "own" / "samples" / "default.npz")["vectors"].shape == (5, 2)
    assert run("--mode=likelihood", *own, *small) == 0
    # Points in the plane are shown beside those of the data, if these are there.
    Path("vectors.npy").unlink()
    assert run("--mode=sample", "--workdir=own", "--config.sampling.num_samples=4") == 0
    assert np.load(tmp_path / "own" / "samples" / "default.npz")["vectors"].shape == (4, 2)


def test_too_little_memory_gets_one_line(tmp_path, complaint, monkeypatch):
    def make_model(config, dataset):
        return torch.empty(2**60)

    monkeypatch.setattr(build, "make_model", make_model)
    line = complaint("--mode=train", *TOY, *SHORT, "--workdir", tmp_path)
    assert "there is not enough memory: take a smaller batch_size" in line


def test_a_run_outlives_its_data_and_says_what_has_changed(tmp_path, monkeypatch, capsys, complaint):
    """Samples need no data; what was added is counted; a class between the others would number them anew."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)

    def add(kind: str, numbers: range) -> None:
        for number in numbers:
            path = tmp_path / "photos" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (4, 4), dtype=np.uint8)).save(path)

    add("dark", range(12))
    add("bright", range(12))
    data = ["--config.data.path=photos", "--config.data.image_size=4", "--config.data.num_channels=1"]
    small = ["--config.model.channels=4", "--config.model.num_blocks=1", "--config.model.channel_multipliers=1"]
    told = ["--config.model.class_conditional=True", "--config.model.attention_resolutions=4"]
    short = ["--config.training.batch_size=4", "--config.training.sample_every=0"]
    training = ["--mode=train", *data, *small, *told, *short]
    assert run(*training, "--config.training.num_steps=2") == 0
    capsys.readouterr()
    added = len(list((tmp_path / "photos").rglob("*.png")))

    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    sampling = ["--config.sampling.labels=dark", "--config.sampling.num_samples=2", "--config.sampling.num_steps=3"]
    assert run("--mode=sample", "--workdir=runs/photos", *sampling) == 0
    drawn = np.load(tmp_path / "runs" / "photos" / "samples" / "default.npz")
    assert drawn["images"].shape == (2, 4, 4, 1)
    assert [drawn["class_names"][k] for k in drawn["labels"]] == ["dark", "dark"]
    assert "there is no photos" in complaint("--mode=likelihood", "--workdir=runs/photos")
    edit = ["--mode=edit", "--workdir=runs/photos", "--config.edit.num_samples=2", "--config.edit.num_steps=3"]
    assert run(*edit, "--config.edit.input=elsewhere/dark/0.png") == 0
    assert np.load(tmp_path / "runs" / "photos" / "edit" / "inpaint.npz")["answers"].shape == (1, 2, 4, 4, 1)
    assert "there is no photos" in complaint(*edit, "--config.edit.input=elsewhere/dark/0.png,test:0")

    (tmp_path / "elsewhere").rename(tmp_path / "photos")
    add("dark", range(12, 52))
    capsys.readouterr()
    assert run(*training, "--config.training.num_steps=3") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    counts = [[int(word) for word in note.replace(";", "").split() if word.isdecimal()] for note in notes]
    # Before, now, new, gone: all that is new, and nothing that was trained on is tested on.
    assert [note.split()[2] for note in notes] == ["train", "test"]
    assert sum(row[0] for row in counts) == added
    assert sum(row[2] for row in counts) == 40
    assert [row[3] for row in counts] == [0, 0]

    add("cloudy", range(3))
    line = complaint(*training, "--config.training.num_steps=4")
    assert "photos has classes bright, cloudy, dark, but " in line
    assert "was trained on bright, dark: give it the same data" in line


def test_a_run_has_a_page_and_says_whether_samples_are_copies(digits, tmp_path, capsys):
    """The number of the line is that of the file, and the page has it; it goes with the samples that it is of."""
    shutil.copytree(digits, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))
    options = ["--config.sampling.solver=ddim", "--config.sampling.num_steps=3", "--config.sampling.copies=True"]
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert run("--mode=sample", "--checkpoint", best, *options) == 0
    out = capsys.readouterr()
    assert "note" not in out.err
    found = json.loads((tmp_path / "run" / "samples" / "ddim_copies.json").read_text())
    assert (found["num_samples"], found["num_train"], found["num_test"]) == (64, 1337, 360)
    told = f"{found['farther_than_test']:.3f} ± {found['standard_error']:.3f}"
    assert told in out.out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert told in page
    assert "10 classes, which the network is not told of (model.class_conditional): 0, 1, " in page
    # Samples drawn anew are not those that were compared.
    assert run("--mode=sample", "--workdir", tmp_path / "run", *options[:1], "--config.sampling.num_steps=4") == 0
    assert not (tmp_path / "run" / "samples" / "ddim_copies.json").exists()
    assert told not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_training_says_what_classes_there_are_and_that_it_stopped_early(tmp_path, complaint, capsys):
    short = ["--config.training.num_steps=30", "--config.training.evaluate_every=1", "--config.data.validation=50"]
    # After one step of such a rate the model is worse than at first, and its average gets worse for a while.
    bad = ["--config.training.learning_rate=3.0", "--config.training.warmup_steps=0", "--config.training.patience=2"]
    told = ["--config.model.class_conditional=True", "--config.data.augment=flip"]
    assert run("--mode=train", *DIGITS[:2], *short, *bad, *told, "--workdir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "10 classes, which the network is told of: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in lines
    assert any(line.startswith("training examples are changed at random: mirrored left to right") for line in lines)
    (best,) = (line for line in lines if line.startswith("the lowest held-out loss, "))
    step = int(best.split(" of step ")[1].split(":")[0])
    assert f"trained for {step + 2} steps: {tmp_path}/checkpoints/step_{step + 2:07d}.pt" in lines
    assert "stopped early: the last 2 held-out losses were not the lowest" in lines
    assert run("--mode=train", "--workdir", tmp_path) == 0
    assert f"{tmp_path} has had its {step + 2} steps, and stopped early; for more: --config.training.patience=0" in (
        capsys.readouterr().out
    )
    assert complaint(
        "--mode=train", *TOY, *bad[2:], "--config.data.validation=0", "--workdir", tmp_path / "other"
    ).startswith("error: training.patience stops by the held-out loss: data.validation and training.evaluate_every say")
