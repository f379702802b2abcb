"""Published DiT and SiT by the command line and from Python: latents that are those of the original network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

import score_sde
from score_sde.common.condition import Condition
from score_sde.common.noise import SampleNoise
from score_sde.control import Guided
from score_sde.experiment import configuration
from score_sde.experiment.networks import make_network
from score_sde.models import Given
from score_sde.models.pretrained.diffusers import load_pipeline
from score_sde.models.pretrained.dit import dit_model, from_reference_dit
from score_sde.solvers import get_solver, log_likelihood
from tests.experiment.test_checkpoints import complaint, flags, run
from tests.models.pretrained.published_dit import CASES, CHANNELS, CLASSES, SIZE, network, published
from tests.reading import ROOT

CONFIGS = {"DiT 2": "configs/vp/dit/xl2_256.py", "SiT 2": "configs/rectified_flow/sit_xl2_256.py"}
REFERENCE = json.loads((ROOT / "tests/models/pretrained/reference/dit.json").read_text(encoding="utf-8"))
SHAPE = (CHANNELS, SIZE, SIZE)


def sizes(name: str) -> dict[str, str]:
    case = CASES[name]
    numbers = {"width": case["width"], "num_blocks": 2, "num_heads": case["heads"], "patch_size": case["patch"]}
    return {f"model.{key}": str(value) for key, value in numbers.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in CONFIGS:
        torch.save(published(**CASES[name]), folder / f"{name}.pt")
    return folder


def arguments(files: Path, name: str, folder: Path) -> list[str]:
    checkpoint = f"--checkpoint={files / f'{name}.pt'}"
    return [checkpoint, f"--config={CONFIGS[name]}", f"--workdir={folder}", *flags(sizes(name))]


@torch.no_grad()
def by_hand(name: str, x: Tensor, classes: Tensor, times: list[float]) -> Tensor:
    """Return samples that the original network and Euler's method (of DiT's flow in `y = x / alpha`: DDIM) give."""
    weights, heads = published(**CASES[name]), CASES[name]["heads"]
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    for t, s in zip(times, [*times[1:], 0.0], strict=True):
        if name.startswith("SiT"):
            x = x + (t - s) * network(weights, heads, x, torch.full((len(x),), 1 - t), classes)[:, :CHANNELS]
            continue
        (a, b), rung = (float(alpha_bar[round(1000 * u) - 1]) if u else 1.0 for u in (t, s)), round(1000 * t) - 1
        noise = network(weights, heads, x, torch.full((len(x),), float(rung)), classes)[:, :CHANNELS]
        x = b**0.5 * (x - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise
    return x


@pytest.mark.parametrize("name", CONFIGS)
def test_latents_are_those_of_the_original_network(name: str, files: Path, tmp_path: Path, capsys: Any) -> None:
    times = [1.0, 0.7, 0.4, 0.1]
    asked = {"sampling.solver": "ddim", "sampling.num_samples": "4", "sampling.labels": "7,0", "seed": "3"}
    asked |= {"sampling.grid": ",".join(map(str, times)), "sampling.batch_size": "3"}
    assert run("--mode=sample", *arguments(files, name, tmp_path), *flags(asked)) == 0
    assert "note" not in capsys.readouterr().err
    with np.load(tmp_path / "samples" / "ddim.npz") as file:
        drawn, nfe = file["samples"], file["nfe"]
    assert drawn.dtype == np.float32
    assert nfe == 4
    x_T = SampleNoise(range(3, 7), stream="prior").normal(torch.empty(4, *SHAPE))
    expected = by_hand(name, x_T, torch.tensor([7, 0, 7, 0]), times)
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    loaded = score_sde.load(files / f"{name}.pt", config=CONFIGS[name], settings=sizes(name))
    again = loaded.sample(condition=[7, 0, 7, 0], seed=3, solver="ddim", grid=asked["sampling.grid"], batch_size=3)
    np.testing.assert_array_equal(again, drawn)


def test_a_pipeline_of_latents_is_sampled_as_from_python(tmp_path: Path, capsys: Any) -> None:
    """Guided, with its own 1000 classes; the hidden one is what samples are guided from. Its autoencoder shows them."""
    diffusers = pytest.importorskip("diffusers")
    transformer = diffusers.DiTTransformer2DModel(2, 8, num_layers=1, sample_size=8, out_channels=8)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "dit")
    asked = {"sampling.solver": "ddim", "sampling.num_steps": "4", "sampling.num_samples": "2", "seed": "5"}
    asked |= {"sampling.labels": "207,360", "sampling.guidance": "4"}
    place = f"--checkpoint={tmp_path / 'dit'}"
    assert run("--mode=sample", place, f"--workdir={tmp_path / 'run'}", *flags(asked)) == 0
    assert "note" not in capsys.readouterr().err
    with np.load(tmp_path / "run" / "samples" / "ddim_latents.npz") as file:
        drawn = file["samples"]
    with np.load(tmp_path / "run" / "samples" / "ddim.npz") as file:
        images = file["images"]
    model = load_pipeline(tmp_path / "dit")
    given: Any = Given(model, Condition({"class": torch.tensor([207, 360])}))
    x_T = model.sde.prior_sample((2, 4, 8, 8), seeds=[5, 6])
    with torch.no_grad():
        expected = get_solver("ddim", num_steps=4)(Guided(given, model, 4.0), x_T).x
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    options: Any = {"solver": "ddim", "num_steps": 4, "guidance": 4.0}
    loaded: Any = score_sde.load(tmp_path / "dit")
    again = loaded.sample(condition=[207, 360], seed=5, latents=True, **options)
    np.testing.assert_array_equal(again, drawn)
    with torch.no_grad():
        shown = vae.decode(torch.from_numpy(drawn) / vae.config.scaling_factor).sample.movedim(1, -1)
    expected = ((shown / 2 + 0.5).clamp(0, 1) * 255).round()
    np.testing.assert_allclose(images.astype(float), expected, rtol=0, atol=1)
    line = complaint(capsys, "--mode=sample", place, f"--workdir={tmp_path / 'run'}", "--config.sampling.labels=1000")
    assert "1000" in line
    assert "give a file of them" in complaint(capsys, "--mode=likelihood", place, f"--workdir={tmp_path / 'run'}")


def test_densities_of_latents(files: Path, tmp_path: Path) -> None:
    """Those of a file are in its own units, whatever its mean and deviation."""
    x = 3 + 0.5 * np.random.default_rng(0).standard_normal((20, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "latents.npz", x=x, labels=np.arange(20) % CLASSES)
    fixed = {"likelihood.method": "adams", "likelihood.num_steps": "4", "data.test_share": "0.5"}
    asked = {"data.path": str(tmp_path / "latents.npz"), "likelihood.num_examples": "2", "likelihood.bounds": ""}
    asked |= {"likelihood.given": "own", "likelihood.num_checks": "0"}
    assert run("--mode=likelihood", *arguments(files, "DiT 2", tmp_path), *flags(fixed | asked)) == 0
    found = json.loads((tmp_path / "likelihood" / "test_given_class.json").read_text(encoding="utf-8"))
    loaded = score_sde.load(files / "DiT 2.pt", config=CONFIGS["DiT 2"], settings=sizes("DiT 2") | fixed)
    test = score_sde.load_dataset(path=tmp_path / "latents.npz", test_share=0.5)
    assert test.test_classes is not None
    classes = test.test_classes[:2]
    here = loaded.bits_per_dim(test.test[:2].numpy(), condition=classes.tolist())
    assert found["bits_per_dim"] == pytest.approx(here.mean(), rel=1e-6)
    model = dit_model(from_reference_dit(published(**CASES["DiT 2"]), CASES["DiT 2"]["heads"]))
    given: Any = Given(model, Condition({"class": classes}))
    result = log_likelihood(given, test.test[:2], seeds=[0, 1], method="adams", num_steps=4)
    np.testing.assert_allclose(here, -result.log_prob / x[0].size / np.log(2), rtol=1e-5)


def test_other_files_of_theirs_and_fine_tuning(tmp_path: Path) -> None:
    weights = published(**CASES["SiT 2"])
    torch.save({"model": {}, "ema": {f"module.{name}": w for name, w in weights.items()}}, tmp_path / "0050000.pt")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    settings: dict[str, Any] = sizes("SiT 2")
    models = [
        score_sde.load(tmp_path / name, config=CONFIGS["SiT 2"], settings=settings).model.state_dict()
        for name in ("0050000.pt", "old.pt", "a.safetensors")
    ]
    for other in models[1:]:
        assert all(torch.equal(weight, models[0][name]) for name, weight in other.items())
    still = {"training.learning_rate": 1e-12, "training.batch_size": 2, "training.sample_every": 0}
    tuned = score_sde.fit(
        np.random.default_rng(0).standard_normal((20, *SHAPE)).astype(np.float32),
        condition=np.arange(20) % 3,
        start_from=tmp_path / "a.safetensors",
        config=CONFIGS["SiT 2"],
        num_steps=1,
        settings=settings | still,
    )
    for name, weight in tuned.model.state_dict().items():
        if ".vectors." not in name:
            torch.testing.assert_close(weight, models[0][name], rtol=0, atol=1e-9)


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


def test_what_does_not_fit_is_said_in_one_line(files: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    usual = arguments(files, "DiT 2", tmp_path / "run")
    for changes, said in {
        ("model.width", "96"): "DiT 2.pt has model.width=128, not 96: give its --config",
        ("model.num_heads", "3"): "3 heads do not divide a width of 128",
        ("sde.name", "vp"): "is of a DiT or a SiT, not of sde.name=vp: give its --config configs/vp/dit/xl2_256.py",
        ("sde.name", "rectified_flow"): "has model.prediction=flow, not noise, model.noise_label=alpha, not rung",
        ("sde.beta_max", "10"): "has sde.beta_max=20.0, not 10.0",
        ("sampling.labels", "10"): "10",
        ("sampling.copies", "true"): "give a file of them, --config.data.path=FILE.npz",
    }.items():
        assert said in complaint(capsys, "--mode=sample", *usual, *flags(dict([changes])))
    assert "give a file of them" in complaint(capsys, "--mode=likelihood", *usual)
    assert "give its --config FILE" in complaint(capsys, "--mode=sample", usual[0], f"--workdir={tmp_path / 'new'}")
    line = complaint(capsys, "--mode=export", *usual, f"--folder={tmp_path / 'out'}")
    assert "pipelines are for square images, and latents has fields of (4, 16, 16)" in line
    line = complaint(capsys, "--mode=train", f"--config={CONFIGS['DiT 2']}", f"--workdir={tmp_path / 'new'}")
    assert "give a file of them" in line
    weights = published(**CASES["DiT 2"])
    np.save(tmp_path / "small.npy", np.random.default_rng(0).standard_normal((20, CHANNELS, 8, 8)))
    line = complaint(capsys, "--mode=likelihood", *usual, f"--config.data.path={tmp_path / 'small.npy'}")
    assert "has examples of shape 4, 8, 8, but" in line
    whole = (files / "DiT 2.pt").read_bytes()
    for name, content, said in [
        ("half.pt", whole[: len(whole) // 2], "it is truncated, damaged, or not a checkpoint"),
        ("hostile.pt", weights | {"pos_embed": Attack()}, "it holds more than data, namely posix.mkdir"),
        ("nan.pt", weights | {"final_layer.linear.bias": torch.full((32,), torch.nan)}, "output.bias is NaN in 16 of"),
        ("places.pt", weights | {"pos_embed": torch.ones(1, 64, 128)}, "other places of patches"),
        ("shape.pt", weights | {"blocks.1.attn.proj.bias": torch.ones(7)}, "blocks.1.output.bias has shape (7,)"),
        ("last.pt", weights | {"final_layer.linear.weight": torch.ones(30, 128)}, "output.weight has shape (30, 128)"),
        ("flat.pt", weights | {"final_layer.linear.weight": torch.ones(30)}, "final_layer.linear.weight is (30,)"),
        ("more.pt", weights | {"style": torch.ones(2)}, "it has style, which the network lacks"),
        ("number.pt", weights | {"style": 2}, "has 'style' among its weights, which is not a tensor"),
    ]:
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        line = complaint(capsys, "--mode=sample", *usual, f"--checkpoint={path}")
        assert str(path) in line
        assert said in line
    assert not (tmp_path / "attacked").exists()
    assert not (tmp_path / "run" / "samples").exists()


def test_configurations_of_published_sizes() -> None:
    """A network of them has as many weights as DiT-XL/2, whose channels of variances are left out."""
    for path in (*CONFIGS.values(), "configs/vp/dit/xl2_512.py"):
        config = configuration.load_file(path)
        with torch.device("meta"):
            made = make_network(config, (4, 32, 32), conditions={"class": 1000})
        count = sum(weight.numel() for weight in made.parameters())
        assert count == REFERENCE["parameters"]["DiT-XL/2"] - 16 * (1152 + 1)
