"""Classes, guidance and `--mode edit` from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.data import load_dataset
from tests.modes.test_main import DIGITS, SHORT, complaint, run

__all__ = ["complaint"]

SMALL = [
    "--config.model.channels=8",
    "--config.model.num_blocks=1",
    "--config.training.warmup_steps=50",
    "--config.training.ema_decay=0.98",
    "--config.training.sample_every=0",
    "--config.training.evaluate_every=500",
]


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """A workdir with a small model of the digits that knows their classes."""
    folder = tmp_path_factory.mktemp("classes")
    arguments = ["--config", "configs/vp/digits_classes.py", *SMALL, "--config.data.distortion=0"]
    quick = ["--config.training.num_steps=500", "--config.training.learning_rate=8e-3"]
    assert run("--mode=train", *arguments, *quick, "--workdir", str(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A workdir with a small classifier of noisy digits."""
    folder = tmp_path_factory.mktemp("classifier")
    arguments = ["--config", "configs/vp/digits_classifier.py", *SMALL, "--config.training.num_steps=150"]
    more = ["--config.training.measure_every=150", "--config.data.validation=100"]
    assert run("--mode=train", *arguments, *more, "--config.model.channels=16", "--workdir", str(folder)) == 0
    return folder


def test_the_model_is_a_classifier(classes):
    """After a short training, for most digits; `docs/control.md` has the figure after a whole one."""
    cheap = [
        "--config.likelihood.method=adams",
        "--config.likelihood.num_steps=10",
        "--config.likelihood.num_examples=30",
    ]
    assert run("--mode=likelihood", "--workdir", classes, *cheap, "--config.likelihood.given=all") == 0
    summary = json.loads((classes / "likelihood" / "test_classes.json").read_text())
    assert summary["accuracy"] > 0.7
    with open(classes / "likelihood" / "test_classes.csv") as file:
        rows = list(csv.DictReader(file))
    labels = load_dataset("digits").test_classes
    assert labels is not None
    assert [int(row["class"]) for row in rows] == labels[:30].tolist()
    own = ["--config.likelihood.given=own", "--config.likelihood.save_latents=True"]
    assert run("--mode=likelihood", "--workdir", classes, *cheap, *own) == 0
    ends = np.load(classes / "likelihood" / "test_given_class_latents.npz")
    assert ends["classes"].tolist() == [row["class"] for row in rows]
    given = json.loads((classes / "likelihood" / "test_given_class.json").read_text())
    assert given["bits_per_dim"] == pytest.approx(summary["given_class"]["bits_per_dim"], abs=1e-9)
    assert run("--mode=likelihood", "--workdir", classes, *cheap, "--config.likelihood.bounds=") == 0
    plain = json.loads((classes / "likelihood" / "test.json").read_text())
    assert plain["bits_per_dim"] > given["bits_per_dim"]


def test_a_classifier_reports_its_accuracy_by_noise_level(classifier):
    with open(classifier / "metrics.csv") as file:
        last = list(csv.DictReader(file))[-1]
    found = {float(name.split("/")[1]): float(value) for name, value in last.items() if name.startswith("accuracy")}
    assert len(found) == 9
    # Chance at the noisiest, which tells nothing; nearly all at the least noisy.
    assert found[min(found)] < 0.2
    assert found[max(found)] > 0.9
    # A guess has log 10.
    assert 0 < float(last["held_out_loss"]) < 2.1


def recognised(path: Path) -> float:
    """Return the part of samples whose class is that of the nearest mean of a digit's training images."""
    dataset, drawn = load_dataset("digits"), np.load(path)
    assert dataset.train_classes is not None
    means = np.stack([dataset.train[dataset.train_classes == k].double().mean(0).flatten() for k in range(10)])
    levels = drawn["images"].reshape(len(drawn["images"]), -1) / 255 * 16
    found = ((levels[:, None] - means) ** 2).sum(2).argmin(1)
    return float((found == drawn["labels"]).mean())


def test_samples_of_classes(classes, classifier, tmp_path):
    labels = ",".join(map(str, range(10)))
    common = ["--mode=sample", "--config.sampling.num_samples=40", "--config.sampling.num_steps=10"]
    named = [*common, f"--config.sampling.labels={labels}"]
    guided = [*named, "--config.sampling.guidance=2"]
    assert run(*guided, "--workdir", str(classes)) == 0
    drawn = np.load(classes / "samples" / "default.npz")
    assert drawn["labels"].tolist() == 4 * list(range(10))
    # The real ones: 0.89.
    assert recognised(classes / "samples" / "default.npz") > 0.8
    # Each label is its own sample's, whatever the batch.
    assert run(*guided, "--config.sampling.batch_size=7", "--workdir", str(classes)) == 0
    assert np.mean(np.load(classes / "samples" / "default.npz")["images"] != drawn["images"]) < 0.01

    newest = str(classes / "checkpoints" / "step_0000500.pt")
    towards = [*guided, f"--config.sampling.classifier={classifier}", "--checkpoint", newest, "--workdir", tmp_path]
    assert run(*towards) == 0
    assert recognised(tmp_path / "samples" / "default.npz") > 0.5


def test_guidance_by_another_run(classes, tmp_path):
    """Led away from itself a model stays as it is, with and without a class; so it does at a largest change of 0."""
    few = ["--mode=sample", "--config.sampling.num_samples=10", "--config.sampling.num_steps=3"]
    few += ["--checkpoint", str(classes / "checkpoints" / "step_0000500.pt")]
    guided, three = "--config.sampling.guidance=3", "--config.sampling.labels=3"

    def drawn(*arguments: str, folder: str = "free") -> np.ndarray:
        assert run(*few, "--workdir", tmp_path / folder, *arguments) == 0
        return np.load(tmp_path / folder / "samples" / "default.npz")["images"].astype(int)

    # A folder remembers what it was used with first. Solver `default` is told of no Gaussian where there is guidance.
    for asked in ([], [three]):
        itself = [*asked, f"--config.sampling.reference={classes}"]
        alike = drawn(*itself, folder="itself") - drawn(*itself, guided, folder="itself")
        assert np.abs(alike).max() <= 1
    plain, free = drawn(three), drawn(three, guided)
    assert np.abs(free - plain).mean() > 5
    assert np.abs(drawn(three, guided, "--config.sampling.guidance_largest=1e-5") - plain).max() <= 1
    rescaled = drawn(three, guided, "--config.sampling.guidance_rescale=1")
    assert abs(rescaled.std() - plain.std()) < abs(free.std() - plain.std())
    assert np.abs(drawn(three, guided, "--config.sampling.guidance_parallel=0") - free).mean() > 0.5


def test_mistakes_with_classes(classes, classifier, complaint, digits):
    sample = ["--mode=sample", "--workdir"]
    assert "no class of digits is called '12'" in complaint(*sample, classes, "--config.sampling.labels=12")
    assert "3 classes, which cannot be shared evenly by 64 samples" in complaint(
        *sample, classes, "--config.sampling.labels=1,2,3"
    )
    assert "needs something to guide to" in complaint(*sample, classes, "--config.sampling.guidance=2")
    assert "this model knows no classes" in complaint(*sample, digits, "--config.sampling.labels=1")
    three = "--config.sampling.labels=3"
    assert "takes two noise levels, not 1" in complaint(
        *sample, classes, three, "--config.sampling.guidance_interval=1"
    )
    assert "guidance is by sampling.classifier or by sampling.reference" in complaint(
        *sample, classes, three, f"--config.sampling.classifier={classifier}", f"--config.sampling.reference={classes}"
    )
    own = [f"--config.sampling.classifier={classifier}", "--config.sampling.guidance_rescale=0.5"]
    assert "sampling.guidance_rescale is for guidance without" in complaint(*sample, classes, three, *own)
    assert "sampling.reference: " in complaint(*sample, classes, f"--config.sampling.reference={classifier}")
    other = ["--config", "configs/subvp/digits.py", f"--config.sampling.reference={classes}"]
    assert "was trained with another process" in complaint(
        "--mode=sample", *other, "--config.model.network=mixture", "--workdir", classes / "no"
    )
    wrong = f"--config.sampling.classifier={classes}"
    assert "is no classifier" in complaint(*sample, digits, three, wrong)
    assert "this is a classifier" in complaint(*sample, classifier)
    told = ["--mode=train", "--config", "configs/vp/digits_classifier.py", "--workdir", classes / "no"]
    for option in ("--config.data.distortion=0.1", "--config.model.class_conditional=True"):
        assert "a classifier is told nothing" in complaint(*told, option)
    two = ["--config.edit.input=test:0,test:1", "--config.edit.task=interpolate", "--config.sampling.labels=0,1"]
    assert "interpolated within one class" in complaint("--mode=edit", "--workdir", classes, *two)
    mixture = ["--config", "configs/vp/digits.py", "--config.model.network=mixture", "--config.likelihood.given=own"]
    known = ["--config.model.class_conditional=True", "--workdir", classes / "mixture"]
    assert "needs a model that knows classes" in complaint("--mode=likelihood", *mixture, *known)
    toy = ["--mode=train", "--config", "configs/vp/eight_gaussians.py", "--config.model.class_conditional=True"]
    assert "eight_gaussians has no classes" in complaint(*toy, "--workdir", classes / "no")
    assert "needs a model that knows classes" in complaint(
        "--mode=likelihood", "--workdir", str(digits), "--config.likelihood.given=own"
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A workdir with a tiny model of the digits."""
    folder = tmp_path_factory.mktemp("digits")
    assert run("--mode=train", *DIGITS, *SHORT, "--workdir", str(folder)) == 0
    return folder


def edited(folder: Path, task: str, *arguments: str) -> tuple[dict, dict]:
    """Read the arrays and numbers of an edit."""
    few = ["--config.edit.num_steps=6", "--config.edit.num_samples=3"]
    assert run("--mode=edit", "--workdir", str(folder), f"--config.edit.task={task}", *few, *arguments) == 0
    numbers = json.loads((folder / "edit" / f"{task}.json").read_text())
    assert (folder / "edit" / f"{task}.png").exists()
    return dict(np.load(folder / "edit" / f"{task}.npz")), numbers


@pytest.mark.parametrize("method", ["projection", "repaint"])
def test_inpainting_keeps_what_was_observed(digits, method):
    inputs = ["--config.edit.input=test:3,test:7-8", f"--config.edit.method={method}", "--config.edit.repeats=2"]
    arrays, numbers = edited(digits, "inpaint", *inputs, "--config.edit.solver=ddim")
    assert arrays["answers"].shape == (3, 3, 8, 8, 1)
    kept = np.ones((8, 8), bool)
    kept[2:6, 2:6] = False
    examples = load_dataset("digits").test[[3, 7, 8], 0].numpy() * (255 / 16)
    assert np.array_equal(arrays["inputs"][..., 0], examples.round().astype(np.uint8))
    assert np.array_equal(arrays["answers"][:, :, kept], np.repeat(arrays["inputs"][:, None, kept], 3, axis=1))
    assert numbers["largest_misfit_in_levels"] == 0
    assert numbers["network_calls"] == (6 if method == "projection" else 12)
    # The hole is filled in by each answer in its own way.
    assert (arrays["answers"][:, 0, ~kept] != arrays["answers"][:, 1, ~kept]).any()


def test_every_task(digits, tmp_path):
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    picture.save(tmp_path / "in.png")
    file = f"--config.edit.input={tmp_path / 'in.png'}"
    for task in ("superres", "deblur", "sdedit"):
        arrays, _ = edited(digits, task, file, "--config.edit.noise_std=0.1")
        assert np.array_equal(
            arrays["inputs"][0, ..., 0], (np.arange(64).reshape(8, 8) * 4 * 17 // 256 * 15.9375).round()
        )
    weak, _ = edited(digits, "sdedit", file, "--config.edit.strength=0.02")
    strong, _ = edited(digits, "sdedit", file, "--config.edit.strength=0.9")
    gap = [np.abs(a["answers"].astype(float) - a["inputs"][:, None]).mean() for a in (weak, strong)]
    assert gap[0] < 0.2 * gap[1]
    arrays, numbers = edited(digits, "encode", "--config.edit.input=test:0-3")
    assert numbers["largest_difference_from_the_input_in_levels"] < 0.5
    # What is edited once is not remembered.
    assert json.loads((digits / "config.json").read_text())["edit"]["input"] is None
    arrays, numbers = edited(digits, "interpolate", "--config.edit.input=test:0,test:1")
    assert arrays["answers"].shape == (1, 3, 8, 8, 1)
    assert numbers["largest_difference_of_the_ends_in_levels"] < 0.5
    # What was observed, as a file: of half the size, and seen again in the answers.
    Image.fromarray(np.full((4, 4), 128, np.uint8)).save(tmp_path / "small.png")
    observed = [f"--config.edit.input={tmp_path / 'small.png'}", "--config.edit.observed=True"]
    arrays, numbers = edited(digits, "superres", *observed, "--config.edit.num_steps=40")
    means = arrays["answers_in_model_units"].reshape(3, 4, 2, 4, 2).mean((2, 4))
    assert np.abs(means - 0.0).max() < 0.1


def test_a_mask_from_a_file(digits, tmp_path):
    mask = np.full((8, 8), 255, np.uint8)
    mask[:, 5:] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = [f"--config.edit.mask={tmp_path / 'mask.png'}", "--config.edit.method=projection"]
    arrays, _ = edited(digits, "inpaint", "--config.edit.input=test:0", *options)
    assert np.array_equal(arrays["answers"][0, :, :, :5], np.repeat(arrays["inputs"][:, :, :5], 3, axis=0))
    hidden = ["--config.edit.mask=random", "--config.edit.hidden=0.25", "--config.edit.method=projection"]
    arrays, _ = edited(digits, "inpaint", "--config.edit.input=test:0", *hidden)
    same = (arrays["answers"][0] == arrays["inputs"]).all(0)
    assert 48 <= same.sum() < 64


def test_edits_follow_their_seeds(digits):
    first, _ = edited(digits, "inpaint", "--config.edit.input=test:0,test:1")
    # The second input's answers, with other batches, and alone.
    batched, _ = edited(digits, "inpaint", "--config.edit.input=test:0,test:1", "--config.sampling.batch_size=2")
    np.testing.assert_allclose(batched["answers_in_model_units"], first["answers_in_model_units"], atol=1e-3)
    alone, _ = edited(digits, "inpaint", "--config.edit.input=test:1", "--config.seed=3")
    np.testing.assert_allclose(alone["answers_in_model_units"][0], first["answers_in_model_units"][1], atol=1e-3)


def test_posterior_samplers_follow_their_seeds_and_what_was_observed(digits):
    """Whatever the batch, of answers or of their particles; what was observed is kept up to its noise, about."""
    options = ["--config.edit.noise_std=0.1", "--config.edit.num_particles=4", "--config.edit.input=test:0,test:1"]
    by_particles = [*options, "--config.edit.method=tds", "--config.edit.num_steps=20"]
    first, numbers = edited(digits, "inpaint", *by_particles)
    batched, _ = edited(digits, "inpaint", *by_particles, "--config.sampling.batch_size=8")
    np.testing.assert_allclose(batched["answers_in_model_units"], first["answers_in_model_units"], atol=1e-3)
    # A deviation of the noise is 0.8 levels, and the worst of 288 pixels at about three of them.
    assert numbers["largest_misfit_in_levels"] < 6
    _, numbers = edited(digits, "inpaint", *options, "--config.edit.method=mmps", "--config.edit.iterations=2")
    assert numbers["largest_misfit_in_levels"] < 6


def test_edits_of_a_class(classes):
    arrays, numbers = edited(classes, "inpaint", "--config.edit.input=test:0", "--config.sampling.labels=3")
    assert arrays["class_names"][arrays["labels"]].tolist() == numbers["classes"] == [["3", "3", "3"]]
    other, _ = edited(classes, "inpaint", "--config.edit.input=test:0", "--config.sampling.labels=1")
    assert np.abs(arrays["answers_in_model_units"] - other["answers_in_model_units"]).max() > 0.1


def test_mistakes_in_edits(digits, complaint, tmp_path):
    def line(*arguments: str) -> str:
        return complaint("--mode=edit", "--workdir", digits, *arguments)

    one = "--config.edit.input=test:0"
    assert "give a picture: --config.edit.input=FILE" in line()
    assert "no task is called 'inpant' (did you mean 'inpaint'?)" in line(one, "--config.edit.task=inpant")
    assert "there is no test:360: digits has the test examples 0 to 359" in line("--config.edit.input=test:360")
    assert f"there is no picture {tmp_path / 'no.png'}" in line(f"--config.edit.input={tmp_path / 'no.png'}")
    (tmp_path / "text.png").write_text("not one")
    assert "text.png cannot be read: not a picture" in line(f"--config.edit.input={tmp_path / 'text.png'}")
    assert "digits has no colours to be found" in line(one, "--config.edit.task=colorize")
    assert "between its steps: take one of single steps" in line(
        one, "--config.edit.method=projection", "--config.edit.solver=unipc"
    )
    assert "no method is called 'pgdm' (did you mean 'pigdm'?)" in line(one, "--config.edit.method=pgdm")
    assert "give --config.edit.noise_std" in line(one, "--config.edit.method=dps")
    assert "give --config.edit.noise_std" in line(one, "--config.edit.method=tds")
    own = ["--config.edit.method=tds", "--config.edit.noise_std=0.1", "--config.edit.solver=ddim"]
    assert "edit.method=tds has steps of its own" in line(one, *own)
    assert "the mask hides nothing" in line(one, "--config.edit.mask=random", "--config.edit.hidden=0")
    assert "a box is (top, left, height, width)" in line(one, "--config.edit.box=0.5,0.5,0.6,0.1")
    assert "8 x 8 cannot be had from smaller ones by edit.factor=3" in line(
        one, "--config.edit.task=superres", "--config.edit.factor=3"
    )
    assert "takes two inputs" in line(one, "--config.edit.task=interpolate")
    assert "must lie between 0.001 and 1, not 0" in line(one, "--config.edit.task=sdedit", "--config.edit.strength=0")
    assert "--mode edit has a solver of its own: --config.edit.solver" in line(one, "--config.sampling.solver=pc")
    assert "test examples are whole" in line(one, "--config.edit.observed=True")
    many = ["--config.edit.num_steps=4", "--config.sampling.grid=1,0.5,0.1"]
    step = "edit.num_steps=4: the grid has 3 times but num_steps is 4: make them equal"
    assert line(one, *many).endswith(f"edit.method=pigdm, edit.solver=dpmpp_2s_sde, {step}")
    many += ["--config.edit.task=sdedit", "--config.edit.solver=ddim"]
    assert line(one, *many).endswith(f"error: edit.task=sdedit, edit.solver=ddim, {step}")
    assert "section edit" in line(one, "--config.edit.task=encode", "--config.sampling.method=rk4")
    for wrong in ("test:5-3", "test:0-360", "test:0-99999999999"):
        assert f"there are no {wrong}: test examples are numbered from 0 to 359" in line(f"--config.edit.input={wrong}")
    assert "there is no test:²" in line("--config.edit.input=test:²")
    assert "edit.box must lie between 0 and 1, not nan" in line(one, "--config.edit.box=nan,0,0.5,0.5")
    assert "edit.blur must be at most 100, not inf" in line(one, "--config.edit.task=deblur", "--config.edit.blur=inf")
    tuned = ["--config.edit.solver=tuned", "--config.edit.task=sdedit"]
    assert "that no solver is tuned for" in line(one, *tuned)
