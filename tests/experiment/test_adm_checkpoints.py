"""Files of guided-diffusion and improved-diffusion from the command line: samples, guidance, enlarging, bits/dim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import score_sde
from score_sde.common.condition import Condition
from score_sde.models import ADM
from score_sde.models.pretrained.adm import adm_classifier, load_adm
from tests.experiment.test_checkpoints import complaint, flags, run
from tests.models.pretrained.published_adm import CLASSES, SIZE, Published, published
from tests.models.pretrained.test_adm import made

CASE = Published(head_channels=16)
CLASSIFIER = Published(head_channels=64, channels=64, pool="attention")
SMALL = {
    "data.image_size": str(SIZE),
    "data.num_classes": str(CLASSES),
    "model.channels": "32",
    "model.channel_multipliers": "1,2",
    "model.num_blocks": "1",
    "model.attention_resolutions": "8",
    "model.head_width": "16",
}
# Rungs 999, 499 and 99; what noise this far makes of noise lies within these limits.
GRID = {
    "sampling.solver": "ddim",
    "sampling.grid": "1.0,0.5,0.1",
    "sampling.num_samples": "2",
    "sampling.num_steps": "3",
}
GRID |= {"data.low": "-400", "data.high": "400"}
RUNGS = (999, 499, 99)
CONFIG = "--config=configs/vp/adm/imagenet256.py"


def write(case: Published, path: Path, scale: float = 1.0) -> dict[str, Tensor]:
    """Write a file of the published code, of a network whose output is multiplied by a number; return its weights."""
    weights = published(case)
    for kind in ("weight", "bias"):
        weights[f"out.2.{kind}" if not case.pool else f"out.2.c_proj.{kind}"] *= scale
    torch.save(weights, path)
    return weights


def ddim(noise: Any, seeds: range, alpha_bar: Tensor, rungs: tuple[int, ...] = RUNGS) -> np.ndarray:
    """Return what DDIM of the published code makes of a prediction of noise at some rungs, as levels."""
    x = score_sde.VPSDE().prior_sample((len(seeds), 3, SIZE, SIZE), seeds=seeds)
    for index, rung in enumerate(rungs):
        here = alpha_bar[rung].item()
        after = alpha_bar[rungs[index + 1]].item() if index + 1 < len(rungs) else 1.0
        eps = noise(x, rung)
        denoised = (x - (1 - here) ** 0.5 * eps) / here**0.5
        x = after**0.5 * denoised + (1 - after) ** 0.5 * eps
    return ((x + 400) * (255 / 800)).clamp(0, 255).movedim(1, -1).numpy()


def linear(count: int = 1000) -> Tensor:
    return (1 - torch.linspace(0.1 / count, 20 / count, count, dtype=torch.float64)).cumprod(0)


def drawn(workdir: Path, solver: str = "ddim") -> np.ndarray:
    return np.load(workdir / "samples" / f"{solver}.npz")["images"].astype(float)


def network_of(case: Published, weights: dict[str, Tensor]) -> ADM:
    network = made(case)
    load_adm(network, weights)
    return network.requires_grad_(False)


@pytest.mark.parametrize("name", ["imagenet256", "imagenet64"])
def test_a_model_of_classes_samples_as_its_code_does(name: str, tmp_path: Path) -> None:
    """Without any data: with linear and cosine betas, in both orders of attention, of classes 4 and 1."""
    case = Published(head_channels=16, new_order=name == "imagenet64")
    network = network_of(case, write(case, tmp_path / "a.pt"))
    cosine = torch.cos((torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
    cosine_betas = (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)
    alpha_bar = (1 - cosine_betas).cumprod(0) if name == "imagenet64" else linear()
    told = Condition({"class": torch.tensor([4, 1])})
    values = SMALL | GRID | {"sampling.labels": "4,1"}
    arguments = ["--mode=sample", f"--config=configs/vp/adm/{name}.py", f"--checkpoint={tmp_path / 'a.pt'}"]
    assert run(*arguments, f"--workdir={tmp_path / 'run'}", *flags(values)) == 0
    expected = ddim(lambda x, rung: network(x, torch.full((2,), float(rung)), told)[:, :3], range(2), alpha_bar)
    assert np.abs(drawn(tmp_path / "run") - expected).max() <= 1


@pytest.mark.parametrize("class_cond", [True, False])
def test_a_classifier_guides_as_in_its_code(class_cond: bool, tmp_path: Path) -> None:
    """The noise is changed by `-sqrt(1 - alpha_bar)` times the gradient, whether or not the model is told the class."""
    case = Published(head_channels=16, class_cond=class_cond)
    network = network_of(case, write(case, tmp_path / "a.pt"))
    classifier = adm_classifier(write(CLASSIFIER, tmp_path / "classifier.pt", 20.0), SIZE).requires_grad_(False)
    classes, alpha_bar = torch.tensor([3, 0]), linear()
    told = Condition({"class": classes}) if class_cond else None

    def plain(x: Tensor, rung: int) -> Tensor:
        return network(x, torch.full((2,), float(rung)), told)[:, :3]

    def noise(x: Tensor, rung: int) -> Tensor:
        labels = torch.full((2,), float(rung))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            chosen = classifier(x, labels).log_softmax(1)[torch.arange(2), classes]
            (gradient,) = torch.autograd.grad(chosen.sum(), x)
        return plain(x.detach(), rung) - (1 - alpha_bar[rung].item()) ** 0.5 * 2.0 * gradient

    name = "imagenet256" if class_cond else "imagenet256_unconditional"
    arguments = ["--mode=sample", f"--config=configs/vp/adm/{name}.py"]
    arguments += [f"--checkpoint={tmp_path / 'a.pt'}", f"--workdir={tmp_path / 'run'}", *flags(SMALL | GRID)]
    arguments += flags({"sampling.labels": "3,0", "sampling.guidance": "2"})
    assert run(*arguments, f"--config.sampling.classifier={tmp_path / 'classifier.pt'}") == 0
    guided = drawn(tmp_path / "run")
    assert np.abs(guided - ddim(noise, range(2), alpha_bar)).max() <= 1
    assert np.abs(guided - ddim(plain, range(2), alpha_bar)).max() > 20


def test_an_upsampler_enlarges_what_it_is_given(tmp_path: Path) -> None:
    """Small pictures are uint8, brought to the units of large ones, and to size by linear interpolation."""
    case = Published(small_size=4, head_channels=16)
    network = network_of(case, write(case, tmp_path / "up.pt"))
    small = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "low.npz", low_resolution=small, labels=[2, 0])
    values = SMALL | GRID | {"data.low_resolution": "4", "sampling.condition": str(tmp_path / "low.npz")}
    arguments = ["--mode=sample", "--config=configs/vp/adm/upsampler_64_256.py", f"--workdir={tmp_path / 'run'}"]
    assert run(*arguments, f"--checkpoint={tmp_path / 'up.pt'}", *flags(values)) == 0
    beside = torch.nn.functional.interpolate(
        torch.from_numpy(small).float() * (800 / 255) - 400, (SIZE, SIZE), mode="bilinear"
    )
    told = Condition({"class": torch.tensor([2, 0]), "low_resolution": beside})
    expected = ddim(lambda x, rung: network(x, torch.full((2,), float(rung)), told)[:, :3], range(2), linear())
    assert np.abs(drawn(tmp_path / "run") - expected).max() <= 1


def test_improved_diffusion_counts_as_if_there_were_1000_rungs(tmp_path: Path) -> None:
    case = Published(updown=False, improved=True, class_cond=False)
    network = network_of(case, write(case, tmp_path / "improved.pt"))
    cosine = torch.cos((torch.linspace(0, 1, 4001, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
    alpha_bar = (1 - (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)).cumprod(0)
    values = {key: value for key, value in SMALL.items() if key not in ("data.num_classes", "model.head_width")}
    arguments = ["--mode=sample", "--config=configs/vp/adm/improved_imagenet64.py", f"--workdir={tmp_path / 'run'}"]
    assert run(*arguments, f"--checkpoint={tmp_path / 'improved.pt'}", *flags(values | GRID)) == 0
    expected = ddim(
        lambda x, rung: network(x, torch.full((2,), rung / 4))[:, :3], range(2), alpha_bar, (3999, 1999, 399)
    )
    assert np.abs(drawn(tmp_path / "run") - expected).max() <= 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Write pictures with classes."""
    path = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    images = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % CLASSES)
    return path


FAST = {
    "sampling.num_samples": "2",
    "sampling.num_steps": "5",
    "sampling.labels": "0,3",
    "likelihood.num_examples": "2",
    "likelihood.num_probes": "1",
    "likelihood.method": "adams",
    "likelihood.num_steps": "3",
    "likelihood.bounds": "",
    "likelihood.num_checks": "0",
}


def test_bits_are_those_given_the_class_of_each_picture(pictures: Path, tmp_path: Path, capsys) -> None:
    """From the command line and from Python; without its class a picture has no density here."""
    write(CASE, tmp_path / "a.pt", 0.1)
    values = SMALL | FAST | {"data.path": str(pictures), "data.test_share": "0.5"}
    arguments = ["--mode=likelihood", CONFIG, f"--checkpoint={tmp_path / 'a.pt'}", f"--workdir={tmp_path / 'run'}"]
    assert run(*arguments, *flags(values)) == 0
    found = json.loads((tmp_path / "run" / "likelihood" / "test_given_class.json").read_text())
    loaded = score_sde.load(tmp_path / "a.pt", config="configs/vp/adm/imagenet256.py", settings=values)
    data = score_sde.load_dataset(path=pictures, test_share=0.5, uniform_dequantisation=False)
    assert data.test_classes is not None
    bits = loaded.bits_per_dim(data.test[:2].numpy(), condition=data.test_classes[:2])
    assert found["bits_per_dim"] == pytest.approx(float(np.mean(bits)), rel=1e-6)
    line = complaint(capsys, *arguments, *flags(values | {"likelihood.given": "none"}))
    assert "knows no p(x): tell it of class, too" in line


def test_training_goes_on_from_a_published_file(pictures: Path, tmp_path: Path) -> None:
    """At a rate of nothing, its weights are what they were, the vectors of classes too."""
    weights = write(CASE, tmp_path / "a.pt")
    values: dict[str, Any] = SMALL | {"training.learning_rate": "1e-12", "training.num_steps": "1"}
    values |= {"training.batch_size": "2", "training.sample_every": "0", "data.test_share": "0.5"}
    run = score_sde.fit(str(pictures), start_from=tmp_path / "a.pt", config="vp/adm/imagenet256", settings=values)
    expected = network_of(CASE, weights).state_dict()
    for name, tensor in run.model.network.state_dict().items():
        torch.testing.assert_close(tensor.cpu(), expected[name], rtol=0, atol=1e-9)


def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, capsys) -> None:
    write(CASE, tmp_path / "a.pt")
    write(CLASSIFIER, tmp_path / "classifier.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save(published(CASE) | {"other": print}, tmp_path / "hostile.pt")
    workdir = f"--workdir={tmp_path / 'run'}"

    def said(name: str, values: dict[str, str], config: str = CONFIG) -> str:
        return complaint(capsys, "--mode=sample", config, f"--checkpoint={tmp_path / name}", workdir, *flags(values))

    asked = SMALL | FAST
    assert f"cannot read the checkpoint {tmp_path / 'half.pt'}: it is truncated" in said("half.pt", asked)
    assert "it holds more than data, namely builtins.print" in said("hostile.pt", asked)
    assert "is of a network with channels=32, and this one has channels=64" in said(
        "a.pt", asked | {"model.channels": "64"}
    )
    assert "output channels=6, and this one has" in said("a.pt", asked | {"model.variance": "fixed"})
    assert "scale_shift=True, and this one" in said("a.pt", asked | {"model.scale_shift": "false"})
    assert "it has no input_blocks.1.1.norm.weight" in said("a.pt", asked | {"model.attention_resolutions": "8,16"})
    assert "knows no p(x)" in said("a.pt", {**asked, "sampling.labels": "none"})
    assert "holds an ADM, not model.network=ddpm" in said("a.pt", asked | {"model.network": "ddpm"})
    assert f"this is a classifier: give it to a model of images, --config.sampling.classifier={tmp_path}/c" in said(
        "classifier.pt", asked
    )
    line = complaint(capsys, "--mode=sample", f"--checkpoint={tmp_path / 'a.pt'}", workdir)
    assert "does not say what it was trained with: give its --config FILE" in line
    guiding = asked | {"sampling.classifier": str(tmp_path / "classifier.pt")}
    write(Published(head_channels=16, class_cond=False), tmp_path / "uncond.pt")
    unconditional = guiding | {"data.num_classes": "4", "model.class_conditional": "false"}
    assert "knows 5 classes, and images has 4" in said("uncond.pt", unconditional)
    for key, value in {"model.noise_label": "log_snr", "model.prediction": "velocity"}.items():
        assert f"is an ADM, whose {key} is " in said("a.pt", asked | {key: value})
    assert "is no classifier" in said("a.pt", asked | {"sampling.classifier": str(tmp_path / "a.pt")})
    (tmp_path / "a.pt").rename(tmp_path / "a.pth")
    assert "knows no p(x)" in said("a.pth", {**asked, "sampling.labels": "none"})


@torch.no_grad()
def test_the_variance_of_a_step_is_the_published_one(tmp_path: Path) -> None:
    """From rung 499 to 498: `nu log beta + (1 - nu) log beta-tilde`, of what the second half of the channels says."""
    weights = write(CASE, tmp_path / "a.pt")
    settings = SMALL | {"data.low": "-1"}
    model: Any = score_sde.load(
        tmp_path / "a.pt", config="configs/vp/adm/imagenet256.py", settings=settings
    ).model.cpu()
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    told, rung = Condition({"class": torch.tensor([4, 1])}), torch.tensor([499.0, 499.0])
    eps, v = network_of(CASE, weights)(x, rung, told).double().chunk(2, dim=1)
    alpha_bar, beta, nu = linear(), 0.1 / 1000 + 499 / 999 * 19.9 / 1000, (v + 1) / 2
    below, here = alpha_bar[498].item(), alpha_bar[499].item()
    smaller = beta * (1 - below) / (1 - here)
    expected = torch.exp(nu * np.log(beta) + (1 - nu) * np.log(smaller))
    found = model.posterior(x, model.sde.time(rung), told)
    weight_of_denoised = below**0.5 * beta / (1 - here)
    torch.testing.assert_close(smaller + weight_of_denoised**2 * found.variance.double(), expected, rtol=1e-4, atol=0)
    denoised = (x - (1 - here) ** 0.5 * eps) / here**0.5
    torch.testing.assert_close(found.mean.double(), denoised, rtol=1e-4, atol=1e-4)
