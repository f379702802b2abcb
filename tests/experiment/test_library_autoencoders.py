"""Models in the latents of diffusers' autoencoders: trained, resumed, sampled elsewhere, measured; bad folders."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import score_sde
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents, scaled
from score_sde.data.units import Bins
from score_sde.experiment.library_autoencoders import latents_of_library, with_width
from score_sde.models.pretrained.diffusers_autoencoder import PictureAutoencoder
from tests.experiment.test_latent_data import MODEL, ON_CPU, same, steps
from tests.modes.test_main import complaint, run  # noqa: F401

diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained import tiny_pipelines as tiny  # noqa: E402

SETTINGS = {"scaling_factor": 0.5, "shift_factor": 0.1}


def pictures(count: int = 24, size: int = 16) -> np.ndarray:
    """Return smooth pictures, uint8 `(N, H, W, 3)`."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, size // 4, size // 4, 3)).astype(np.float64)
    return small.repeat(4, 1).repeat(4, 2).round().astype(np.uint8)


def vector_quantised() -> Any:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    settings = {"block_out_channels": (4, 4), "norm_num_groups": 2, "latent_channels": 2, "num_vq_embeddings": 9}
    return tiny.randomise(diffusers.VQModel(**settings, **kinds))


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with pictures `x.npy`, autoencoders `kl` and `vq`, and runs of few steps in the latents of each."""
    folder = tmp_path_factory.mktemp("library")
    np.save(folder / "x.npy", pictures())
    tiny.autoencoder(**SETTINGS).save_pretrained(folder / "kl")
    vector_quantised().save_pretrained(folder / "pipeline" / "vqvae")
    parts = {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}
    (folder / "pipeline" / "model_index.json").write_text(json.dumps(parts))
    assert run("--mode=train", *training(folder, "kl"), *steps(3), "--workdir", folder / "of_kl") == 0
    assert run("--mode=train", *training(folder, "pipeline"), *steps(1), "--workdir", folder / "of_vq") == 0
    return folder


def training(folder: Path, autoencoder: str) -> list[Any]:
    data = [f"--config.data.path={folder / 'x.npy'}", f"--config.data.folder={folder / 'cache'}"]
    unclassed = ["--config.model.class_conditional=False", "--config.data.autoencoder", folder / autoencoder]
    return [*MODEL, *data, *unclassed]


def test_units_are_the_library_s(place: Path) -> None:
    """Means and deviations of latents, and levels that are decoded, are those of the library's own autoencoder."""
    network = diffusers.AutoencoderKL.from_pretrained(place / "kl")
    x = torch.from_numpy(pictures().transpose(0, 3, 1, 2))
    dataset = Dataset("pictures", x, x[:2], Bins(256))
    units = latents_of_library(place / "kl", dataset)
    encoded = units.encoded(x)
    with torch.no_grad():
        theirs = network.encode(x / 127.5 - 1).latent_dist
        torch.testing.assert_close(encoded[:, 0], 0.5 * (theirs.mean - 0.1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoded[:, 1], 0.5 * theirs.std, rtol=1e-5, atol=1e-6)
        units = with_width(scaled(units, encoded), x, encoded, 0)
        y = units.encode(x[:5])
        z = y * units.std + units.mean
        decoded = network.decode((z / 0.5 + 0.1).float()).sample
    levels = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
    assert (units.decode(y).float() - levels).abs().max() <= 1
    assert (units.decode(y) == levels).float().mean() > 0.999
    # The bound's terms, by distributions of scipy's.
    drawn = units.draw_and_rate(x[:5], SampleNoise(range(5), "dequantisation"))
    z = (drawn.y * units.std + units.mean).float()
    with torch.no_grad():
        mean = network.decode(z / 0.5 + 0.1).sample.double().numpy()
    k, width = x[:5].double().numpy(), units.about["width"]
    upper, lower = (stats.logistic.cdf((k + half) / 127.5 - 1, mean, width) for half in (0.5, -0.5))
    upper, lower = np.where(k == 255, 1, upper), np.where(k == 0, 0, lower)
    log_p = np.log(upper - lower).sum((1, 2, 3))
    log_q = stats.norm.logpdf(z, encoded[:5, 0], encoded[:5, 1]).sum((1, 2, 3))
    log_q += 64 * units.std.log().sum().item()
    np.testing.assert_allclose(drawn.log_q, log_q - log_p, rtol=1e-5)
    # Another width is less likely.
    for other in (0.9 * width, 1.1 * width):
        told = PictureAutoencoder(network, 256, other)
        seen = units.pixels.encode(x)
        mine, theirs = (each.log_prob(seen, encoded[:, 0]).sum() for each in (units.autoencoder, told))
        assert mine > theirs


def test_a_checkpoint_needs_neither_data_nor_the_autoencoder_s_folder(place: Path, tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        shutil.copy(place / "of_kl" / "checkpoints" / f"step_0000003{suffix}", tmp_path / f"model{suffix}")
    options: list[Any] = [
        "--config.sampling.num_samples=3",
        "--config.sampling.num_steps=3",
        "--config.data.folder=/nowhere",
    ]
    drawn = []
    for suffix in (".pt", ".safetensors"):
        arguments: list[Any] = ["--checkpoint", tmp_path / f"model{suffix}", "--workdir", tmp_path / suffix[1:]]
        assert run("--mode=sample", *arguments, *options) == 0
        drawn.append(np.load(tmp_path / suffix[1:] / "samples" / "default.npz")["images"])
    assert drawn[0].shape == (3, 16, 16, 3)
    assert np.array_equal(drawn[0], drawn[1])
    loaded = score_sde.load(tmp_path / "model.pt")
    units = loaded._experiment.dataset.units
    assert isinstance(units, Latents)
    assert units.shape_of((3, 16, 16)) == (4, 8, 8)
    here = np.abs(loaded.sample(3, num_steps=3).transpose(0, 2, 3, 1).astype(int) - drawn[0])
    assert here.max() == 0


def test_a_run_that_was_stopped_is_one_that_was_not(place: Path, tmp_path: Path) -> None:
    """Though the autoencoder's folder is gone; what was encoded before is found by the same name."""
    shutil.copytree(place / "kl", tmp_path / "kl")
    shutil.copy(place / "x.npy", tmp_path)
    options = [*training(tmp_path, "kl"), "--workdir", tmp_path / "run"]
    assert run("--mode=train", *options, *steps(3, 1)) == 0
    for path in (tmp_path / "run" / "checkpoints").glob("step_0000003*"):
        path.unlink()
    shutil.rmtree(tmp_path / "kl")
    [cached] = (tmp_path / "cache").glob("latents_*")
    before = cached.stat().st_mtime_ns
    assert run("--mode=train", ON_CPU, "--workdir", tmp_path / "run") == 0
    assert same(place / "of_kl", tmp_path / "run", 3)
    assert [cached] == list((tmp_path / "cache").glob("latents_*"))
    assert cached.stat().st_mtime_ns == before


def test_likelihoods_and_edits(place: Path) -> None:
    keys = {"num_examples": 2, "num_checks": 0, "method": "adams", "num_steps": 4, "bounds": "()"}
    options = [f"--config.likelihood.{key}={value}" for key, value in keys.items()]
    folder = place / "of_kl"
    assert run("--mode=likelihood", *options, "--workdir", folder) == 0
    found = json.loads((folder / "likelihood" / "test.json").read_text())
    assert "bound through the decoder" in found["kind"]
    loaded = score_sde.load(folder, settings={f"likelihood.{key}": value for key, value in keys.items()})
    x = loaded.dataset.test[:2]
    bits = -loaded.log_prob(x, seed=0).mean() / (x[0].numel() * math.log(2))
    assert bits == pytest.approx(found["bits_per_dim"], rel=1e-5)
    edit = ["--config.edit.task=sdedit", "--config.edit.input=test:0", "--config.edit.num_steps=2"]
    assert run("--mode=edit", *edit, "--workdir", folder) == 0
    assert np.load(folder / "edit" / "sdedit.npz")["answers"].shape == (1, 6, 16, 16, 3)


def test_what_does_not_fit_is_said(place: Path, tmp_path: Path, complaint: Any) -> None:  # noqa: F811
    assert "take a kl_autoencoder, or an AutoencoderKL" in complaint("--mode=likelihood", "--workdir", place / "of_vq")
    tiny.autoencoder().save_pretrained(tmp_path / "pickled", safe_serialization=False)
    tiny.unet().save_pretrained(tmp_path / "unet")
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    np.save(tmp_path / "odd.npy", pictures(size=20)[:, :15])
    np.save(tmp_path / "grey.npy", pictures()[..., 0])
    wrong = {
        ("kl", "grey.npy"): "is of pictures with 3 channels, and grey has 1",
        ("kl", "odd.npy"): "H and W multiples of 2, not (3, 15, 20)",
        ("pickled", "x.npy"): "a pickle, and only .safetensors are read",
        ("unet", "x.npy"): "is of a UNet2DConditionModel, and autoencoders that are read are AutoencoderKL and VQModel",
        ("without", "x.npy"): "is a pipeline without an autoencoder: it has no vae and no vqvae",
        ("owner/name", "x.npy"): "nothing is fetched: hf download owner/name --local-dir FOLDER",
    }
    for (autoencoder, data), said in wrong.items():
        of = next((p for p in (place / autoencoder, tmp_path / autoencoder) if p.exists()), autoencoder)
        x = next(p for p in (place / data, tmp_path / data) if p.exists())
        options = [*training(place, "kl"), f"--config.data.autoencoder={of}", f"--config.data.path={x}"]
        line = complaint("--mode=train", *options, *steps(1), "--workdir", tmp_path / "run")
        assert said in line
    series = torch.zeros(4, 2, 40)
    with pytest.raises(UserError, match="is of pictures, and waves has series"):
        latents_of_library(place / "kl", Dataset("waves", series, series))
