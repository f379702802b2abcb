"""`fit`, `load` and `Run` do what the command line does, with the same numbers to the last bit; what they refuse."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import score_sde
from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.common.plots import frames
from score_sde.data import Batch
from score_sde.experiment import own
from score_sde.sde import VPSDE
from score_sde.solvers.base import Draw, Model, Solution, Solver, Watch
from tests.modes.test_main import DIGITS, run
from tests.reading import ROOT

NARROW = {"model.width": 8, "model.num_blocks": 1, "training.num_steps": 4, "training.batch_size": 16}
SMALL = {"model.channels": 4, "model.channel_multipliers": (1, 1), "model.num_blocks": 1, "training.num_steps": 2}
KEPT = {"training.sample_every": 0, "training.evaluate_every": 0, "training.batch_size": 16}


def as_flags(settings: Mapping[str, object]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in settings.items()]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5000, 700, shape)


class Straight(nn.Module):
    """A network of one's own: linear in the state, whatever the noise."""

    def __init__(self, dimension: int = 3) -> None:
        super().__init__()
        self.map = nn.Linear(dimension, dimension)

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        return self.map(x)


class Cosine(score_sde.SDE):
    """A process of one's own."""

    T, t_min = 1.0, 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * torch.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * torch.pi * t)


class Guess(Solver):
    """A solver of one's own: the denoised mean at T."""

    def solve(self, model: Model, x_T: Tensor, draw: Draw, watch: Watch | None = None) -> Solution:
        return Solution(model.denoise(x_T, torch.tensor(model.sde.T, dtype=torch.float64)), 1)


def half_the_square(model: score_sde.ScoreModel, batch: Batch, noise: BatchNoise) -> Tensor:
    """An objective of one's own: half the mean square of the error of the noise, at one time."""
    t = torch.full((len(batch),), 0.5, dtype=torch.float64)
    return 0.5 * model.noise_error(batch.x_0, noise.normal(batch.x_0), t).square().flatten(1).mean(1)


def own_data() -> tuple[np.ndarray, list[str]]:
    return numbers(50, 3), ["left", "right"] * 25


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Workdirs that the command line has made: of digits, of vectors and of series."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "vectors.npy", numbers(60, 3))
    np.save(folder / "series.npy", numbers(40, 2, 8))
    kinds = {
        "digits": [*DIGITS, "--config.training.num_steps=2", *as_flags(KEPT)],
        "vectors": [f"--config.data.path={folder / 'vectors.npy'}", *as_flags(NARROW | KEPT)],
        "series": [f"--config.data.path={folder / 'series.npy'}", *as_flags(SMALL | KEPT)],
    }
    for name, flags in kinds.items():
        assert run("--mode=train", "--workdir", folder / name, *flags) == 0
    return {name: folder / name for name in kinds}


def test_a_checkpoint_knows_the_gaussian_of_its_data(runs, tmp_path):
    """Without the data, too, and to the bit; it is that of the training part in model units."""
    whole = score_sde.load(runs["vectors"])
    train = whole.dataset.units.encode(whole.dataset.train).double()
    gaussian = whole.model.gaussian
    assert gaussian is not None
    torch.testing.assert_close(gaussian.mean, train.mean(0), rtol=0, atol=1e-6)
    variances = (train - train.mean(0)).T @ (train - train.mean(0)) / len(train)
    along = gaussian.bases[0].T @ variances @ gaussian.bases[0]
    torch.testing.assert_close(along, torch.diag(gaussian.scales**2), rtol=0, atol=1e-5)
    (newest,) = (runs["vectors"] / "checkpoints").glob("step_*.pt")
    alone = score_sde.load(shutil.copy(newest, tmp_path / "alone.pt"))
    assert alone.model.gaussian is not None
    pairs = zip((*gaussian[:3], *gaussian.bases), (*alone.model.gaussian[:3], *alone.model.gaussian.bases), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["digits", "vectors", "series"])
def test_samples_and_densities_are_those_of_the_command_line(runs, kind):
    """To the last bit, with nothing said but the folder."""
    flags = ["--workdir", runs[kind], "--config.sampling.num_samples=5", "--config.sampling.num_steps=4"]
    assert run("--mode=sample", *flags) == 0
    method = ["--config.likelihood.method=adams", "--config.likelihood.num_steps=4"]
    few = ["--config.likelihood.num_examples=4", "--config.likelihood.num_checks=0", "--config.likelihood.bounds=()"]
    assert run("--mode=likelihood", "--workdir", runs[kind], *few, *method) == 0
    loaded = score_sde.load(runs[kind])
    samples = loaded.sample(5, num_steps=4)
    with np.load(runs[kind] / "samples" / "default.npz") as file:
        if kind == "digits":
            shown = loaded.dataset.levels_to_uint8(torch.from_numpy(samples)).numpy()
            np.testing.assert_array_equal(shown, file["images"])
            assert samples.dtype == np.uint8
            assert samples.max() <= 16
        else:
            np.testing.assert_array_equal(samples, file["vectors" if kind == "vectors" else "samples"])
            assert samples.dtype == np.float64
    with open(runs[kind] / "likelihood" / "test.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    examples = loaded.dataset.test[:4]
    bits = loaded.bits_per_dim(examples, method="adams", num_steps=4)
    assert bits.tolist() == [float(row["bits_per_dim"]) for row in rows]
    nats = loaded.log_prob(examples.numpy(), method="adams", num_steps=4)
    assert nats.tolist() == [float(row["log_prob"]) for row in rows]
    np.testing.assert_allclose(nats, -bits * math.log(2) * examples[0].numel(), rtol=1e-14)


def test_fitting_gives_the_weights_of_the_command_line(runs, tmp_path):
    """From the path, from the array of the file, and without a folder, of which nothing is left behind."""
    path = runs["vectors"].parent / "vectors.npy"
    expected = score_sde.load(runs["vectors"]).model.state_dict()
    fitted = score_sde.fit(path, workdir=tmp_path / "run", settings=NARROW | KEPT)
    alone = score_sde.fit(np.load(path), settings=NARROW | KEPT)
    for run_ in (fitted, alone):
        found = run_.model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    left = alone.folder
    assert left.is_dir()
    del alone, run_
    assert not left.exists()


def test_one_example_and_many_of_any_dtype(runs):
    loaded = score_sde.load(runs["digits"])
    one = loaded.dataset.test[0]
    options: dict[str, Any] = {"method": "adams", "num_steps": 4}
    expected = loaded.log_prob(one, **options)
    assert isinstance(expected, float)
    others = (one.movedim(0, -1).double(), one[None].numpy().astype(np.int64), one.bfloat16())
    for form in (one.numpy(), one[0].tolist(), *others):
        assert np.ravel(loaded.log_prob(form, **options)) == expected
    for wrong, said in (
        (one.double() + 0.5, "whole numbers from 0 to 16"),
        (one[None, :, :4], r"have shape \(1, 8, 8\)"),
        (np.full((1, 8, 8), np.nan), "not finite"),
        (np.zeros((0, 1, 8, 8)), "no example"),
        ([["a"]], "real numbers"),
    ):
        with pytest.raises(UserError, match=said):
            loaded.log_prob(wrong)


def test_encoding_and_decoding_are_inverse(runs):
    loaded = score_sde.load(runs["vectors"])
    x = loaded.dataset.test[:3].numpy()
    z = loaded.encode(x)
    assert z.dtype == np.float32
    # Both ways are followed to 1e-6 a step; what comes back is 2e-4 of a deviation off at most.
    np.testing.assert_allclose(loaded.decode(z), x, rtol=0, atol=2e-4 * 700)
    np.testing.assert_allclose(loaded.decode(z[1]), x[1], rtol=0, atol=2e-4 * 700)
    with pytest.raises(UserError, match="shape"):
        loaded.decode(z[:, :2])


def test_densities_have_gradients(runs):
    """That of a straight line of examples is the difference quotient, in the units of the data."""
    loaded = score_sde.load(runs["vectors"])
    options: dict[str, Any] = {"divergence": "exact", "rtol": 1e-6, "atol": 1e-6, "method": "dopri5"}
    x = loaded.dataset.test[:2].clone().requires_grad_()
    log_prob = loaded.log_prob(x, **options)
    np.testing.assert_allclose(log_prob.detach(), loaded.log_prob(x.detach(), **options), rtol=1e-5)
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    step = torch.zeros(3, dtype=torch.float64)
    step[1] = 70.0
    there, here = (loaded.log_prob(x.detach() + sign * step, **options) for sign in (1, -1))
    np.testing.assert_allclose(gradient[:, 1], (there - here) / 140, rtol=2e-3, atol=1e-7)


def test_a_run_needs_neither_its_data_nor_its_folder(runs, tmp_path):
    """In a new process, from a checkpoint alone in another folder, whose data are no more."""
    folder = tmp_path / "runs" / "vectors"
    path = tmp_path / "data.npy"
    np.save(path, numbers(60, 3))
    fitted = score_sde.fit(path, workdir=folder, settings=NARROW | KEPT)
    x = numbers(2, 3, seed=1)
    expected = fitted.sample(3), fitted.log_prob(x)
    path.unlink()
    alone = shutil.copy(folder / "checkpoints" / "step_0000004.pt", tmp_path / "elsewhere.pt")
    program = (
        "import sys, numpy as np, score_sde\n"
        "runs = [score_sde.load(place) for place in sys.argv[1:3]]\n"
        "x = np.load(sys.argv[3])\n"
        "np.savez(sys.argv[4], *[array for run in runs for array in (run.sample(3), run.log_prob(x))])\n"
    )
    np.save(tmp_path / "x.npy", x)
    places = [folder, alone, tmp_path / "x.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", program, *map(str, places)], check=True, cwd=ROOT)
    with np.load(tmp_path / "out.npz") as out:
        for number, array in enumerate(out.values()):
            np.testing.assert_array_equal(array, expected[number % 2])
    with pytest.raises(UserError, match=r"there is no .*data\.npy"):
        _ = score_sde.load(folder).dataset


@pytest.mark.parametrize("form", ["handed over", "named"])
def test_things_of_ones_own(tmp_path, monkeypatch, form):
    """A network, a process, an objective, data and a solver, from Python and by the command line: the same numbers."""
    named = "tests.experiment.test_python:"
    if form == "named":
        things = {"model.network": "Straight", "sde.name": "Cosine", "training.objective": "half_the_square"}
        settings = {key: named + name for key, name in things.items()} | {"data.dataset": named + "own_data"}
        monkeypatch.chdir(ROOT)
        flags = as_flags(settings | NARROW | KEPT | {"training.t_min": 1e-3, "sampling.num_steps": 4})
        assert run("--mode=train", "--workdir", tmp_path / "run", "--config", "vp/vectors", *flags) == 0
        fitted = score_sde.load(tmp_path / "run")
    else:
        torch.manual_seed(0)
        fitted = score_sde.fit(
            own_data()[0],
            network=Straight(),
            sde=Cosine(),
            objective=half_the_square,
            settings=NARROW | KEPT | {"training.t_min": 1e-3, "sampling.num_steps": 4},
        )
        assert fitted.config.model.network == named + "Straight"
    assert isinstance(fitted.model.sde, Cosine)
    # What is trained is linear, so that the score is, too; and its mean and scale come back in data units.
    device = distributed.device()
    x = torch.tensor([[0.0] * 3, [1.0] * 3, [2.0] * 3], device=device)
    noise = fitted.model.noise(x, torch.tensor(0.5))
    torch.testing.assert_close(noise[2] - noise[1], noise[1] - noise[0])
    guessed = fitted.sample(4, solver=Guess())
    x_T = fitted.model.sde.prior_sample((4, 3), seeds=range(4), device=device)
    denoised = fitted.model.denoise(x_T, torch.tensor(Cosine.T, dtype=torch.float64))
    expected = fitted.dataset.units.decode(denoised.cpu()).numpy()
    np.testing.assert_array_equal(guessed, expected)
    assert np.isfinite(fitted.log_prob(own_data()[0][:2])).all()


def test_a_network_is_trained_again_and_earlier_runs_keep_their_own():
    network = Straight()
    network.map.bias.requires_grad_(False)
    first = score_sde.fit(numbers(50, 3), network=network, settings=NARROW | KEPT)
    expected, trained = first.sample(2), network.map.weight.detach().clone()
    assert (network.map.weight.requires_grad, network.map.bias.requires_grad) == (True, False)
    second = score_sde.fit(numbers(50, 3), network=network, settings=NARROW | KEPT)
    assert not torch.equal(network.map.weight, trained)
    assert not np.array_equal(second.sample(2), expected)
    np.testing.assert_array_equal(first.sample(2), expected)
    network.requires_grad_(False)
    with pytest.raises(UserError, match="there is nothing to train"):
        score_sde.fit(numbers(50, 3), network=network, settings=NARROW | KEPT)


def test_a_network_that_cannot_be_made_is_handed_over_again(tmp_path):
    class Local(Straight):
        """A network that no other process can import."""

    folder = tmp_path / "run"
    network = Local()
    fitted = score_sde.fit(numbers(50, 3), workdir=folder, network=network, settings=NARROW | KEPT)
    expected = fitted.sample(2)
    own._handed_over.clear()
    with pytest.raises(UserError, match="hand it over, network="):
        score_sde.load(folder)
    np.testing.assert_array_equal(score_sde.load(folder, network=Local()).sample(2), expected)
    with pytest.raises(UserError, match=r"sde\.name=vp, which needs nothing handed over"):
        score_sde.load(folder, network=Local(), sde=VPSDE())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:Net", "ModuleNotFoundError: No module named 'nowhere'"),
        ("tests.experiment.test_python:Gone", "has no attribute 'Gone'"),
        ("tests.experiment.test_python:KEPT", "must be a Module, or a function that makes one"),
        ("tests.experiment.test_python:own_data", "makes a tuple, where a Module is wanted"),
        ("os:abort", "is of Python's own library"),
    ],
)
def test_what_is_not_ones_own(name, said):
    with pytest.raises(UserError, match=said):
        score_sde.fit(numbers(50, 3), network=name, settings=NARROW | KEPT)


def test_classes(tmp_path):
    x, classes = numbers(50, 3), ["left", "right"] * 25
    fitted = score_sde.fit(x, condition=classes, settings=NARROW | KEPT)
    assert fitted.dataset.class_names == ("left", "right")
    right = fitted.sample(4, condition="right")
    np.testing.assert_array_equal(right, fitted.sample(condition=["right"] * 4))
    mixed = fitted.sample(4, condition=["right", "left", 1, 0])
    np.testing.assert_array_equal(mixed[[0, 2]], right[[0, 2]])
    assert not np.array_equal(mixed[1], right[1])
    given = fitted.log_prob(x[:4], condition="right")
    np.testing.assert_array_equal(given, fitted.log_prob(x[:4], condition=[1] * 4))
    assert not np.array_equal(given, fitted.log_prob(x[:4]))
    with pytest.raises(UserError, match="no class of arrays is called 'middle'"):
        fitted.sample(2, condition="middle")
    with pytest.raises(UserError, match="2 classes for 3 examples"):
        fitted.sample(3, condition=["left", "right"])


def test_training_begins_from_other_weights(runs, tmp_path):
    """With a rate of nothing they stay what they were, on new data in new units, and with classes of its own."""
    still = NARROW | KEPT | {"training.learning_rate": 1e-12, "training.ema_decay": 0.0}
    begun = score_sde.load(runs["vectors"])
    checkpoint = runs["vectors"] / "checkpoints" / "step_0000004.pt"
    tuned = score_sde.fit(numbers(50, 3, seed=2) / 1000, start_from=checkpoint, settings=still)
    expected = begun.model.state_dict()
    for name, weight in tuned.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-7)
    assert abs(tuned.sample(200).mean() - 5) < 1
    with_classes = score_sde.fit(numbers(50, 3, seed=2), condition=[0, 1] * 25, start_from=checkpoint, settings=still)
    assert with_classes.config.model.class_conditional
    with pytest.raises(UserError, match="does not fit this network"):
        score_sde.fit(numbers(50, 4), start_from=checkpoint, settings=still)


def test_mistakes_are_one_line(runs, tmp_path):
    loaded = score_sde.load(runs["vectors"])
    many: Any = "many"
    for call, said in (
        (lambda: loaded.sample(2, solvre="ddim"), r"unknown configuration key 'sampling\.solvre'.*did you mean"),
        (lambda: loaded.sample(2, solver="dim"), r"did you mean 'ddim'"),
        (lambda: loaded.sample(2, condition="cat"), "has no classes"),
        (lambda: loaded.log_prob(numbers(2, 3), condition=1), "knows no classes"),
        (lambda: loaded.log_prob(numbers(2, 3), divergence="some"), "divergence"),
        (lambda: score_sde.load(tmp_path / "nothing"), "there is no"),
        (lambda: score_sde.fit(tmp_path / "nothing.npy"), "there is no"),
        (lambda: score_sde.fit(numbers(50, 3), config="vp/nothing"), "no configuration file"),
        (lambda: score_sde.fit(numbers(50, 3), settings={"training.steps": 3}), r"training\.steps"),
        (lambda: score_sde.fit(runs["vectors"].parent / "vectors.npy", condition=[0]), "leave the condition out"),
        (lambda: score_sde.fit(numbers(50, 3), num_steps=many), "num_steps takes a whole number"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_solvers_that_choose_their_steps(runs, tmp_path):
    """Steps that a configuration has for another solver are left out; those given with the run are not passed over."""
    place = tmp_path / "vectors"
    shutil.copytree(runs["vectors"], place)
    config = json.loads((place / "config.json").read_text())
    config["sampling"].update(solver="ddim", num_steps=3, grid="karras")
    config["edit"].update(num_steps=3)
    (place / "config.json").write_text(json.dumps(config))
    loaded = score_sde.load(place)
    exact = score_sde.load(runs["vectors"]).sample(2, solver="ode", seed=3)
    np.testing.assert_array_equal(loaded.sample(2, solver="ode", seed=3), exact)
    given = score_sde.load(place, settings={"sampling.num_steps": 4})
    with pytest.raises(UserError, match="chooses its steps"):
        given.sample(2, solver="ode")
    film = loaded.animate(tmp_path / "flow.gif", num_samples=2, solver="ode")
    assert film.stat().st_size > 1000


def test_an_animation_ends_with_the_samples(runs, tmp_path):
    """A frame a state, from noise on, where no call is needed; the last shows the samples of the same seeds."""
    loaded = score_sde.load(runs["digits"])
    path = loaded.animate(tmp_path / "digits.gif", num_samples=4, num_steps=5, seed=3)
    film: Any
    with Image.open(path) as film:
        assert film.n_frames == 7
        film.seek(6)
        last = np.asarray(film.convert("L")).astype(int)
    samples = loaded.dataset.levels_to_uint8(torch.from_numpy(loaded.sample(4, num_steps=5, seed=3, batch_size=4)))
    (expected,) = frames("images", [samples.numpy()])
    np.testing.assert_allclose(last, expected[..., 0].astype(int), rtol=0, atol=8)  # GIFs have 256 colours
