"""Mode `tune`, and what samples by its tables."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import Guided
from score_sde.experiment import tuning
from score_sde.models import Given
from score_sde.solvers import get_solver
from score_sde.solvers.fast.tuned import load_tables
from tests.modes.test_main import run

MIXTURE = [
    "--config=configs/vp/eight_gaussians.py",
    "--config.model.network=mixture",
    "--config.model.num_components=8",
    "--config.tuning.iterations=0",
]


def test_tables_of_several_numbers_of_steps_and_their_noise(tmp_path, capsys):
    """One file, of which what is missing is made, and nothing else."""
    arguments = [*MIXTURE, "--workdir", tmp_path]
    assert run("--mode=tune", *arguments, "--config.tuning.num_steps=3,4") == 0
    path = tmp_path / "tuned" / "tuned.json"
    first = load_tables(path)
    assert list(first) == [3, 4]
    assert all(kept.amounts is None and kept.table.calls == number for number, kept in first.items())
    told = capsys.readouterr().out
    assert "tuning samplers of 3, 4 steps" in told
    assert run("--mode=tune", *arguments, "--config.tuning.num_steps=4,5", "--config.tuning.loss=distribution") == 0
    second = load_tables(path)
    assert list(second) == [3, 4, 5]
    assert torch.equal(second[3].table.outputs, first[3].table.outputs)
    assert second[3].amounts is None
    assert [len(second[number].amounts or ()) for number in (4, 5)] == [5, 6]
    sample = ["--mode=sample", *arguments, "--config.sampling.solver=tuned", "--config.sampling.num_samples=50"]
    before = path.read_bytes()
    assert run(*sample, "--config.sampling.num_steps=4", "--config.sampling.learned_noise=true") == 0
    assert path.read_bytes() == before
    with np.load(tmp_path / "samples" / "tuned.npz") as file:
        # The modes lie on a circle.
        radius = np.linalg.norm(file["vectors"], axis=1)
    assert np.median(np.abs(radius - np.median(radius))) < 0.1 * np.median(radius)


def test_samples_of_classes_have_tables_of_their_own(tmp_path):
    """They are learned from the guided model, whose first step is not free."""
    x = np.random.default_rng(0).normal(size=(60, 2)) + 3 * np.repeat([[0.0], [1.0]], 30, axis=0)
    small = {"model.width": 8, "model.num_blocks": 1, "training.num_steps": 3, "training.sample_every": 0}
    small |= {"training.evaluate_every": 0, "tuning.iterations": 0}
    trained = score_sde.fit(x, condition=["a"] * 30 + ["b"] * 30, workdir=tmp_path, settings=small)
    options: dict[str, Any] = {"solver": "tuned", "num_steps": 4, "condition": "b", "guidance": 1.5}
    samples = trained.sample(6, **options)
    (path,) = tmp_path.rglob("tuned*.json")
    assert path.name == "tuned_classes_1.5.json"
    kept = load_tables(path)[4]
    assert not kept.table.free
    assert len(kept.table.times) == 4
    np.testing.assert_array_equal(trained.sample(6, **options), samples)


CAPTIONS = ["dark", "bright", "dark or bright"]
TINY = {
    "model.channels": 4,
    "model.channel_multipliers": (1, 2),
    "model.num_blocks": 1,
    "training.batch_size": 8,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
    "training.measure_every": 0,
    "training.log_every": 0,
    "data.image_size": 8,
    "data.num_channels": 1,
}


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    """A folder with two autoencoders, and of each a model of latents that is told captions."""
    folder = tmp_path_factory.mktemp("latents")
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", x=x, caption=np.array(CAPTIONS * 10))
    for name in ("one", "other"):
        made = {**TINY, "model.latent_channels": 2, "seed": len(name), "data.folder": folder}
        where = {"config": "autoencoders/glyphs", "workdir": folder / name}
        score_sde.fit(folder / "data.npz", num_steps=1, settings=made, **where)
        told = {**TINY, "data.autoencoder": folder / name, "model.attention_depths": (1,), "data.folder": folder}
        where = {"config": "autoencoders/latent_glyphs", "workdir": folder / f"of_{name}"}
        score_sde.fit(folder / "data.npz", num_steps=1, settings=told, **where)
    return folder


def test_a_table_of_latents_is_for_its_guidance_and_any_prompt(latents, capsys, monkeypatch):
    """With the guidance it is the solver of the guided model; at another, and for other latents, it is refused."""
    monkeypatch.setattr(tuning, "num_examples", lambda shape: 16)
    few_examples = partial(tuning.tune, num_trajectories=8, num_validation=8, batch_size=8, reference_steps=16)
    monkeypatch.setattr(tuning, "tune", few_examples)
    place = latents / "of_one"
    asked = [f"--config.sampling.prompt={CAPTIONS[0]}", "--config.sampling.guidance=2"]
    few = ["--config.tuning.num_steps=3", "--config.tuning.iterations=0", "--config.sampling.data_std=1"]
    assert run("--mode=tune", "--workdir", place, *asked, *few) == 0
    (path,) = place.rglob("tuned*.json")
    assert path.name == "tuned_prompts_2.json"
    opened = score_sde.load(place)
    options: dict[str, Any] = {"condition": CAPTIONS[1], "solver": "tuned", "num_steps": 3}
    found = opened.sample(2, **options, guidance=2.0)
    words: Any = opened.dataset.condition_units["caption"]
    device = distributed.device()
    told = Condition({"caption": words.read([CAPTIONS[1]] * 2)}).to(device)
    guided = Guided(Given(opened.model, told), opened.model, 2.0)
    x_T = opened.model.sde.prior_sample((2, *opened.dataset.model_shape), seeds=[0, 1], device=device)
    by_hand = get_solver("tuned", path=path, num_steps=3)(guided, x_T).x.cpu()
    np.testing.assert_array_equal(found, opened.dataset.units.decode(by_hand).numpy())
    for guidance in (1.0, 3.0):
        with pytest.raises(
            UserError, match=f"no table of 3 steps for this guidance .* --config.sampling.guidance={guidance:g} "
        ):
            opened.sample(2, **options, guidance=guidance)
    with pytest.raises(UserError, match="no table of 4 steps for this guidance"):
        opened.sample(2, **{**options, "num_steps": 4}, guidance=2.0)
    before = path.read_bytes()
    other = latents / "of_other"
    shutil.copytree(path.parent, other / "checkpoints" / path.parent.name)
    with pytest.raises(UserError, match=r"tuned_prompts_2\.json was tuned to a model of other weights .*: delete it"):
        score_sde.load(other).sample(2, **options, guidance=2.0)
    assert run("--mode=tune", "--workdir", other, *asked, *few) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "was tuned to a model of other weights than this one's" in error
    assert path.read_bytes() == before


def test_a_likelihood_is_tuned_once_and_says_by_how_much_it_is_off(tmp_path, capsys):
    """What it says agrees with the examples that are solved again; other settings have a table of their own."""
    arguments = [*MIXTURE, "--workdir", tmp_path, "--config.likelihood.method=tuned"]
    arguments += ["--config.likelihood.num_steps=12"]
    assert run("--mode=tune", *arguments, "--config.likelihood.divergence=hutchinson") == 0
    (path,) = tmp_path.rglob("tuned_likelihood_12.json")
    told = capsys.readouterr().out
    assert "12 calls, off by" in told
    before = path.read_bytes()
    asked = ["--mode=likelihood", *arguments, "--config.likelihood.bounds=()", "--config.likelihood.num_checks=64"]
    asked += ["--config.likelihood.num_examples=64"]
    assert run(*asked) == 0
    assert path.read_bytes() != before, "exact divergences are another thing to learn"
    summary = json.loads((tmp_path / "likelihood" / "test.json").read_text())
    held_out = summary["held_out_error"]["mean_absolute"] / math.log(2)
    assert summary["nfe"] == 12
    assert 0.3 < summary["solver_error"]["mean_absolute"] / held_out < 3
    assert f"tuned steps: an example is off by {held_out * math.log(2):.4f}" in capsys.readouterr().out
    before = path.read_bytes()
    assert run(*asked) == 0
    assert path.read_bytes() == before
    for key, message in {"given=own": "for p", "rtol=1e-3": "leave out", "num_steps=1": "num_steps"}.items():
        assert run(*asked, f"--config.likelihood.{key}") == 1
        assert message in capsys.readouterr().err
