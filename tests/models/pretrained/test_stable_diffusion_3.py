"""Stable Diffusion 3: the library's transformer is our MMDiT, and its pipeline's latents are ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import Guided
from score_sde.models import Given
from score_sde.models.pretrained.diffusers_mmdit import from_mmdit
from score_sde.models.pretrained.latent_pipelines import load_latent_pipeline, scheduler_times
from score_sde.sde import RectifiedFlow
from score_sde.solvers import get_solver

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained.tiny_pipelines import latents, mmdit, relative, stable_diffusion_3  # noqa: E402

PROMPTS, NEGATIVE = ["a cat, red", "two dogs"], ["bad", "worse"]


@pytest.mark.parametrize("version", [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}], ids=["3", "3.5"])
@torch.no_grad()
def test_the_network_is_theirs_to_its_own_rounding(version: dict[str, Any]) -> None:
    """Pictures need not be square; in float32 ours is as near to theirs in float64 as three times theirs is."""
    theirs = mmdit(**version)
    ours = from_mmdit(theirs.config, theirs.state_dict())
    generator = torch.Generator().manual_seed(0)
    x, label = torch.randn(2, 4, 8, 12, generator=generator), torch.tensor([3.5, 900.0])
    tokens, vector = torch.randn(2, 5, 36, generator=generator), torch.randn(2, 32, generator=generator)
    rounded = theirs(x, tokens, vector, label).sample
    found = ours(x, label, Condition({"caption": tokens, "caption_whole": vector}))
    exact = theirs.double()(x.double(), tokens.double(), vector.double(), label).sample
    assert relative(found.double(), exact) < 3 * relative(rounded.double(), exact) < 1e-5


@pytest.mark.parametrize("missing", ["text_encoder_3", None], ids=["two encoders", "three encoders"])
def test_euler_s_method_from_words_to_latents(missing: str | None, tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {} if missing is None else {missing: None, missing.replace("text_encoder", "tokenizer"): None}
    theirs = stable_diffusion_3(tmp_path, scheduler, **parts)
    ours = load_latent_pipeline(tmp_path).to(dtype=torch.float64)
    assert isinstance(ours.model.sde, RectifiedFlow)
    assert ours.prompts is not None
    x, times = latents(), scheduler_times(ours, 5)
    options = {"guidance_scale": 4.0, "num_inference_steps": 5, "output_type": "latent"}
    expected = theirs(PROMPTS, negative_prompt=NEGATIVE, latents=x, **options).images
    asked, away = (Given(ours.model, Condition(ours.prompts.read(texts))) for texts in (PROMPTS, NEGATIVE))
    with torch.no_grad():
        found = get_solver("ddim", grid=times)(Guided(asked, away, 4.0), x).x
        unguided = get_solver("ddim", grid=times)(ours.model, x).x
    assert relative(found, expected) < 1e-5
    # What is not told is that there are no words.
    expected = theirs(["", ""], latents=x, **(options | {"guidance_scale": 1.0})).images
    assert relative(unguided, expected) < 1e-5


def test_encoders_that_are_missing_are_zeros(tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    stable_diffusion_3(tmp_path / "all", scheduler)
    stable_diffusion_3(tmp_path / "less", scheduler, text_encoder_2=None, tokenizer_2=None)
    whole, less = (load_latent_pipeline(tmp_path / name).prompts for name in ("all", "less"))
    assert whole is not None and less is not None  # noqa: PT018
    heard, rest = whole.read(PROMPTS), less.read(PROMPTS)
    heard["caption"][:, :12, 16:32], heard["caption_whole"][:, 16:] = 0, 0
    for name, value in heard.items():
        torch.testing.assert_close(rest[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"caption_projection_dim": 8}, "has words of 8 numbers, and patches of 16"),
        ({"qk_norm": "layer_norm"}, "has qk_norm='layer_norm', which is not known here"),
        ({"num_layers": 0}, "has num_layers=0, which is not known here"),
        ({"style": 3}, "has style=3, which is not known here"),
    ],
)
def test_networks_that_cannot_be_read(changes: dict[str, Any], said: str) -> None:
    theirs = mmdit()
    with pytest.raises(UserError, match=said):
        from_mmdit({**theirs.config, **changes}, theirs.state_dict())
