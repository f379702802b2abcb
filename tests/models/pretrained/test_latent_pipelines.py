"""Whole pipelines of diffusers: our solvers on their networks give their latents, in float64.

Their schedulers keep tables in float32, and some their states, which leaves differences of about 1e-6.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.noise import SampleNoise
from score_sde.control import Guided
from score_sde.control.latents import Until
from score_sde.experiment.pipeline_conditions import told_beside
from score_sde.models import Given
from score_sde.models.given import GivenBeside
from score_sde.models.pretrained.diffusers_parts import differentiable_attention
from score_sde.models.pretrained.latent_pipelines import LatentPipeline, load_latent_pipeline, scheduler_times
from score_sde.sde import DDPMLadder
from score_sde.solvers import get_solver
from score_sde.solvers.density.likelihood import log_likelihood

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained.test_diffusers import randomise, small_unet  # noqa: E402
from tests.models.pretrained.tiny_pipelines import (  # noqa: E402
    LADDER,
    autoencoder,
    controlnet,
    latents,
    relative,
    saved,
    stable_diffusion,
    unet,
)

PROMPTS, NEGATIVE = ["a cat, red", "two dogs"], ["bad", "worse"]
SCALE, STEPS = 4.0, 5
# Zero terminal SNR: Stable Diffusion 2 fine-tuned by Lin et al.
FROM_NOISE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
SOLVERS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, "ddim", {"set_alpha_to_one": False}),
    "ddim, from noise": (diffusers.DDIMScheduler, "ddim", FROM_NOISE),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, "dpmpp_2m", {"timestep_spacing": "linspace"}),
    "dpmpp_2m, velocity": (diffusers.DPMSolverMultistepScheduler, "dpmpp_2m", {"prediction_type": "v_prediction"}),
    "unipc": (diffusers.UniPCMultistepScheduler, "unipc", {"timestep_spacing": "leading"}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "ddim": {},
    "dpmpp_2m": {"lower_order_final": True},
    "unipc": {"lower_order_final": True, "order": 2, "variant": "bh2"},
}


def scheduler_of(name: str) -> Any:
    kind, _, settings = SOLVERS[name]
    clipped = {"clip_sample": False} if kind is diffusers.DDIMScheduler else {}
    return kind(**LADDER, **clipped, **settings)


def guided(ours: LatentPipeline) -> Any:
    assert ours.prompts is not None
    asked, away = (Condition(ours.prompts.read(texts)) for texts in (PROMPTS, NEGATIVE))
    return Guided(Given(ours.model, asked), Given(ours.model, away), SCALE)


@torch.no_grad()
def solved(model: Any, ours: LatentPipeline, name: str, times: Tensor, x: Tensor) -> Tensor:
    """Solve by the method of a scheduler on its times; DDIM without `set_alpha_to_one` ends at the first rung."""
    options = dict(OPTIONS[name])
    if name == "ddim" and not ours.scheduler.config.get("set_alpha_to_one", True):
        assert isinstance(ours.model.sde, DDPMLadder)
        times, options["denoise"] = torch.cat([times, ours.model.sde.time(torch.zeros(1))]), False
    until = Until(model, float(times[0])) if times[0] < ours.model.sde.T else model
    return get_solver(name, grid=times, **options)(until, x).x


@pytest.mark.parametrize("name", SOLVERS)
def test_stable_diffusion_from_words_to_latents(name: str, tmp_path: Path) -> None:
    """Prompts, negative prompts and guidance, steps of their own."""
    theirs = stable_diffusion(tmp_path, scheduler_of(name))
    ours = load_latent_pipeline(tmp_path).to(dtype=torch.float64)
    x = latents()
    options = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "latent"}
    expected = theirs(PROMPTS, negative_prompt=NEGATIVE, latents=x, **options).images
    times = scheduler_times(ours, STEPS)
    found = solved(guided(ours), ours, SOLVERS[name][1], times, x)
    assert relative(found, expected) < 1e-5
    assert relative(solved(Given(ours.model, None), ours, SOLVERS[name][1], times, x), expected) > 0.1


def test_image_to_image(tmp_path: Path) -> None:
    """A strength is where the steps begin: theirs are the last of so many, on ours noise is added at their first."""
    pipeline = stable_diffusion(tmp_path, scheduler_of("dpmpp_2m"))
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    ours, z = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents()
    options = {"guidance_scale": SCALE, "num_inference_steps": 6, "output_type": "latent", "strength": 0.7}
    generator = torch.Generator().manual_seed(3)
    expected = theirs(PROMPTS, negative_prompt=NEGATIVE, image=z, generator=generator, **options).images
    noise = torch.randn(z.shape, generator=generator.manual_seed(3), dtype=z.dtype)
    times = scheduler_times(ours, 6)[-4:]
    found = solved(guided(ours), ours, "dpmpp_2m", times, ours.model.sde.perturb(z, noise, times[0]))
    assert relative(found, expected) < 1e-5


def test_pictures_to_latents_and_back(tmp_path: Path) -> None:
    theirs = stable_diffusion(tmp_path, scheduler_of("ddim"), vae=autoencoder(scaling_factor=0.7, shift_factor=0.2))
    ours = load_latent_pipeline(tmp_path).to(dtype=torch.float64).autoencoder
    pictures = torch.randint(0, 256, (2, 3, 16, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    posterior = theirs.vae.encode(pictures.double() / 127.5 - 1).latent_dist
    torch.testing.assert_close(ours.encode(pictures), 0.7 * (posterior.mode() - 0.2).float(), rtol=1e-5, atol=1e-6)
    noise = SampleNoise([4, 5], "dequantisation").normal(posterior.mean.float())
    drawn = 0.7 * (posterior.mean + posterior.std * noise - 0.2)
    again = ours.encode(pictures, SampleNoise([4, 5], "dequantisation"))
    torch.testing.assert_close(again, drawn.float(), rtol=1e-5, atol=1e-6)
    z = 0.5 * latents()
    with torch.no_grad():
        shown = theirs.vae.decode(z / 0.7 + 0.2).sample
    expected = theirs.image_processor.postprocess(shown, output_type="np")
    found = ours.pictures(z).movedim(1, -1).numpy()
    assert found.dtype == np.uint8
    assert (found == (expected * 255).round()).mean() > 0.99
    assert found.std() > 10


def test_the_density_of_latents_is_that_of_an_independent_integration(tmp_path: Path) -> None:
    """SciPy's integrator in log rho, on their network and their table, with the trace of its Jacobian."""
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    network = unet(sample_size=2, block_out_channels=(8,), **blocks)
    with torch.no_grad():
        # One of random weights would change with every rung, and be no smooth function of time.
        network.time_embedding.linear_1.weight.mul_(0.1)
    theirs = stable_diffusion(
        tmp_path, diffusers.PNDMScheduler(2, beta_start=0.05, beta_end=0.6, steps_offset=1), unet=network
    )
    ours = load_latent_pipeline(tmp_path).to(dtype=torch.float64)
    x, sde = 0.8 * latents(1, size=2), ours.model.sde
    assert ours.prompts is not None
    told = ours.prompts.read(PROMPTS[:1])
    found = log_likelihood(Given(ours.model, Condition(told)), x, divergence="exact", rtol=1e-5, atol=1e-5)

    log_alpha = np.concatenate([[0.0], 0.5 * np.log(theirs.scheduler.alphas_cumprod.double().numpy())])
    differentiable_attention(theirs.unet)

    def slope(log_rho: float, state: np.ndarray) -> np.ndarray:
        here = -0.5 * np.log1p(np.exp(2 * log_rho))
        rung = float(np.interp(-here, -log_alpha, np.arange(len(log_alpha)))) - 1
        alpha = np.exp(here)

        def noise(y: Tensor) -> tuple[Tensor, Tensor]:
            states = alpha * y.reshape(1, 4, 2, 2)
            found = theirs.unet(states, torch.tensor([rung]), encoder_hidden_states=told["caption"]).sample.flatten()
            return found, found

        jacobian, found = torch.func.jacrev(noise, has_aux=True)(torch.from_numpy(state[:-1]))
        return np.exp(log_rho) * np.append(found.detach().numpy(), jacobian.trace().item())

    ends = [sde.at(t) for t in (sde.t_min, sde.T)]
    alphas, (start, end) = [float(end.alpha) for end in ends], [float(end.rho.log()) for end in ends]
    first = (x / alphas[0]).flatten().numpy()
    state = solve_ivp(slope, (start, end), np.append(first, 0.0), method="DOP853", rtol=1e-4, atol=1e-5).y[:, -1]
    z = alphas[1] * state[:-1]
    expected = -0.5 * (z**2 + np.log(2 * np.pi)).sum() + state[-1] + 16 * np.log(alphas[1] / alphas[0])
    assert abs(found.log_prob.item() - expected) / 16 < 1e-4


def test_unconditional_latent_diffusion(tmp_path: Path) -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vqvae = randomise(
        diffusers.VQModel(
            latent_channels=3, block_out_channels=(8, 8), norm_num_groups=4, num_vq_embeddings=16, **kinds
        )
    )
    theirs = saved(diffusers.LDMPipeline(vqvae, small_unet(), scheduler_of("ddim")), tmp_path)
    ours, x = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents(2, 3)
    ours.autoencoder.float()
    theirs.vqvae.float()
    states = x
    theirs.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for timestep in theirs.scheduler.timesteps:
            states = theirs.scheduler.step(theirs.unet(states, timestep).sample, timestep, states).prev_sample
        shown = theirs.vqvae.decode(states.float() / theirs.vqvae.config.scaling_factor).sample
    found = solved(ours.model, ours, "ddim", scheduler_times(ours, STEPS), x)
    assert relative(found, states) < 1e-5
    assert relative(ours.autoencoder.decode(states), shown) < 1e-5
    pictures = ((shown / 2 + 0.5).clamp(0, 1) * 255).round()
    assert float((ours.autoencoder.pictures(states) - pictures).abs().max()) <= 1


def pictures_of(count: int, channels: int = 3, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator).to(torch.uint8)


def guided_beside(ours: LatentPipeline, **given: Any) -> Any:
    told = told_beside(ours, given, len(PROMPTS), (16, 16))
    assert told is not None
    beside: Any = GivenBeside(ours.model, told)
    return guided(replace(ours, model=beside))


def test_a_control_network_changes_features(tmp_path: Path) -> None:
    scheduler = scheduler_of("dpmpp_2m")
    kind = diffusers.StableDiffusionControlNetPipeline
    theirs = stable_diffusion(tmp_path, scheduler, kind=kind, controlnet=controlnet())
    ours, x, control = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents(), pictures_of(2)
    options = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "latent"}
    expected = theirs(PROMPTS, control.double() / 255, negative_prompt=NEGATIVE, latents=x, **options).images
    times = scheduler_times(ours, STEPS)
    found = solved(guided_beside(ours, control=control), ours, "dpmpp_2m", times, x)
    assert relative(found, expected) < 1e-5
    assert relative(solved(guided_beside(ours, control=255 - control), ours, "dpmpp_2m", times, x), expected) > 0.01


def test_pictures_that_are_filled_in(tmp_path: Path) -> None:
    kind = diffusers.StableDiffusionInpaintPipeline
    theirs = stable_diffusion(tmp_path, scheduler_of("ddim"), kind=kind, unet=unet(in_channels=9))
    ours, x, pictures = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents(), pictures_of(2)
    mask = torch.zeros(16, 16)
    mask[4:12, 2:9] = 1
    states = pictures.double() / 127.5 - 1
    rest = ours.autoencoder.scale * theirs.vae.encode(states * (mask < 0.5)).latent_dist.mode()
    options = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "latent", "strength": 1.0}
    asked = {
        "image": pictures.double() / 255,
        "mask_image": mask[None, None],
        "masked_image_latents": rest,
        "height": 16,
        "width": 16,
    }
    expected = theirs(PROMPTS, negative_prompt=NEGATIVE, latents=x, **asked, **options).images
    model = guided_beside(ours, picture=pictures, mask=mask)
    assert relative(solved(model, ours, "ddim", scheduler_times(ours, STEPS), x), expected) < 1e-5


def test_depths(tmp_path: Path) -> None:
    """Their pipeline needs an estimator of depths, which is not asked where a depth is given: its network alone."""
    pipeline = stable_diffusion(tmp_path, scheduler_of("ddim"), unet=unet(in_channels=5))
    ours, x = load_latent_pipeline(tmp_path).to(dtype=torch.float64), latents()
    depth = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    made = diffusers.StableDiffusionDepth2ImgPipeline.prepare_depth_map(
        SimpleNamespace(vae_scale_factor=2), torch.empty(2, 3, 16, 16), depth, 2, False, torch.float32, "cpu"
    )
    assert ours.prompts is not None
    told = ours.prompts.read(PROMPTS)
    beside = told_beside(ours, {"depth": depth}, 2, (16, 16))
    assert beside is not None
    rung = torch.tensor([500, 500])
    with torch.no_grad():
        expected = pipeline.unet(torch.cat([x, made], 1), rung, encoder_hidden_states=told["caption"]).sample
        model = Given(GivenBeside(ours.model, beside), Condition(told))
        sde: Any = ours.model.sde
        t = sde.time(rung[0])
        found = (x - sde.at(t).alpha * model.denoise(x, t)) / sde.at(t).sigma
    assert relative(found, expected) < 1e-5
