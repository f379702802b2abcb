"""Cascades: stages trained by one command, sampled as one, each sample by its own seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common.errors import UserError
from score_sde.data.low_resolution import smaller, to_levels
from score_sde.experiment.cascade import stage_seed
from score_sde.experiment.sampling import seeds_of
from score_sde.experiment.training import _told_of_previews
from score_sde.training import checkpoint
from score_sde.training.trainer import Trainer
from tests.modes.test_main import run

# Stages go on to the bit, which a GPU's gradients do not.
pytestmark = pytest.mark.usefixtures("on_cpu")

# Digits of 8 pixels from their class, drawn at 4 and enlarged.
STAGE = """
from score_sde.configs.vp import digits

def get_config():
    config = digits.get_config()
    config.data.update(augment="", distortion=0.0)
    config.model.update(network="unet", channels=8, channel_multipliers=(1, 1), num_blocks=1, class_conditional=True)
    config.training.update(num_steps=4, batch_size=8, sample_every=0, evaluate_every=0, checkpoint_every=1)
    config.sampling.update(num_steps=3, batch_size=4)
    config.data.update({data})
    {more}
    return config
"""
SMALL = STAGE.format(data="image_size=4, shrunk_from=8", more="")
LARGE = STAGE.format(
    data="low_resolution=4, low_resolution_noise=0.5",
    more="config.sampling.update(low_resolution_noise=0.2, solver='dpmpp_2m')",
)
SHORT = {"method": "adams", "num_steps": 4}
WHOLE = """
from score_sde.configs import default

def get_config():
    config = default.get_config()
    config.sampling.num_samples = 4
    config.cascade.stages = "{folder}/small.py, {folder}/large.py"
    return config
"""


def written(folder: Path, large: str = LARGE) -> Path:
    """Return the path of a cascade's configuration, written with those of its stages."""
    folder.mkdir(exist_ok=True)
    for name, text in (("small", SMALL), ("large", large), ("whole", WHOLE.format(folder=folder.as_posix()))):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder / "whole.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("cascade")
    assert run("--mode=train", f"--config={written(place)}", f"--workdir={place / 'run'}", "--device=cpu") == 0
    return place / "run"


@pytest.fixture(scope="module")
def cascade(folder):
    return score_sde.load(folder, device="cpu")


def test_each_sample_depends_on_its_own_seed_alone(cascade):
    """The numbers of batches of other sizes differ by rounding, which levels show seldom, and by one."""
    classes = [3, 1, 4, 1, 5, 9]
    whole = cascade.sample(condition=classes, seed=5).astype(int)
    part = cascade.sample(condition=classes[2:4], seed=7).astype(int)
    assert whole.shape == (6, 1, 8, 8)
    assert np.abs(whole[2:4] - part).max() <= 1
    assert np.abs(whole[:2] - part).max() > 1


def test_a_cascade_is_its_stages_one_after_the_other(cascade):
    small, large = cascade.stages.values()
    low = small.sample(4, condition=7, seed=2)
    experiment = large._sampling(4, 2, None, {})
    told = large._condition({"class": 7, "low_resolution": low}, 4)
    seeds = [stage_seed(seed, 1) for seed in seeds_of(experiment.config)]
    by_hand = score_sde.experiment.sampling.sample(experiment, told, seeds).samples.x
    by_hand = large._experiment.dataset.units.decode(by_hand).numpy()
    assert np.array_equal(cascade.sample(4, condition=7, seed=2), by_hand)
    assert np.array_equal(cascade.upscale(low, condition=7, seed=2), by_hand)
    assert np.array_equal(cascade.upscale(low[1], condition=7, seed=2).shape, (1, 8, 8))
    # The noise of the second stage is not that of the first.
    assert stage_seed(2, 0) == 2
    assert len({stage_seed(seed, place) for seed in range(50) for place in range(3)}) == 150


def test_the_level_and_other_options_are_those_of_a_stage(cascade):
    plain = cascade.sample(2, condition=7, seed=2)
    assert np.array_equal(plain, cascade.sample(2, condition=7, seed=2, large={"low_resolution_noise": 0.2}))
    assert np.array_equal(plain, cascade.sample(2, condition=7, seed=2, low_resolution_noise=0.2))
    for changed in ({"low_resolution_noise": 0.0}, {"num_steps": 4}, {"threshold": "dynamic", "guidance": 1000.0}):
        drawn = cascade.sample(2, condition=7, seed=2, large=changed)
        assert not np.array_equal(plain, drawn), changed
    guided = cascade.sample(2, condition=7, seed=2, large={"guidance": 1000.0})
    assert not np.array_equal(guided, drawn)


def test_the_density_is_the_product_of_the_stages(cascade):
    """Bits/dim of the picture: the sum of both stages' nats, given the small picture in whole levels."""
    small, large = cascade.stages.values()
    x = torch.as_tensor(large.dataset.test[:3])
    low = to_levels(smaller(x, (1, 4, 4)))
    assert torch.equal(low, torch.as_tensor(small.dataset.test[:3]))
    parts = small.log_prob(low, condition=[1, 2, 3], **SHORT) + large.log_prob(
        x, condition={"class": [1, 2, 3], "low_resolution": low}, **SHORT
    )
    np.testing.assert_allclose(cascade.log_prob(x, condition=[1, 2, 3], **SHORT), parts, rtol=1e-12)
    bits = cascade.bits_per_dim(x, condition=[1, 2, 3], **SHORT)
    np.testing.assert_allclose(bits, -parts / np.log(2) / 64, rtol=1e-12)


def test_the_command_line_draws_what_python_does(cascade, folder, capsys):
    assert run("--mode=sample", f"--workdir={folder}", "--config.sampling.labels=3", "--config.seed=4") == 0
    with np.load(folder / "samples" / "dpmpp_2m.npz") as file:
        drawn = torch.from_numpy(cascade.sample(4, condition=3, seed=4))
        assert np.array_equal(file["images"], cascade.dataset.levels_to_uint8(drawn).numpy())
        assert int(file["nfe"]) == 6
        settings = json.loads(file["settings"].item())
    assert settings["small.sampling.solver"] == "default"
    assert settings["large.sampling.low_resolution_noise"] == 0.2
    assert run("--mode=likelihood", f"--workdir={folder}") == 1
    assert "one stage of the cascade" in capsys.readouterr().err


def test_what_is_of_one_model_names_a_stage(cascade, tmp_path):
    x = cascade.dataset.test[:1]
    for name, ask in {
        "animate": lambda: cascade.animate(tmp_path / "a.gif"),
        "rank": lambda: cascade.rank(x, [1, 2]),
        "redraw": lambda: cascade.redraw(x, 0.5),
        "fill": lambda: cascade.fill(x, given=np.zeros((1, 8, 8), dtype=bool)),
        "encode": lambda: cascade.encode(x, condition=3),
        "decode": lambda: cascade.decode(x),
        "posterior": lambda: cascade.posterior(3),
    }.items():
        with pytest.raises(UserError, match=rf"ask a stage, run\.stages\['large'\]\.{name}\(…\), which is told small"):
            ask()


def test_a_stage_alone_that_is_told_nothing_is_refused(cascade, folder, capsys):
    """By what draws samples of no condition: it knows no density without a small picture."""
    few = ["--config.compare.budgets=2", "--config.tuning.num_steps=2", "--config.compare.num_samples=20"]
    for mode in ("compare", "tune", "sample", "likelihood"):
        assert run(f"--mode={mode}", f"--workdir={folder / 'large'}", *few) == 1
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert "this model enlarges pictures: give small ones" in error
    # Nor does one know any that was always told its class.
    always = "--config.training.label_dropout=0"
    for mode in ("compare", "tune", "sample", "likelihood"):
        assert run(f"--mode={mode}", f"--workdir={folder / 'small'}", always, *few) == 1
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert "(training.label_dropout=0), and knows no p(x): tell it of class, too" in error
    known = score_sde.load(folder / "small", settings={"training.label_dropout": 0})
    assert np.array_equal(known.sample(2, condition=3), cascade.stages["small"].sample(2, condition=3))
    # Pictures that are looked at in training are drawn of its classes, too.
    told = _told_of_previews(known.config, known.dataset, 3)
    assert told is not None
    assert torch.equal(told.values["class"], torch.as_tensor(known.dataset.test_classes)[:3])
    plain = cascade.stages["small"]
    assert _told_of_previews(plain.config, plain.dataset, 3) is None


def test_more_noise_than_was_trained_on_is_refused(cascade):
    small, large = cascade.stages.values()
    low = small.sample(2, condition=7)
    for options in ({"large": {"low_resolution_noise": 0.51}}, {"low_resolution_noise": 0.51}):
        with pytest.raises(
            UserError, match=r"noise=0\.51, and this model was trained with data\.low_resolution_noise=0\.5"
        ):
            cascade.sample(2, condition=7, **options)
    with pytest.raises(UserError, match=r"low_resolution_noise is more than the 0\.5 that this model was trained with"):
        large.sample(2, condition={"class": 7, "low_resolution": low, "low_resolution_noise": [0.51, 0.1]})
    with pytest.raises(UserError, match="says what noise there is in the small pictures already"):
        large.sample(2, condition={"class": 7, "low_resolution": low, "low_resolution_noise": 0.1})
    told = {"class": 7, "low_resolution": low, "low_resolution_noise": 0.5}
    assert large.sample(2, condition=told, low_resolution_noise=0.0).shape == (2, 1, 8, 8)


def newest_checkpoint(folder: Path) -> Path:
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    return found


def test_a_stage_enlarges_a_picture_of_a_file(cascade, folder):
    """By the command line and from Python the same, of test examples made small."""
    flags = ["--config.edit.task=upscale", "--config.edit.input=test:1-2", "--config.edit.num_samples=2"]
    flags += ["--config.edit.solver=dpmpp_2m", "--config.edit.num_steps=3", "--config.sampling.labels=3"]
    assert run("--mode=edit", f"--workdir={folder / 'large'}", *flags) == 0
    with np.load(folder / "large" / "edit" / "upscale.npz") as file:
        images = file["answers"].reshape(4, 8, 8, 1)
    large = cascade.stages["large"]
    low = large.dataset.conditions["test"]["low_resolution"][1:3].repeat_interleave(2, 0)
    drawn = large.sample(4, condition={"low_resolution": low, "class": 3}, seed=0, num_steps=3)
    assert np.array_equal(images, large.dataset.levels_to_uint8(torch.from_numpy(drawn)).numpy())
    assert run("--mode=edit", f"--workdir={folder / 'small'}", *flags) == 1


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the newest weights of all stages."""
    return {
        f"{stage}.{name}": value
        for stage in ("small", "large")
        for name, value in checkpoint.load(newest_checkpoint(folder / stage))["model"].items()
    }


def test_a_cascade_that_was_killed_goes_on_to_the_bit(folder, tmp_path, monkeypatch, capsys):
    """Also with what was set by hand for a stage that had not begun; a stage that is finished is left alone."""
    config, place = written(tmp_path), tmp_path / "run"
    step = Trainer.train_step

    def killed(self, signals=()):
        if self._folder.name == "large" and self.step == 2:
            raise KeyboardInterrupt(15)
        step(self, signals)

    monkeypatch.setattr(Trainer, "train_step", killed)
    assert run("--mode=train", f"--config={config}", f"--workdir={place}", "--config.large.sampling.eta=0.3") != 0
    monkeypatch.setattr(Trainer, "train_step", step)
    before = (place / "small" / "checkpoints").stat().st_mtime_ns
    capsys.readouterr()
    assert run("--mode=train", f"--workdir={place}") == 0
    assert "small has had its 4 steps" in capsys.readouterr().out.replace("\n", " ")
    assert (place / "small" / "checkpoints").stat().st_mtime_ns == before
    ours, theirs = final_weights(place), final_weights(folder)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert json.loads((place / "large" / "config.json").read_text())["sampling"]["eta"] == 0.3


def test_what_does_not_fit_is_refused_before_training(tmp_path, capsys, folder):
    for change, complaint in (
        (("low_resolution=4", "low_resolution=2"), "large is told ones of data.low_resolution=2"),
        (("low_resolution=4", "low_resolution=4, test_share=0.3"), "large has data.test_share=0.3"),
        (("num_steps=4", "learning_rate=-1.0"), "learning_rate"),
    ):
        config = written(tmp_path, LARGE.replace(*change))
        assert run("--mode=train", f"--config={config}", f"--workdir={tmp_path / 'run'}") == 1
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1
        assert complaint in errors[0]
        assert not (tmp_path / "run").exists()
    assert run("--mode=train", "--config=configs/vp/digits.py", f"--workdir={folder}") == 1
    assert "is the folder of a cascade" in capsys.readouterr().err
    cascade: Any = score_sde.load(folder)
    with pytest.raises(UserError, match=r"cascade enlarges ones of \(1, 4, 4\)"):
        cascade.upscale(np.zeros((2, 1, 3, 3), np.uint8))
    with pytest.raises(UserError, match="names several runs"):
        score_sde.fit("digits", config=written(tmp_path), num_steps=1)
