"""Perceptual and adversarial losses from the command line: the library's networks, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import score_sde
from score_sde.training import checkpoint
from score_sde.training.perceptual import read_perceptual
from tests.experiment.test_latent_data import AUTOENCODER, MODEL, ON_CPU, same, steps
from tests.modes.test_main import complaint, run  # noqa: F401
from tests.reading import table

ADVERSARIAL = ["--config.training.adversarial_weight=0.1", "--config.training.adversarial_start=1"]
SCALE = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.fixture(scope="module")
def network(tmp_path_factory: Any) -> Path:
    """The folder of a ResNet of random weights, with a classifier's head."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("networks") / "resnet"
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SCALE), encoding="utf-8")
    return folder


@pytest.mark.usefixtures("on_cpu")
def test_a_folder_of_transformers_sees_pictures(network: Path) -> None:
    """Its hidden states are those of the library's own network, of pictures in its own scale."""
    from transformers import ResNetModel

    distance = read_perceptual(str(network), (1, 8, 8), -1.0, 1.0)
    x, y = 2 * torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    mean, std = (torch.tensor(SCALE[name])[:, None, None] for name in ("image_mean", "image_std"))

    @torch.no_grad()
    def seen(pictures: Tensor) -> tuple[Tensor, ...]:
        model = ResNetModel.from_pretrained(network).eval()
        return model((((pictures + 1) / 2).expand(-1, 3, -1, -1) - mean) / std, output_hidden_states=True).hidden_states

    wanted = torch.zeros(3)
    for one, two in zip(seen(x), seen(y), strict=True):
        cosine = torch.nn.functional.cosine_similarity(one, two, dim=1)
        wanted += (2 - 2 * cosine).flatten(1).mean(1)
    torch.testing.assert_close(distance(x, y), wanted, rtol=1e-4, atol=1e-6)
    assert not any(weight.requires_grad for weight in distance.network.parameters())


def test_both_losses_and_what_is_kept(network: Path, tmp_path: Path) -> None:
    """Resumed to the bit; the log tells the terms; what is exported and loaded has the autoencoder alone."""
    pytest.importorskip("monai")
    asked = [*AUTOENCODER, *ADVERSARIAL, "--config.training.log_every=1", "--config.training.perceptual_weight=0.5"]
    asked += [f"--config.training.perceptual_network={network}"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert run("--mode=train", *asked, *steps(3), "--workdir", straight) == 0
    assert run("--mode=train", *asked, *steps(3, 2), "--workdir", stopped) == 0
    for path in (stopped / "checkpoints").glob("step_0000003*"):
        path.unlink()
    assert run("--mode=train", ON_CPU, "--workdir", stopped) == 0
    assert same(straight, stopped, 3)
    learnt = [checkpoint.load(checkpoint.path_at(f / "checkpoints", 3))["objective"] for f in (straight, stopped)]
    assert all(torch.equal(learnt[0]["discriminator"][k], v) for k, v in learnt[1]["discriminator"].items())
    rows = table(straight / "metrics.csv")
    assert [row["doubt"] == "" for row in rows] == [True, False, False]
    for row in rows:
        told = {name: float(row[name] or 0) for name in ("loss", "distortion", "rate", "perceptual", "doubt")}
        made = told["distortion"] + told["rate"] + 0.5 * told["perceptual"] + 0.1 * told["doubt"]
        assert told["loss"] == pytest.approx(made, rel=1e-5)
    weights, _, _ = checkpoint.load_weights_file(straight / "checkpoints" / "step_0000003.safetensors")
    assert {name.partition(".")[0] for name in weights} == {"encoder", "decoder", "decoded"}
    loaded: Any = score_sde.load(straight / "checkpoints" / "step_0000003.safetensors")
    assert loaded.reconstruct(np.zeros((2, 1, 8, 8), dtype=np.uint8)).shape == (2, 1, 8, 8)


def test_what_does_not_fit_is_said(network: Path, tmp_path: Path, complaint: Any) -> None:  # noqa: F811
    def said(*flags: str) -> str:
        return complaint("--mode=train", *AUTOENCODER, *steps(1), "--workdir", tmp_path / "run", *flags)

    perceptual = ["--config.training.perceptual_weight=1", f"--config.training.perceptual_network={network}"]
    noise = "--config.data.uniform_dequantisation=True"
    assert "--config.data.uniform_dequantisation=False" in said(*ADVERSARIAL, noise)
    assert "training.perceptual_network=FOLDER" in said(perceptual[0])
    assert "preprocessor_config.json" in said(perceptual[0], f"--config.training.perceptual_network={tmp_path}")
    np.save(tmp_path / "volumes.npy", np.random.default_rng(0).normal(size=(30, 1, 8, 8, 8)))
    assert "has volumes" in said(*perceptual, f"--config.data.path={tmp_path / 'volumes.npy'}")
    np.save(tmp_path / "short.npy", np.random.default_rng(0).normal(size=(30, 1, 4, 4, 4)))
    assert "sizes of 6 and more" in said(*ADVERSARIAL, f"--config.data.path={tmp_path / 'short.npy'}")
    line = complaint("--mode=train", *MODEL, *steps(1), "--workdir", tmp_path / "run", ADVERSARIAL[0])
    assert "adversarial_weight is for autoencoders" in line
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    folder = tmp_path / "vit"
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **small)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SCALE), encoding="utf-8")
    assert "does not look at pictures of 8 x 8" in said(perceptual[0], f"--config.training.perceptual_network={folder}")
    (folder / "model.safetensors").unlink()
    assert "no weights in .safetensors" in said(perceptual[0], f"--config.training.perceptual_network={folder}")
