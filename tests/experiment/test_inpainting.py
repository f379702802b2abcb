"""What is hidden of levels, drawn by a model that is told the rest, or by ΠGDM; and pictures redrawn, with prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.common.part import Part
from score_sde.experiment.run import Run
from score_sde.models import part_of
from score_sde.solvers import log_likelihood
from tests.experiment.test_checkpoints import flags
from tests.experiment.test_checkpoints import run as run_main

TINY: dict[str, Any] = {
    "model.channels": 8,
    "training.batch_size": 16,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
    "data.image_size": 8,
}
WORDS = TINY | {"model.channel_multipliers": (1, 1), "model.attention_depths": (1,), "data.masks": "half,all"}
PROMPT = "bold sans, latin small letter e with acute"
KNOWN = np.ones((8, 8), dtype=bool)
KNOWN[2:6, 2:6] = False


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("base")
    return score_sde.fit("digits", config="vp/digits", workdir=folder, num_steps=8, settings=TINY)


@pytest.fixture(scope="module")
def masked(base: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that begins from the other, whose weights it keeps but for 1e-12."""
    assert base.folder is not None
    options = TINY | {"training.learning_rate": 1e-12}
    start = base.folder / "checkpoints" / "step_0000008.pt"
    folder = tmp_path_factory.mktemp("masked")
    return score_sde.fit(
        "digits", config="vp/digits_masked", start_from=start, workdir=folder, num_steps=1, settings=options
    )


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is told captions, and masks."""
    folder = tmp_path_factory.mktemp("glyphs")
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", x=x, caption=np.array([PROMPT, "mono, latin capital letter o"] * 15))
    return score_sde.fit(folder / "data.npz", config="vp/glyphs", workdir=folder / "run", num_steps=3, settings=WORDS)


def hear(run: Run) -> None:
    """Let the network hear what it is told beside, by weights that are as large as the others."""
    weight = run.model.network.conv_in.weight
    told = weight[:, 1:]
    told.copy_(0.2 * torch.randn(told.shape, generator=torch.Generator().manual_seed(0)))


def test_a_network_that_begins_from_another_is_that_until_it_is_trained(base: Run, masked: Run) -> None:
    """Not what it is told changes anything, but the state, which has zeros where pixels are known."""
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(distributed.device())
    t = torch.tensor(0.4)
    expected = base.model.score(x, t)
    torch.testing.assert_close(masked.model.score(x, t), expected, rtol=1e-6, atol=1e-6)
    told = Condition({"part": torch.ones(3, 3, 8, 8)}).to(distributed.device())
    torch.testing.assert_close(masked.model.score(x, t, told), expected, rtol=1e-6, atol=1e-6)
    own, theirs = (run.model.network.conv_in.weight for run in (masked, base))
    assert own.shape[1] == theirs.shape[1] + 4
    torch.testing.assert_close(own[:, :1], theirs, rtol=0, atol=1e-9)
    assert float(own[:, 1:].abs().max()) < 1e-9


def test_what_is_known_stays_and_what_is_hidden_depends_on_it(masked: Run) -> None:
    hear(masked)
    x = masked.dataset.test[:3]
    filled = masked.fill(x, 2, given=KNOWN, num_steps=4, seed=5)
    assert filled.shape == (2, 3, 1, 8, 8)
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[..., KNOWN], np.broadcast_to(x.numpy()[..., KNOWN], (2, 3, 1, 48)))
    # NaN says the same, and so does a mask for each; one example by itself is filled as among others.
    gone = np.where(KNOWN, x.numpy().astype(float), np.nan)
    np.testing.assert_array_equal(masked.fill(gone, 2, num_steps=4, seed=5), filled)
    each = np.broadcast_to(KNOWN, (3, 1, 8, 8))
    np.testing.assert_array_equal(masked.fill(x, 2, given=each, num_steps=4, seed=5), filled)
    alone = masked.fill(x[1], given=KNOWN[None], num_steps=4, seed=6)
    assert np.abs(alone.astype(int) - filled[0, 1]).max() <= 1
    # What is hidden is not looked at; what is known is.
    hidden_changed = np.where(KNOWN, x.numpy(), 16 - x.numpy())
    np.testing.assert_array_equal(masked.fill(hidden_changed, 2, given=KNOWN, num_steps=4, seed=5), filled)
    known_changed = np.where(KNOWN, 16 - x.numpy(), x.numpy())
    other = masked.fill(known_changed, 2, given=KNOWN, num_steps=4, seed=5)
    assert (other[..., ~KNOWN] != filled[..., ~KNOWN]).mean() > 0.1


def test_the_density_of_hidden_levels_given_the_others(masked: Run) -> None:
    """That of the flow of the hidden numbers, a bin of 2 / 17 each; what is known is told by its middles."""
    x, units = masked.dataset.test[:1], masked.dataset.units
    given = torch.from_numpy(KNOWN).expand(1, 1, 8, 8)
    found = masked.log_prob(x, given=KNOWN, seed=3)
    noisy = units.encode(x, SampleNoise([3], stream="dequantisation"))
    part = Part(torch.where(given, units.encode(x), 0), given, ~given)
    model, noisy = part_of(masked.model, part.to(distributed.device())), noisy.to(distributed.device())
    expected = log_likelihood(model, noisy, t_min=1e-5, seeds=[3]).log_prob.cpu().double()
    np.testing.assert_allclose(found, expected + 16 * np.log(2 / 17), rtol=1e-4)
    with pytest.raises(UserError, match=r"likelihood\.dequantisation=uniform"):
        masked.log_prob(x, given=KNOWN, dequantisation="truncated_normal")


def test_a_model_of_whole_pictures_answers_by_pigdm(base: Run, tmp_path: Path) -> None:
    """As mode edit does, to the last bit of what is hidden; what is known is kept here."""
    options = {"edit.input": "test:4", "edit.num_samples": "3", "edit.num_steps": "3"}
    assert run_main("--mode=edit", f"--workdir={base.folder}", *flags(options)) == 0
    assert base.folder is not None
    with np.load(base.folder / "edit" / "inpaint.npz") as file:
        answers = torch.from_numpy(file["answers_in_model_units"])
    levels = base.dataset.units.decode(answers).numpy()[0]
    x = base.dataset.test[4:5]
    filled = base.fill(x, 3, given=KNOWN, num_steps=3)[:, 0]
    np.testing.assert_array_equal(filled[..., ~KNOWN], levels[..., ~KNOWN])
    np.testing.assert_array_equal(filled[..., KNOWN], np.broadcast_to(x.numpy()[0][..., KNOWN], (3, 1, 48)))


def test_mode_edit_draws_what_fill_does(masked: Run) -> None:
    assert masked.folder is not None
    options = {"edit.input": "test:4", "edit.num_samples": "3", "edit.num_steps": "3"}
    assert run_main("--mode=edit", f"--workdir={masked.folder}", *flags(options)) == 0
    with np.load(masked.folder / "edit" / "inpaint.npz") as file:
        answers, inputs = torch.from_numpy(file["answers_in_model_units"]), file["inputs"]
        assert np.array_equal(file["answers"][..., KNOWN, :], np.broadcast_to(inputs[:, None, KNOWN], (1, 3, 48, 1)))
    # A run that is loaded anew has not been taught to hear.
    again = score_sde.load(masked.folder)
    filled = again.fill(again.dataset.test[4], 3, given=KNOWN[None], solver="dpmpp_2s_sde", num_steps=3)
    np.testing.assert_array_equal(again.dataset.units.decode(answers).numpy()[0], filled)
    numbers = json.loads((masked.folder / "edit" / "inpaint.json").read_text())
    assert numbers["network_calls"] == 5


def test_prompts_of_what_is_filled_and_redrawn(glyphs: Run) -> None:
    x = glyphs.dataset.test[:2]
    known = np.ones((8, 8), dtype=bool)
    known[:, 4:] = False
    options: dict[str, Any] = {"num_steps": 3, "seed": 3}
    for draw in (
        lambda **more: glyphs.fill(x, given=known, **options, **more),
        lambda **more: glyphs.redraw(x, 0.6, **options, **more),
    ):
        asked = draw(prompt=PROMPT, guidance=3.0)
        np.testing.assert_array_equal(asked, draw(condition=PROMPT, guidance=3.0))
        plain = draw(prompt=PROMPT, guidance=1.0)
        assert (asked != plain).any()
        # To be led away from the prompt itself changes nothing.
        same = draw(prompt=PROMPT, negative_prompt=PROMPT, guidance=3.0)
        assert np.abs(same.astype(int) - plain.astype(int)).max() <= 1
        with pytest.raises(UserError, match="guidance needs something to guide to"):
            draw(guidance=3.0)
        with pytest.raises(UserError, match="guidance=1 is none"):
            draw(negative_prompt="mono", guidance=1.0)
        # What is asked for twice is refused, and what is asked for besides is heard.
        with pytest.raises(UserError, match="caption is asked for twice"):
            draw(condition=PROMPT, prompt=PROMPT)


def test_mode_edit_takes_prompts(glyphs: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """And draws what Python does."""

    def edited(task: str, **more: str) -> np.ndarray:
        options = {
            "edit.input": "test:0",
            "edit.task": task,
            "edit.num_samples": "2",
            "sampling.prompt": PROMPT,
            **more,
        }
        assert run_main("--mode=edit", f"--workdir={glyphs.folder}", *flags(options)) == 0
        assert "does not use" not in capsys.readouterr().err
        assert glyphs.folder is not None
        with np.load(glyphs.folder / "edit" / f"{task}.npz") as file:
            return glyphs.dataset.units.decode(torch.from_numpy(file["answers_in_model_units"]))[0].numpy()

    x = glyphs.dataset.test[0]
    options: dict[str, Any] = {"prompt": PROMPT, "seed": 0}
    steps: dict[str, Any] = {"solver": "dpmpp_2s_sde", "num_steps": 3}
    redrawn = edited("sdedit", **{"edit.num_steps": "3"})
    np.testing.assert_array_equal(redrawn, glyphs.redraw(x, 0.5, 2, **options, **steps))
    filled = edited("inpaint", **{"edit.num_steps": "3"})
    np.testing.assert_array_equal(filled, glyphs.fill(x, 2, given=KNOWN[None], **options, **steps))
    loose = {"sampling.method": "rk4", "sampling.num_steps": "2", "sampling.guidance": "1"}
    varied = edited("vary", **{"edit.strength": "1", **loose})
    sampled = glyphs.sample(2, **options, solver="ode", method="rk4", num_steps=2, denoise=False, guidance=1.0)
    assert np.abs(varied.astype(int) - sampled).max() <= 1


def test_at_strength_one_pictures_are_samples(glyphs: Run) -> None:
    x = glyphs.dataset.test[:2]
    asked: dict[str, Any] = {"prompt": PROMPT, "seed": 7, "num_steps": 3}
    np.testing.assert_array_equal(glyphs.redraw(x, 1.0, **asked), glyphs.sample(2, **asked))
    near = glyphs.redraw(x, 0.002, **asked, guidance=1.0)
    assert np.abs(near.astype(int) - x.numpy()).max() <= 8


def test_what_is_refused(base: Run, masked: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def complaint(*arguments: object) -> str:
        capsys.readouterr()
        assert run_main(*map(str, arguments)) == 1
        return capsys.readouterr().err.splitlines()[-1]

    x = masked.dataset.test[:2]
    for given, said in [
        (np.ones((8, 8), dtype=bool), "nothing is missing of example 0"),
        (np.ones((8, 8)), "given says which numbers are known: truths, not float64"),
        (np.ones((7, 8), dtype=bool), "have shape"),
        (np.ones((3, 1, 8, 8), dtype=bool), "given has 3 rows for 2 examples"),
    ]:
        with pytest.raises(UserError, match=said):
            masked.fill(x, given=given)
    lacking = x.numpy().astype(float)
    lacking[1, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="example 1 lacks a number that is to be given"):
        masked.fill(lacking, given=KNOWN)
    with pytest.raises(UserError, match="this model was told of whole examples alone"):
        base.log_prob(x, given=KNOWN)
    with pytest.raises(UserError, match="know whole examples, not parts of them"):
        masked.fill(x, given=KNOWN, reference=str(base.folder), guidance=2.0)
    one = ["--mode=edit", "--config.edit.input=test:0", "--config.edit.method=trained"]
    assert "edit.method=trained is for edit.task=inpaint" in complaint(*one, "--workdir", base.folder)
    noise = ["--config.edit.noise_std=0.1", "--workdir", masked.folder]
    assert "edit.method=trained keeps what is known as it is" in complaint(*one, *noise)
    new = ["--mode=train", "--config", "configs/vp/digits_masked.py", "--workdir", Path(str(masked.folder)) / "no"]
    assert "no mask is called 'halves' (did you mean 'half'?)" in complaint(*new, "--config.data.masks=halves")
    assert "leave out one" in complaint(*new, "--config.data.missing=True")
    assert "data.masks needs training.objective=continuous" in complaint(
        *new, "--config", "configs/vp/digits_fewstep.py", "--config.data.masks=box"
    )
