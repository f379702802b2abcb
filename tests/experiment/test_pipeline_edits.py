"""Pictures edited by whole pipelines of diffusers from the command line, as from Python and by the library's terms."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.noise import BatchNoise
from score_sde.control import Guided, Masked, Observation, PiGDM
from score_sde.experiment import checkpoints
from score_sde.experiment.pipeline_run import PipelineRun
from score_sde.models import Given
from score_sde.models.pretrained import diffusers_autoencoder
from score_sde.solvers import decode, encode, get_solver
from tests.experiment.test_checkpoints import complaint, run

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained import tiny_pipelines as tiny  # noqa: E402

PROMPTS = ["a cat", "two dogs"]


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: Any) -> None:
    """Let these small pictures go through autoencoders as large ones do."""
    monkeypatch.setattr(diffusers_autoencoder, "_AT_ONCE", 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with the pipelines `sd` and `filling`, two pictures, a mask and prompts."""
    folder = tmp_path_factory.mktemp("edits")
    tiny.stable_diffusion(folder / "sd", diffusers.PNDMScheduler(**tiny.LADDER, skip_prk_steps=True))
    kind = diffusers.StableDiffusionInpaintPipeline
    parts: dict[str, Any] = {"kind": kind, "unet": tiny.unet(in_channels=9)}
    tiny.stable_diffusion(folder / "filling", diffusers.DDIMScheduler(**tiny.LADDER), **parts)
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(folder / f"{number}.png")
    Image.fromarray(np.where(hidden(), 0, 255).astype(np.uint8)).save(folder / "mask.png")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", name="loaded")
def loaded_pipeline(place: Path) -> PipelineRun:
    return opened(place / "sd")


def pictures() -> np.ndarray:
    """Return two pictures, uint8 `(2, H, W, 3)`."""
    return np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)


def hidden() -> np.ndarray:
    """Return the left half and the first row, True, of a picture."""
    places = np.zeros((16, 16), dtype=bool)
    places[:, :8] = places[0] = True
    return places


def opened(folder: Path) -> PipelineRun:
    made = score_sde.load(folder)
    assert isinstance(made, PipelineRun)
    return made


def edited(place: Path, tmp_path: Path, task: str, pipeline: str = "sd", **more: Any) -> dict[str, Any]:
    """Edit the two pictures from the command line; return what was written."""
    given = {"edit.task": task, "edit.input": f"{place / '0.png'},{place / '1.png'}"}
    given |= {key.replace("__", "."): value for key, value in more.items()}
    options = [f"--config.{key}={value}" for key, value in given.items()]
    assert run("--mode=edit", f"--checkpoint={place / pipeline}", f"--workdir={tmp_path}", *options) == 0
    assert (tmp_path / "edit" / f"{task}.png").is_file()
    return dict(np.load(tmp_path / "edit" / f"{task}.npz"))


def told(made: PipelineRun, *texts: str) -> Given:
    assert made.pipeline.prompts is not None
    return Given(made.model, Condition(made.pipeline.prompts.read(list(texts))))


def test_sdedit_is_that_of_python(place: Path, tmp_path: Path, loaded: PipelineRun) -> None:
    """Answer `j` of `K` to picture `i` has the seed `i K + j`; what is not said is the same as well."""
    asked: dict[str, Any] = {
        "sampling__prompt": place / "prompts.txt",
        "sampling__guidance": 5,
        "sampling__negative_prompt": "bad",
    }
    how: dict[str, Any] = {"edit__strength": 0.4, "edit__solver": "ddim", "edit__num_steps": 3, "edit__num_samples": 2}
    found = edited(place, tmp_path, "sdedit", **asked, **how)
    twice = pictures().repeat(2, 0)
    options: dict[str, Any] = {"prompt": PROMPTS * 2, "guidance": 5.0, "negative_prompt": "bad", "strength": 0.4}
    expected = loaded.edit(twice, **options, solver="ddim", num_steps=3, latents=True)
    np.testing.assert_array_equal(found["answers_in_model_units"].reshape(expected.shape), expected)
    shown = loaded.decode(expected).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found["answers"].reshape(shown.shape), shown)
    np.testing.assert_array_equal(found["inputs"], loaded.decode(loaded.encode(pictures())).transpose(0, 2, 3, 1))
    about = json.loads((tmp_path / "edit" / "sdedit.json").read_text())
    assert about["network_calls"] == 3
    assert about["settings"]["sampling.prompt"] == str(place / "prompts.txt")
    usual = edited(place, tmp_path / "usual", "sdedit", sampling__prompt="a cat", seed=3)
    np.testing.assert_array_equal(
        usual["answers_in_model_units"][:, 0], loaded.edit(pictures(), prompt="a cat", seed=3, latents=True)
    )


def test_pipelines_that_fill_in_are_told_picture_and_mask(place: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "edit__mask": place / "mask.png",
        "edit__num_samples": 2,
        "edit__num_steps": 3,
        "sampling__guidance": 4,
    }
    found = edited(place, tmp_path, "inpaint", "filling", sampling__prompt="a cat", **how)
    made = opened(place / "filling")
    options: dict[str, Any] = {"prompt": "a cat", "guidance": 4.0, "num_steps": 3, "latents": True}
    expected = made.sample(4, solver="ddim", picture=pictures().repeat(2, 0), mask=hidden(), **options)
    np.testing.assert_array_equal(found["answers_in_model_units"].reshape(expected.shape), expected)
    grey = np.where(hidden()[..., None], 128, pictures()).astype(np.uint8)
    np.testing.assert_array_equal(found["observed"], made.decode(made.encode(grey)).transpose(0, 2, 3, 1))


def test_others_inpaint_in_latents(place: Path, tmp_path: Path, loaded: PipelineRun) -> None:
    """Latents under known pixels are observed, and answers are those of ΠGDM on the guided model."""
    how: dict[str, Any] = {
        "edit__mask": place / "mask.png",
        "edit__num_steps": 3,
        "edit__solver": "ddim",
        "sampling__guidance": 4,
    }
    found = edited(place, tmp_path, "inpaint", sampling__prompt="a cat", **how)
    keep = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    keep[..., :4], keep[..., 0, :] = False, False
    z, keep = (each.to(distributed.device()) for each in (torch.from_numpy(loaded.encode(pictures())), keep))
    model = Guided(told(loaded, "a cat", "a cat"), loaded.model, 4.0)
    observation = Observation(Masked(keep), torch.where(keep, z, 0), 0.0)
    x_T = loaded.model.sde.prior_sample((2, 4, 8, 8), seeds=[0, 1], device=distributed.device())
    expected = get_solver("ddim", num_steps=3)(PiGDM(model, observation, 1.0, 1.0), x_T).x.cpu().numpy()
    answers = found["answers_in_model_units"][:, 0]
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_blends_end_at_the_pictures(place: Path, tmp_path: Path, loaded: PipelineRun) -> None:
    """The flow takes latents of pictures, drawn with noise, to noise and back."""
    steps: dict[str, Any] = {"sampling__method": "rk4", "sampling__num_steps": 2, "edit__num_samples": 2}
    found = edited(place, tmp_path, "interpolate", sampling__prompt="a cat", **steps)
    seen = loaded.pipeline.autoencoder.posterior(torch.from_numpy(pictures().transpose(0, 3, 1, 2)) / 127.5 - 1)
    z = seen.mean + seen.std * BatchNoise(2, torch.Generator().manual_seed(0)).normal(seen.mean)
    flow: dict[str, Any] = {"method": "rk4", "num_steps": 2}
    model = told(loaded, "a cat", "a cat")
    with torch.no_grad():
        expected = decode(model, encode(model, z, **flow).x, **flow).x.cpu()
    answers = torch.from_numpy(found["answers_in_model_units"][0])
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_pictures_are_brought_to_the_size(place: Path, tmp_path: Path, capsys: Any) -> None:
    sizes: dict[str, Any] = {"data__image_size": 24, "data__image_width": 16, "edit__num_steps": 1}
    found = edited(place, tmp_path, "sdedit", **sizes)
    assert found["answers"].shape == (2, 1, 24, 16, 3)
    assert "brought to 24 x 16 (height x width)" in capsys.readouterr().err


def test_what_cannot_be_done_is_said(place: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    # Nothing changes a pipeline here: each folder is read once.
    monkeypatch.setattr(checkpoints, "load_latent_pipeline", cache(checkpoints.load_latent_pipeline))
    kind = diffusers.StableDiffusionControlNetPipeline
    tiny.stable_diffusion(
        tmp_path / "controlled", diffusers.PNDMScheduler(**tiny.LADDER), kind=kind, controlnet=tiny.controlnet()
    )
    picture, filling = f"edit.input={place / '0.png'}", place / "filling"
    wrong: list[tuple[Path, list[str], str]] = [
        (place / "sd", ["edit.input=test:0"], "a pipeline has no test examples: give pictures"),
        (place / "sd", ["edit.input=nowhere.png"], "there is no picture nowhere.png"),
        (place / "sd", [], "give a picture: --config.edit.input=FILE"),
        (place / "sd", [picture, "edit.task=superres"], "is of pixels, and the model is of latents"),
        (place / "sd", [picture, "edit.task=sdedit", "data.image_size=15"], "both must be multiples of 2"),
        (place / "sd", [picture, "edit.task=sdedit", "edit.solver=tuned"], "edit.solver"),
        (place / "sd", [picture, "edit.method=dps"], "noise"),
        (place / "sd", [picture, "edit.task=interpolate"], "to interpolate takes two inputs"),
        (filling, [picture, "edit.task=sdedit"], "edit.task=inpaint, not sdedit"),
        (filling, [picture, "edit.method=pigdm"], "leave out edit.method and edit.noise_std"),
        (filling, [picture, "edit.box=0,1"], "the mask hides nothing, or everything"),
        (tmp_path / "controlled", [picture, "edit.task=sdedit"], "is always told of 'control' besides"),
    ]
    for checkpoint, options, said in wrong:
        given = [f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'run'}"]
        assert said in complaint(capsys, "--mode=edit", *given, *(f"--config.{option}" for option in options))


def test_a_solver_that_was_given_with_the_run_edits(place: Path, loaded: PipelineRun) -> None:
    made = score_sde.load(place / "sd", settings={"sampling.solver": "unipc", "sampling.num_steps": 3})
    assert isinstance(made, PipelineRun)
    found = made.edit(pictures(), prompt="a cat", seed=1, latents=True)
    expected = loaded.edit(pictures(), prompt="a cat", seed=1, latents=True, solver="unipc", num_steps=3)
    np.testing.assert_array_equal(found, expected)
