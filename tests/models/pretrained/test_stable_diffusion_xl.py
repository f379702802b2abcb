"""Stable Diffusion XL: two encoders, a vector of the whole prompt, and sizes; our solvers give their latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from score_sde.common.condition import Condition
from score_sde.control import Guided
from score_sde.experiment.pipeline_conditions import told_beside
from score_sde.models import Given
from score_sde.models.given import GivenBeside
from score_sde.models.pretrained.latent_pipelines import LatentPipeline, load_latent_pipeline, scheduler_times

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained.test_latent_pipelines import solved  # noqa: E402
from tests.models.pretrained.tiny_pipelines import LADDER, latents, relative, stable_diffusion_xl  # noqa: E402

PROMPTS, NEGATIVE = ["a cat, red", "two dogs"], ["bad", "worse"]
SCALE, STEPS = 4.0, 5
SCHEDULERS: dict[str, tuple[Any, str]] = {
    "ddim": (diffusers.DDIMScheduler(**LADDER, clip_sample=False, set_alpha_to_one=False), "ddim"),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler(**LADDER), "dpmpp_2m"),
    "euler": (diffusers.EulerDiscreteScheduler(**LADDER, timestep_spacing="leading"), "ddim"),
}
OPTIONS = {"guidance_scale": SCALE, "output_type": "latent"}


def guided(ours: LatentPipeline, negative: list[str] | None, **sizes: Any) -> Any:
    """Return the model of two prompts, led away from others or, without them, from nothing."""
    assert ours.prompts is not None
    beside = told_beside(ours, sizes, len(PROMPTS), (16, 16))
    model: Any = ours.model if beside is None else GivenBeside(ours.model, beside)
    asked, away = (None if texts is None else Condition(ours.prompts.read(texts)) for texts in (PROMPTS, negative))
    return Guided(Given(model, asked), Given(model, away), SCALE)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_from_words_to_latents(name: str, tmp_path: Path) -> None:
    scheduler, solver = SCHEDULERS[name]
    theirs = stable_diffusion_xl(tmp_path, scheduler)
    ours, x = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents()
    expected = theirs(PROMPTS, negative_prompt=NEGATIVE, latents=x, num_inference_steps=STEPS, **OPTIONS).images
    times = scheduler_times(ours, STEPS)
    assert relative(solved(guided(ours, NEGATIVE), ours, solver, times, x), expected) < 1e-5
    assert relative(solved(guided(ours, None), ours, solver, times, x), expected) > 0.01


@pytest.mark.parametrize("zeros", [True, False])
def test_sizes_and_what_is_heard_of_no_words(zeros: bool, tmp_path: Path) -> None:
    """Nothing is zeros, or the empty text, by the pipeline's own word."""
    theirs = stable_diffusion_xl(tmp_path, SCHEDULERS["ddim"][0], force_zeros_for_empty_prompt=zeros)
    ours, x = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents()
    sizes = {"original_size": (40, 30), "crops_coords_top_left": (3, 5), "target_size": (20, 24)}
    expected = theirs(PROMPTS, latents=x, num_inference_steps=STEPS, **sizes, **OPTIONS).images
    times = scheduler_times(ours, STEPS)
    assert relative(solved(guided(ours, None, **sizes), ours, "ddim", times, x), expected) < 1e-5
    for other in (guided(ours, None), guided(ours, ["", ""] if zeros else NEGATIVE, **sizes)):
        assert relative(solved(other, ours, "ddim", times, x), expected) > 1e-3


def test_image_to_image(tmp_path: Path) -> None:
    pipeline = stable_diffusion_xl(tmp_path, SCHEDULERS["dpmpp_2m"][0])
    theirs = diffusers.StableDiffusionXLImg2ImgPipeline(**pipeline.components)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "img2img")
    ours, z = load_latent_pipeline(tmp_path / "img2img").to(dtype=torch.float64), latents()
    generator = torch.Generator().manual_seed(3)
    asked = {"negative_prompt": NEGATIVE, "num_inference_steps": 6, "strength": 0.7}
    expected = theirs(PROMPTS, image=z, generator=generator, **asked, **OPTIONS).images
    noise = torch.randn(z.shape, generator=generator.manual_seed(3), dtype=z.dtype)
    times = scheduler_times(ours, 6)[-4:]
    x = ours.model.sde.perturb(z, noise, times[0])
    assert relative(solved(guided(ours, NEGATIVE), ours, "dpmpp_2m", times, x), expected) < 1e-5
