"""Published checkpoints and pipelines of diffusers from the command line: samples, likelihoods, and what is wrong."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from absl.testing import flagsaver
from PIL import Image

import score_sde
from score_sde import __main__ as main
from score_sde.common.errors import UserError
from score_sde.experiment import build, checkpoints, configuration, runs
from score_sde.models.networks.ncsnpp import NCSNpp
from score_sde.models.pretrained.score_sde_names import reference_tensors
from score_sde.sde import geometric_sigmas
from score_sde.training import checkpoint
from tests.reading import ROOT

REFERENCE = ROOT / "tests/models/pretrained/reference/checkpoint_subvp_ddpmpp"

# Sizes of the small networks, here and in the 1 MB checkpoint of the published code.
SMALL = {
    "model.channels": "8",
    "model.channel_multipliers": "1,2",
    "model.num_blocks": "1",
    "model.attention_resolutions": "4",
    "data.image_size": "8",
}
GREY = SMALL | {"data.num_channels": "1", "data.dataset": "digits", "data.levels": "17"}
FAST = {
    "sampling.num_samples": "2",
    "sampling.num_steps": "5",
    "likelihood.num_examples": "2",
    "likelihood.rtol": "1e-2",
    "likelihood.atol": "1e-2",
    "likelihood.bounds": "continuous",
    "likelihood.bound_calls": "4",
    "likelihood.num_checks": "0",
}


def flags(values: dict[str, str]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


def run(*arguments: object) -> int:
    """Return the exit code of `python main.py` with these arguments, in this process."""
    with flagsaver.flagsaver():
        return main.main(main.parse(["main.py", *map(str, arguments)]))


def complaint(capsys, *arguments: object) -> str:
    """Return the one line that a failing command line prints."""
    capsys.readouterr()
    assert run(*arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def published_checkpoint(config: str, values: dict[str, str], path) -> NCSNpp:
    """Write a checkpoint in the published code's format, with random weights; return the network of its averages."""
    settings = configuration.load_file(config)
    configuration.override(settings, values.items())
    torch.manual_seed(0)
    network: Any = build.make_network(settings, (3, 8, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    block: Any = "ddpm" if settings.model.network == "ddpm" else settings.model.block
    tensors = {name: tensor.clone() for name, tensor in reference_tensors(network, block)}
    fixed = ("sigmas", "all_modules.0.W")
    averages = [tensor for name, tensor in tensors.items() if name not in fixed]
    sde = settings.sde
    state = {"sigmas": geometric_sigmas(1000, sde.sigma_min, sde.sigma_max).flip(0).float()}
    state |= {name: tensor if name in fixed else 0 * tensor for name, tensor in tensors.items()}
    contents = {
        "optimizer": {"state": {0: {"step": 5}}, "param_groups": [{"lr": np.float64(2e-4)}]},
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
        "ema": {"decay": 0.999, "num_updates": 5, "shadow_params": averages},
        "step": 5,
    }
    torch.save(contents, path)
    return network


@pytest.mark.parametrize("mode", ["sample", "likelihood"])
def test_the_published_codes_own_checkpoint(mode, tmp_path):
    """Its sub-VP network of 8 x 8 grey images, on the digits; the workdir need not exist."""
    workdir = tmp_path / "new" / "workdir"
    arguments = ["--config=configs/subvp/cifar10_ddpmpp_continuous.py", f"--checkpoint={REFERENCE}.pth"]
    assert run(f"--mode={mode}", "--workdir", workdir, *arguments, *flags(GREY | FAST)) == 0
    if mode == "sample":
        assert np.load(workdir / "samples" / "pc.npz")["images"].shape == (2, 8, 8, 1)
    else:
        summary = json.loads((workdir / "likelihood" / "test.json").read_text())
        assert summary["num_examples"] == 2
        assert 0 < summary["bits_per_dim"] < 30


def test_the_average_of_the_weights_is_used(tmp_path):
    """The model from the command line's path gives the output that the published code printed for its average."""
    expected = json.loads(REFERENCE.with_suffix(".json").read_text())
    found: Any
    config, found = runs.configuration_to_use(
        "configs/subvp/cifar10_ddpmpp_continuous.py", tmp_path, REFERENCE.with_suffix(".pth"), list(GREY.items())
    )
    model = found.make_model(config, build.make_dataset(config)).eval()
    i = torch.arange(128, dtype=torch.float64)
    x = torch.sin(0.37 * i + 0.1).reshape(expected["input_shape"]).float()
    # The same time for both images: the second's label is 640.5.
    t = torch.tensor(expected["labels"], dtype=torch.float64) / 999
    with torch.no_grad():
        output = model.predict(x, t).flatten()
    wanted = torch.tensor(expected["output_ema"])
    assert (output - wanted).norm() < 1e-5 * wanted.norm()


CONFIGS = [
    "vp/cifar10_ddpmpp_continuous",
    "vp/ddpm/cifar10",
    "vp/cifar10_ncsnpp_deep_continuous",
    "ve/cifar10_ncsnpp_continuous",
    "ve/cifar10_ncsnpp",
    "ve/cifar10_ddpm",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of random pictures for data.dataset=images."""
    folder = tmp_path_factory.mktemp("datasets")
    for part in ("train", "test"):
        (folder / "images" / part).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_published_checkpoints_sample_and_give_bits(name, pictures, tmp_path):
    config = f"configs/{name}.py"
    values = SMALL | {"data.dataset": "images", "data.folder": str(pictures)}
    network = published_checkpoint(config, SMALL, tmp_path / "checkpoint_1.pth")
    arguments = [f"--config={config}", f"--checkpoint={tmp_path / 'checkpoint_1.pth'}", f"--workdir={tmp_path}"]
    assert run("--mode=sample", *arguments, *flags(values | FAST)) == 0
    drawn = np.load(tmp_path / "samples" / "pc.npz")
    assert drawn["images"].shape == (2, 8, 8, 3)
    # One call a prediction and a correction, and one to denoise.
    assert drawn["nfe"] == (9 if name.startswith("ve/") else 5)
    assert run("--mode=likelihood", *arguments, *flags(values | FAST)) == 0
    assert json.loads((tmp_path / "likelihood" / "test.json").read_text())["num_examples"] == 2
    found: Any
    settings, found = runs.configuration_to_use(config, tmp_path, tmp_path / "checkpoint_1.pth", list(values.items()))
    model = found.make_model(settings, build.make_dataset(settings, files_needed=False))
    for (key, found_tensor), expected in zip(
        model.network.state_dict().items(), network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found_tensor, expected, rtol=1e-6, atol=0, msg=key)


def test_a_checkpoint_is_known_by_its_contents_too(tmp_path):
    shutil.copy(REFERENCE.with_suffix(".pth"), tmp_path / "checkpoint_8")
    arguments = ["--config=configs/subvp/cifar10_ddpmpp_continuous.py", f"--checkpoint={tmp_path / 'checkpoint_8'}"]
    assert run("--mode=sample", f"--workdir={tmp_path}", *arguments, *flags(GREY | FAST)) == 0


@pytest.mark.parametrize(("name", "beside"), [("best.pt", "best"), ("best", "best.made")])
def test_what_is_made_for_a_model_lies_beside_its_checkpoint(tmp_path, name, beside):
    (tmp_path / name).touch()
    found = checkpoints.Found(tmp_path / name, lambda config, dataset: pytest.fail("not asked for"))
    assert checkpoints.companions(tmp_path / "run", found) == tmp_path / beside


def test_what_does_not_fit_is_named(tmp_path, capsys):
    checkpoint = ["--mode=sample", f"--checkpoint={REFERENCE}.pth", f"--workdir={tmp_path / 'run'}"]
    subvp = ["--config=configs/subvp/cifar10_ddpmpp_continuous.py"]
    line = complaint(capsys, *checkpoint, *subvp)
    assert "all_modules.0.weight should have shape (512, 128), but has (32, 8)" in line
    line = complaint(capsys, *checkpoint, *subvp, *flags(GREY | {"model.num_blocks": "2"}))
    assert "all_modules.5.Conv_0.weight should have shape (8, 8, 3, 3), but has (16, 8, 3, 3)" in line
    assert "give its --config" in complaint(capsys, *checkpoint)
    assert "not model.network=mlp" in complaint(capsys, *checkpoint, *subvp, *flags(GREY | {"model.network": "mlp"}))


def test_noise_levels_that_do_not_fit_are_named(tmp_path, capsys):
    path = tmp_path / "celeba.pth"
    published_checkpoint("configs/ve/celeba_ncsnpp.py", SMALL, path)
    arguments = [
        "--mode=sample",
        "--config=configs/ve/cifar10_ncsnpp.py",
        f"--checkpoint={path}",
        f"--workdir={tmp_path}",
    ]
    line = complaint(capsys, *arguments, *flags(SMALL | FAST))
    assert "1000 noise levels from 0.01 to 90" in line
    assert "sde.sigma_max=50" in line


def test_a_truncated_file_is_named(tmp_path, capsys):
    whole = REFERENCE.with_suffix(".pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    arguments = ["--mode=sample", "--config=configs/subvp/cifar10_ddpmpp_continuous.py", f"--workdir={tmp_path}"]
    line = complaint(capsys, *arguments, f"--checkpoint={tmp_path / 'half.pth'}", *flags(GREY))
    assert f"cannot read the checkpoint {tmp_path / 'half.pth'}" in line
    assert "there is no checkpoint" in complaint(capsys, *arguments, f"--checkpoint={tmp_path / 'none.pth'}")


def test_wrapped_weights_with_numpy_beside_them_are_the_same_model(tmp_path):
    contents = torch.load(REFERENCE.with_suffix(".pth"), weights_only=False)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in contents["model"].items()}
    assert all(name.startswith("_orig_mod.module.") for name in wrapped)
    torch.save(contents | {"model": wrapped, "losses": np.ones(3)}, tmp_path / "wrapped.pth")
    config = "configs/subvp/cifar10_ddpmpp_continuous.py"
    weights = []
    for path in (REFERENCE.with_suffix(".pth"), tmp_path / "wrapped.pth"):
        settings, found = runs.configuration_to_use(config, tmp_path, path, list(GREY.items()))
        assert found is not None
        model: Any = found.make_model(settings, build.make_dataset(settings))
        weights.append(model.network.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_weights_that_are_no_numbers_are_named_with_their_file(tmp_path, capsys):
    contents = torch.load(REFERENCE.with_suffix(".pth"), weights_only=False)
    contents["ema"]["shadow_params"][3][0] = float("nan")
    torch.save(contents, tmp_path / "nan.pth")
    arguments = ["--mode=sample", "--config=configs/subvp/cifar10_ddpmpp_continuous.py", f"--workdir={tmp_path}"]
    line = complaint(capsys, *arguments, f"--checkpoint={tmp_path / 'nan.pth'}", *flags(GREY | FAST))
    name = [name for name in contents["model"] if "sigmas" not in name][3].removeprefix("module.")
    count = contents["ema"]["shadow_params"][3].numel()
    wrong = contents["ema"]["shadow_params"][3][0].numel()
    assert line == (
        f"error: {tmp_path / 'nan.pth'}: the file holds no usable weights: {name} is NaN in {wrong} of {count} places; "
        "take an earlier or another checkpoint"
    )


def test_files_without_a_model_are_named(tmp_path, capsys):
    checkpoint.save({"flow": {}}, tmp_path / "flow.pt")
    line = complaint(capsys, "--mode=sample", f"--checkpoint={tmp_path / 'flow.pt'}", f"--workdir={tmp_path}")
    assert "flow.pt is not a model's checkpoint: it has no configuration, or no average of the weights" in line


def test_pipelines(tmp_path, pictures, monkeypatch, capsys):
    """Ours, trained for a step, exported, and used again: the same samples."""
    pytest.importorskip("diffusers")
    values = SMALL | {"model.channels": "32", "data.dataset": "images", "data.folder": str(pictures)}
    short = {"training.num_steps": "1", "training.batch_size": "2", "training.sample_every": "0"}
    config = "--config=configs/vp/ddpm/cifar10.py"
    assert run("--mode=train", config, f"--workdir={tmp_path / 'run'}", *flags(values | short)) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000001.pt"
    out = tmp_path / "out"
    assert run("--mode=export", f"--checkpoint={checkpoint}", f"--folder={out}") == 0
    assert f"written to {out}: python main.py --mode sample --checkpoint {out}" in capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    fast = FAST | {"sampling.solver": "ddim"}
    assert run("--mode=sample", f"--workdir={tmp_path / 'run'}", f"--checkpoint={checkpoint}", *flags(fast)) == 0
    assert run("--mode=sample", "--checkpoint=out", *flags(fast | {"seed": "42"})) == 0
    ours, theirs = (np.load(tmp_path / f"{name}/samples/ddim.npz")["images"] for name in ("run", "runs/out"))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    data = {"data.folder": str(pictures)}
    assert run("--mode=likelihood", "--checkpoint=out", *flags(FAST | data)) == 0
    assert json.loads((tmp_path / "runs/out/likelihood/test.json").read_text())["num_examples"] == 2
    line = complaint(capsys, "--mode=likelihood", "--checkpoint=out", *flags(FAST | data | {"data.image_size": "4"}))
    assert "is for images of shape (3, 8, 8), not (3, 4, 4)" in line

    loaded = score_sde.load(out, settings=fast | {"seed": 42})
    np.testing.assert_array_equal(loaded.sample().transpose(0, 2, 3, 1), theirs)
    # Trained at a rate of nothing, on other pictures, its weights are what they were; and the run is one of ours.
    still = {
        "training.learning_rate": 1e-12,
        "training.num_steps": 1,
        "training.batch_size": 2,
        "training.sample_every": 0,
    }
    ours_again = score_sde.fit(ours, start_from=out, workdir=tmp_path / "tuned", settings=still)
    expected = loaded.model.state_dict()
    for opened in (ours_again, score_sde.load(tmp_path / "tuned")):
        for name, weight in opened.model.state_dict().items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-9)


def test_published_checkpoints_from_python(pictures, tmp_path):
    """Such a one says nothing of itself: with its configuration it samples as from the command line."""
    settings = GREY | FAST | {"data.dataset": "digits"}
    config = "configs/subvp/cifar10_ddpmpp_continuous.py"
    arguments = ["--mode=sample", f"--checkpoint={REFERENCE}.pth", f"--config={config}", f"--workdir={tmp_path}"]
    assert run(*arguments, *flags(settings)) == 0
    loaded = score_sde.load(f"{REFERENCE}.pth", config=config, settings=settings)
    shown = loaded.dataset.levels_to_uint8(torch.from_numpy(loaded.sample()))
    with np.load(tmp_path / "samples" / "pc.npz") as file:
        np.testing.assert_array_equal(shown, file["images"])
    with pytest.raises(UserError, match="give its --config FILE"):
        score_sde.load(f"{REFERENCE}.pth")


def test_what_cannot_be_exported(tmp_path, capsys):
    pytest.importorskip("diffusers")
    arguments = [f"--checkpoint={REFERENCE}.pth", "--config=configs/subvp/cifar10_ddpmpp_continuous.py", *flags(GREY)]
    assert run("--mode=export", *arguments, f"--folder={tmp_path / 'out'}") == 1
    assert "error: a pipeline has DDPM's ladder or VE, not SubVPSDE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["digits", "own"])
def test_the_default_configurations_say_how_to_train_what_can_be_exported(tmp_path, capsys, name):
    pytest.importorskip("diffusers")
    sizes = {key: value for key, value in GREY.items() if key != "model.channels"}
    short = {"training.num_steps": "1", "training.batch_size": "2", "training.sample_every": "0"}
    train = ["--mode=train", f"--config=configs/vp/{name}.py", *flags(sizes | short)]
    assert run(*train, f"--workdir={tmp_path / 'run'}") == 0
    line = complaint(capsys, "--mode=export", f"--workdir={tmp_path / 'run'}", f"--folder={tmp_path / 'out'}")
    changes = [word for word in line.split() if word.startswith("--config.")]
    assert {"--config.sde.name=ddpm", "--config.model.network=ddpm"} < set(changes)
    assert not (tmp_path / "out").exists()
    assert run(*train, *changes, f"--workdir={tmp_path / 'changed'}") == 0
    assert run("--mode=export", f"--workdir={tmp_path / 'changed'}", f"--folder={tmp_path / 'out'}") == 0
    assert (tmp_path / "out" / "model_index.json").is_file()
