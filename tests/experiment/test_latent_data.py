"""Autoencoders and models of their latents, from the command line: trained, resumed, sampled elsewhere, measured."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import score_sde
from score_sde.common import distributed, plots
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.data.latent_units import Latents
from score_sde.experiment import autoencoders, load
from score_sde.models.autoencoder import Autoencoder, KLAutoencoder, VQAutoencoder
from score_sde.training import checkpoint
from tests.modes.test_main import complaint, run  # noqa: F401

# GPUs add up the gradients of convolutions in an order that no two runs share.
ON_CPU = "--device=cpu"
AUTOENCODER = [
    ON_CPU,
    "--config=configs/autoencoders/glyphs.py",
    "--config.data.dataset=digits",
    "--config.data.image_size=none",
    "--config.model.channels=4",
    "--config.model.channel_multipliers=1,2",
    "--config.model.latent_channels=2",
    "--config.model.num_codes=7",
    "--config.training.batch_size=16",
    "--config.training.measure_every=0",
    "--config.training.num_measured=20",
    "--config.training.sample_every=0",
    "--config.training.log_every=0",
]
MEASURED = ["--config.training.measure_every=3"]
MODEL = [
    ON_CPU,
    "--config=configs/vp/digits.py",
    "--config.data.distortion=0",
    "--config.model.network=unet",
    "--config.model.prediction=velocity",
    "--config.model.channels=4",
    "--config.model.num_blocks=1",
    "--config.model.class_conditional=True",
    "--config.training.batch_size=16",
    "--config.training.sample_every=0",
    "--config.training.evaluate_every=0",
    "--config.training.log_every=0",
]


def steps(count: int, every: int = 0) -> list[str]:
    return [f"--config.training.num_steps={count}", f"--config.training.checkpoint_every={every}"]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    state = checkpoint.load(checkpoint.path_at(folder / "checkpoints", step))
    return {f"{name}.{key}": value for name in ("model", "ema") for key, value in state[name].items()}


def same(one: Path, other: Path, step: int) -> bool:
    here, there = weights(one, step), weights(other, step)
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the runs `kl`, `vq` and, of the latents of the first, `latent`, of a few steps each."""
    folder = tmp_path_factory.mktemp("latents")
    for name in ("kl", "vq"):
        network = f"--config.model.network={name}_autoencoder"
        assert run("--mode=train", *AUTOENCODER, *MEASURED, network, *steps(6), "--workdir", folder / name) == 0
    latent = [*MODEL, f"--config.data.autoencoder={folder / 'kl'}", f"--config.data.folder={folder / 'cache'}"]
    assert run("--mode=train", *latent, *steps(4), "--workdir", folder / "latent") == 0
    return folder


def test_an_autoencoder_that_was_stopped_is_one_that_was_not(place, tmp_path) -> None:
    assert run("--mode=train", *AUTOENCODER, *MEASURED, *steps(6, 4), "--workdir", tmp_path) == 0
    for path in (tmp_path / "checkpoints").glob("step_0000006*"):
        path.unlink()
    assert run("--mode=train", ON_CPU, "--workdir", tmp_path) == 0
    assert same(place / "kl", tmp_path, 6)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_rate_and_distortion_are_written(place, kind) -> None:
    """The bound is their sum, and the codes' rate is that of equal probabilities."""
    arguments = ["--config.likelihood.num_examples=30", "--workdir", place / kind]
    assert run("--mode=likelihood", *arguments) == 0
    found = json.loads((place / kind / "likelihood" / "test.json").read_text())
    assert found["bits_per_dim"] == pytest.approx(found["rate"] + found["distortion"], rel=1e-12)
    assert "bound" in found["kind"]
    rows = np.genfromtxt(place / kind / "likelihood" / "test.csv", delimiter=",", names=True)
    assert rows["bits_per_dim"].mean() == pytest.approx(found["bits_per_dim"], rel=1e-9)
    assert math.sqrt((rows["reconstruction_error"] ** 2).mean()) == pytest.approx(found["reconstruction_error"])
    if kind == "vq":
        assert found["rate"] == pytest.approx(16 * math.log2(7) / 64, rel=1e-6)
        assert 1 <= found["codes_in_use"] <= 7
    log = np.genfromtxt(place / kind / "metrics.csv", delimiter=",", names=True)
    assert {"rate_bits_per_dim", "reconstruction_error"} <= set(log.dtype.names or ())


def test_a_model_of_latents_that_was_stopped_is_one_that_was_not(place, tmp_path) -> None:
    """Though the autoencoder's run is gone, what was computed is gone, and latents are computed again."""
    shutil.copytree(place / "kl", tmp_path / "kl")
    latent = [*MODEL, f"--config.data.autoencoder={tmp_path / 'kl'}", f"--config.data.folder={tmp_path / 'cache'}"]
    assert run("--mode=train", *latent, *steps(4, 2), "--workdir", tmp_path / "run") == 0
    for path in (tmp_path / "run" / "checkpoints").glob("step_0000004*"):
        path.unlink()
    shutil.rmtree(tmp_path / "kl")
    [cached] = (tmp_path / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:1000])
    assert run("--mode=train", ON_CPU, "--workdir", tmp_path / "run") == 0
    assert same(place / "latent", tmp_path / "run", 4)
    assert cached.read_bytes() == next((place / "cache").iterdir()).read_bytes()


def test_a_checkpoint_of_latents_needs_nothing_else(place, tmp_path) -> None:
    """It samples in another folder, without the autoencoder's run and the data; both of its formats do the same."""
    for suffix in (".pt", ".safetensors"):
        shutil.copy(place / "latent" / "checkpoints" / f"step_0000004{suffix}", tmp_path / f"model{suffix}")
    options = ["--config.sampling.num_samples=5", "--config.sampling.num_steps=4", "--config.data.folder=/nowhere"]
    drawn = []
    for suffix in (".pt", ".safetensors"):
        folder = tmp_path / suffix[1:]
        arguments = ["--checkpoint", tmp_path / f"model{suffix}", "--workdir", folder]
        assert run("--mode=sample", *arguments, *options) == 0
        drawn.append(np.load(folder / "samples" / "default.npz")["images"])
    assert drawn[0].shape == (5, 8, 8, 1)
    assert np.array_equal(drawn[0], drawn[1])
    loaded = score_sde.load(tmp_path / "model.safetensors")
    samples = loaded.sample(5, num_steps=4)
    assert np.array_equal(np.round(samples * (255 / 16)), drawn[0][..., 0][:, None])
    # Sample by sample, they are what the autoencoder decodes of samples of latents.
    units = loaded._experiment.dataset.units
    assert isinstance(units, Latents)
    assert units.shape_of((1, 8, 8)) == (2, 4, 4)
    assert np.array_equal(loaded.sample(1, num_steps=4, seed=3)[0], samples[3])


@pytest.mark.usefixtures("on_cpu")
def test_what_was_computed_before_is_what_the_autoencoder_makes(place) -> None:
    experiment = load.to_train(None, place / "latent", [])
    dataset = experiment.dataset
    assert dataset.encoded is not None
    assert isinstance(dataset.units, Latents)
    torch.testing.assert_close(dataset.encoded[:70], dataset.units.encoded(dataset.train[:70]), rtol=1e-5, atol=1e-6)
    latents = dataset.encode_train(1, 0)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(2), rtol=0.02, atol=0)


def test_the_likelihood_is_a_bound_through_the_decoder(place) -> None:
    """It is said so, and is the density of latents less what they pay; from Python the same."""
    keys = {"num_examples": 3, "num_checks": 0, "method": "adams", "num_steps": 4, "bounds": "()"}
    options = [f"--config.likelihood.{key}={value}" for key, value in keys.items()]
    assert run("--mode=likelihood", *options, "--workdir", place / "latent") == 0
    found = json.loads((place / "latent" / "likelihood" / "test.json").read_text())
    assert "bound through the decoder" in found["kind"]
    loaded = score_sde.load(place / "latent", settings={f"likelihood.{key}": value for key, value in keys.items()})
    x = loaded.dataset.test[:3]
    log_prob = loaded.log_prob(x, seed=0)
    assert -log_prob.mean() / (64 * math.log(2)) == pytest.approx(found["bits_per_dim"], rel=1e-5)
    np.testing.assert_allclose(loaded.bits_per_dim(x, seed=0), -log_prob / (64 * np.log(2)))
    rows = np.genfromtxt(place / "latent" / "likelihood" / "test.csv", delimiter=",", names=True)
    np.testing.assert_allclose(rows["log_prob"], log_prob, rtol=1e-4)


def test_there_and_back_along_the_flow(place) -> None:
    """`encode` and `decode` go between examples and noise, of the shape of latents."""
    loaded = score_sde.load(place / "latent")
    x = loaded.dataset.test[:4]
    noise = loaded.encode(x, rtol=1e-4, atol=1e-4)
    assert noise.shape == (4, 2, 4, 4)
    units = loaded._experiment.dataset.units
    reconstructed = units.decode(units.encode(x)).numpy()
    assert np.abs(loaded.decode(noise, rtol=1e-4, atol=1e-4).astype(int) - reconstructed).max() <= 1


@pytest.mark.parametrize("task", ["sdedit", "inpaint"])
def test_edits_in_latents(place, task) -> None:
    options = [f"--config.edit.task={task}", "--config.edit.input=test:0-1", "--config.edit.num_samples=2"]
    assert run("--mode=edit", *options, "--config.edit.num_steps=4", "--workdir", place / "latent") == 0
    drawn = np.load(place / "latent" / "edit" / f"{task}.npz")
    assert drawn["inputs"].shape == (2, 8, 8, 1)
    latents = torch.from_numpy(drawn["answers_in_model_units"])
    assert latents.shape[2:] == (2, 4, 4)
    units = score_sde.load(place / "latent")._experiment.dataset.units
    decoded = units.decode(latents[0]).numpy()[:, 0]
    assert np.array_equal(drawn["answers"][0][..., 0], np.round(decoded * (255 / 16)))


def test_variations_in_latents(place) -> None:
    """At strength 0 an example's latents come back, decoded; at 1 nothing is left of it: answers are the samples."""
    options = ["--config.edit.task=vary", "--config.edit.input=test:0-1", "--config.edit.num_samples=2"]
    experiment = load.to_use("edit", None, place / "latent", None, [("edit.input", "test:0")])
    dataset = experiment.dataset
    seen = dataset.encode(dataset.test[:2], 0)
    for strength in (0, 1):
        # Of samples not a level may differ.
        exact = [f"--config.sampling.{key}={1e-5 if strength else 1e-4}" for key in ("rtol", "atol")]
        asked = [*options, *exact, f"--config.edit.strength={strength}"]
        assert run("--mode=edit", *asked, "--workdir", place / "latent") == 0
        with np.load(place / "latent" / "edit" / "vary.npz") as file:
            answers, latents = file["answers"], torch.from_numpy(file["answers_in_model_units"])
        if strength == 0:
            torch.testing.assert_close(latents, seen[:, None].expand(2, 2, -1, -1, -1), rtol=0, atol=2e-3)
        else:
            ode: dict[str, Any] = {"solver": "ode", "rtol": 1e-5, "atol": 1e-5, "seed": 0}
            sampled = dataset.units.encode(torch.from_numpy(score_sde.load(place / "latent").sample(4, **ode)))
            torch.testing.assert_close(dataset.units.encode(dataset.units.decode(latents.flatten(0, 1))), sampled)
        decoded = dataset.units.decode(latents.flatten(0, 1)).unflatten(0, (2, 2))[:, :, 0].numpy()
        assert np.array_equal(answers[..., 0], np.round(decoded * (255 / 16)))


def test_frames_of_latents_are_decoded_states(place, tmp_path, monkeypatch) -> None:
    """Each is `x / sqrt(alpha^2 + sigma^2)`, decoded; the last is the sample."""
    shown: list[np.ndarray] = []
    frames = plots.frames

    def kept(kind, states):
        shown.extend(states)
        return frames(kind, states)

    monkeypatch.setattr(plots, "frames", kept)
    loaded = score_sde.load(place / "latent")
    path = loaded.animate(tmp_path / "film.gif", num_samples=3, num_steps=4, seed=5)
    with Image.open(path) as opened:
        film: Any = opened
        assert film.n_frames == len(shown) > 4
    samples = loaded.sample(3, num_steps=4, seed=5)
    assert np.array_equal(shown[-1][..., 0], np.round(samples[:, 0] * (255 / 16)))
    # The first is the noise itself.
    model, dataset = loaded.model, loaded._experiment.dataset
    noise = model.sde.prior_sample((3, *dataset.model_shape), seeds=[5, 6, 7])
    start = model.sde.at(torch.tensor(model.sde.T, dtype=torch.float64))
    decoded = dataset.units.decode(noise / torch.hypot(start.alpha, start.sigma).float())
    assert np.array_equal(shown[0][..., 0], np.round(decoded[:, 0].numpy() * (255 / 16)))


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_an_autoencoder_from_python(place, kind) -> None:
    """Its latents, what is decoded of them, and its bound are those of the module, and of the command line."""
    loaded: Any = score_sde.load(place / kind)
    x, units = loaded.dataset.test[:5], loaded.dataset.units
    posterior = loaded.model.posterior(units.encode(x).to(distributed.device()))
    mean, std = posterior.mean.cpu(), posterior.std.cpu()
    latents = loaded.encode(x)
    assert latents.dtype == np.float32
    np.testing.assert_allclose(latents, mean.numpy(), rtol=1e-6, atol=1e-7)
    drawn = mean + std * SampleNoise(range(3, 8), "dequantisation").normal(mean)
    np.testing.assert_allclose(loaded.encode(x, seed=3), drawn.numpy(), rtol=1e-6, atol=1e-6)
    decoded = loaded.decode(latents)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, units.decode(loaded.model.decode(posterior.mean)).cpu().numpy())
    assert np.array_equal(loaded.reconstruct(x), decoded)
    assert np.array_equal(loaded.reconstruct(x[2]), loaded.decode(latents[2]))
    assert run("--mode=likelihood", "--config.likelihood.num_examples=5", "--workdir", place / kind) == 0
    rows = np.genfromtxt(place / kind / "likelihood" / "test.csv", delimiter=",", names=True)
    np.testing.assert_allclose(loaded.bits_per_dim(x), rows["bits_per_dim"], rtol=1e-6)
    np.testing.assert_allclose(loaded.log_prob(x[1], seed=1), -rows["bits_per_dim"][1] * 64 * math.log(2), rtol=1e-6)
    for wrong, said in [
        (lambda: loaded.sample(1), "this is an autoencoder, which encodes, decodes"),
        (lambda: loaded.redraw(x), "this is an autoencoder"),
        (lambda: loaded.fill(x, given=x > 3), "this is an autoencoder"),
        (lambda: loaded.animate("film.gif"), "this is an autoencoder"),
        (lambda: loaded.log_prob(x, condition=3), "is told nothing"),
        (lambda: loaded.bits_per_dim(x, divergence="exact"), "no options such as divergence"),
        (lambda: loaded.encode(x, rtol=1e-3), "no options such as rtol"),
        (lambda: loaded.decode(latents[..., :2]), r"latents have shape \(2, 4, 4\)"),
        (lambda: loaded.encode(x[..., :4]), "shape"),
        (lambda: loaded.log_prob(x.float().requires_grad_()), "is not differentiated"),
    ]:
        with pytest.raises(UserError, match=said):
            wrong()


def test_what_does_not_fit_is_said(place, tmp_path, complaint) -> None:  # noqa: F811
    latent = place / "latent"
    vq = f"--config.data.autoencoder={place / 'vq'}"
    assert "autoencoder" in complaint("--mode=train", vq, "--workdir", latent)
    assert "autoencoder" in complaint("--mode=sample", vq, "--workdir", latent)
    assert "no checkpoint" in complaint(
        "--mode=train", *MODEL, f"--config.data.autoencoder={tmp_path / 'none'}", "--workdir", tmp_path / "a"
    )
    assert "no autoencoder" in complaint(
        "--mode=train", *MODEL, f"--config.data.autoencoder={latent}", "--workdir", tmp_path / "a"
    )
    cache = f"--config.data.folder={place / 'cache'}"
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).integers(0, 256, (30, 16, 16, 1), dtype=np.uint8))
    other = [cache, f"--config.data.path={tmp_path / 'wide.npy'}", "--config.model.class_conditional=False"]
    fitting = f"--config.data.autoencoder={place / 'kl'}"
    assert "shape (1, 8, 8)" in complaint("--mode=train", *MODEL, *other, fitting, "--workdir", tmp_path / "a")
    assert "this is an autoencoder" in complaint("--mode=sample", "--workdir", place / "kl")
    assert "levels" in complaint(
        "--mode=train", *MODEL, cache, fitting, "--config.model.prediction=levels", "--workdir", tmp_path / "a"
    )
    assert "is of pixels" in complaint(
        "--mode=edit", "--config.edit.task=superres", "--config.edit.input=test:0", "--workdir", latent
    )
    assert "whole examples" in complaint(
        "--mode=train", *MODEL, cache, fitting, "--config.data.masks=box", "--workdir", tmp_path / "a"
    )
    loaded = score_sde.load(latent)
    x = loaded.dataset.test[:2]
    with pytest.raises(UserError, match="this model is of latents"):
        loaded.fill(x, given=x > 3)
    with pytest.raises(UserError, match=r"sampling\.threshold is for levels: latents"):
        loaded.sample(1, threshold="static")
    assert loaded.redraw(x, 0.5, 2, num_steps=2).shape == (2, *x.shape)
    certain = [*MODEL, vq, *steps(1), f"--config.data.folder={place / 'cache'}"]
    assert run("--mode=train", *certain, "--workdir", tmp_path / "certain") == 0
    assert "kl_autoencoder" in complaint("--mode=likelihood", "--workdir", tmp_path / "certain")


def test_another_model_of_other_latents_is_no_reference(place, tmp_path) -> None:
    """Models beside each other see the same latents."""
    loaded = score_sde.load(place / "latent", settings={"sampling.reference": place / "kl"})
    with pytest.raises(UserError):
        loaded.sample(1, condition=0, guidance=2, num_steps=2)


@pytest.mark.parametrize(("shape", "kind"), [((2, 12), "vq"), ((1, 4, 8, 4), "kl")])
def test_series_and_volumes(tmp_path, shape, kind) -> None:
    """An autoencoder of numbers without levels is trained, and its bound is a density in data units."""
    x = 3 + 2 * torch.randn(30, *shape, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "x.npy", x.numpy())
    data = ["--config.data.dataset=digits", f"--config.data.path={tmp_path / 'x.npy'}"]
    arguments = [*AUTOENCODER, *data, f"--config.model.network={kind}_autoencoder", *steps(2)]
    assert run("--mode=train", *arguments, "--workdir", tmp_path / "run") == 0
    assert run("--mode=likelihood", "--workdir", tmp_path / "run", "--config.likelihood.split=train") == 0
    found = json.loads((tmp_path / "run" / "likelihood" / "train.json").read_text())
    experiment = load.to_use("likelihood", None, tmp_path / "run", None, [])
    model, units = experiment.model, experiment.dataset.units
    assert isinstance(model, KLAutoencoder if kind == "kl" else VQAutoencoder)
    seen = units.encode(experiment.dataset.train)
    per_example = -units.log_scale(shape) / (math.prod(shape) * math.log(2))
    measured = autoencoder_bits(model, seen, len(seen))
    assert found["bits_per_dim"] == pytest.approx(measured + per_example, rel=1e-5)
    bits = score_sde.load(tmp_path / "run").bits_per_dim(experiment.dataset.train, seed=0)
    assert bits.mean() == pytest.approx(found["bits_per_dim"], rel=1e-5)


def autoencoder_bits(model: Autoencoder, x: torch.Tensor, count: int) -> float:
    from score_sde.training.autoencoding import autoencoder_measure

    return autoencoder_measure(x, 0)(model)["bits_per_dim_bound"]


def test_descriptions_that_do_not_fit_their_weights_are_refused(place) -> None:
    [path] = (place / "latent" / "checkpoints").glob("step_0000004.pt")
    data = checkpoint.load(path)["data"]
    del data["units"]["autoencoder"]["decoder.conv_in.bias"]
    with pytest.raises(UserError, match=r"has no decoder\.conv_in\.bias"):
        autoencoders.read(data, str(path))
