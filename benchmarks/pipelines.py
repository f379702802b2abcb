"""Seconds a step, and memory, of a pipeline's denoiser under our solver and under the library's pipeline, interleaved.

    python -m benchmarks.pipelines                    small Stable Diffusions, XL and 3 of random weights
    python -m benchmarks.pipelines --large            ones of the sizes of versions 1.5, XL and 3, for a GPU

Guided steps of DDIM, and of Euler's method, of the same latents and prompts: both ask for the prompt and for what it is
led away from in one batch; beside it, ours in two calls. Memory is that of the weights and the most that is taken
besides at a time.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

# The profiler, which says what memory is taken on a CPU, announces itself otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.control import Guided
from score_sde.models import Given
from score_sde.models.pretrained.diffusers_flow import flow_times
from score_sde.models.pretrained.diffusers_library import library, quiet
from score_sde.models.pretrained.diffusers_mmdit import from_mmdit
from score_sde.models.pretrained.diffusers_schedulers import meaning
from score_sde.models.pretrained.stable_diffusion import Prompted
from score_sde.models.score_model import ScoreModel
from score_sde.sde import DDPMLadder
from score_sde.solvers import get_solver

LENGTH, SCALE = 77, 5.0
_PLAIN = {"norm_num_groups": 32, "attention_head_dim": 8, "cross_attention_dim": 768, "layers_per_block": 2}
_OF_XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "norm_num_groups": 32,
    "layers_per_block": 2,
}
# Settings of each denoiser, small, and large as published.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Stable Diffusion": (
        {
            **_PLAIN,
            "sample_size": 32,
            "block_out_channels": (64, 128),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        {**_PLAIN, "sample_size": 64},
    ),
    "Stable Diffusion XL": (
        {
            **_OF_XL,
            "sample_size": 32,
            "block_out_channels": (64, 128),
            "attention_head_dim": (2, 4),
            "transformer_layers_per_block": (1, 2),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        {
            **_OF_XL,
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        },
    ),
    "Stable Diffusion 3": (
        {
            "sample_size": 32,
            "num_layers": 4,
            "num_attention_heads": 4,
            "caption_projection_dim": 256,
            "pos_embed_max_size": 96,
        },
        {
            "sample_size": 128,
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        },
    ),
}


class Measured:
    """A call has taken seconds, of its last repetitions each, and memory."""

    def __init__(self, call: Callable[[], Any], weights: nn.Module, device: str) -> None:
        self.call, self.device = call, device
        self.weights = sum(each.nbytes for each in weights.parameters())
        self.seconds: list[float] = []

    def run(self) -> float:
        """Return the seconds of a call."""
        self._wait()
        started = time.perf_counter()
        with torch.no_grad():
            self.call()
        self._wait()
        return time.perf_counter() - started

    def memory(self) -> int:
        """Return the bytes of the weights, and of the most that is taken besides in a call."""
        gc.collect()
        if self.device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.run()
            return self.weights + torch.cuda.max_memory_allocated() - before
        taken = most = 0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.run()
        results: Any = profiler.profiler
        for event in sorted(results.kineto_results.events(), key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                taken += event.nbytes()
                most = max(most, taken)
        return self.weights + most

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Print seconds of a step and memory, ours in parts of theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--num-steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    print(f"{device}, {dtype}, {arguments.batch_size} pictures, guided steps, ours in parts of theirs:")
    for name, settings in SIZES.items():
        ways = _ways(name, settings[arguments.large], arguments.batch_size, arguments.num_steps, device, dtype)
        for repeat in range(arguments.repeats + 1):
            for way in ways.values():
                seconds = way.run()
                if repeat:
                    way.seconds.append(seconds / arguments.num_steps)
        theirs = ways.pop("theirs")
        memory = theirs.memory()
        print(f"    {name}: {median(theirs.seconds):.3f} s a step, {memory / 2**20:.0f} MiB", flush=True)
        for called, way in ways.items():
            ratios = [mine / other for mine, other in zip(way.seconds, theirs.seconds, strict=True)]
            spread = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            print(
                f"        {called:14s} {spread} of the seconds, {way.memory() / memory:.3f} of the memory", flush=True
            )


def _ways(
    name: str, settings: dict[str, Any], count: int, num_steps: int, device: str, dtype: torch.dtype
) -> dict[str, Measured]:
    """Return their way and ours to make latents of so many prompts, by name."""
    diffusers: Any = library()
    torch.manual_seed(0)
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None}
    if name == "Stable Diffusion 3":
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        network = diffusers.SD3Transformer2DModel(**settings)
        parts |= {f"{part}_{number}": None for part in ("text_encoder", "tokenizer") for number in (2, 3)}
        kind: Any = diffusers.StableDiffusion3Pipeline
        width, vector = network.config.joint_attention_dim, network.config.pooled_projection_dim
    else:
        ladder: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        scheduler = diffusers.DDIMScheduler(**ladder, clip_sample=False, timestep_spacing="trailing")
        network = diffusers.UNet2DConditionModel(**settings)
        kind, width, vector = diffusers.StableDiffusionPipeline, network.config.cross_attention_dim, 0
        if name == "Stable Diffusion XL":
            parts |= {"text_encoder_2": None, "tokenizer_2": None}
            kind, vector = diffusers.StableDiffusionXLPipeline, 1280
        else:
            parts |= {"safety_checker": None, "feature_extractor": None}
    part = "transformer" if name == "Stable Diffusion 3" else "unet"
    autoencoder = diffusers.AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4)
    with quiet():
        theirs = kind(**parts, **{part: copy.deepcopy(network)}, vae=autoencoder, scheduler=scheduler)
        theirs.to(device, dtype)
    theirs.set_progress_bar_config(disable=True)

    asked, away = (_told(count, width, vector, device) for _ in range(2))
    model, times = _model(network, asked, scheduler, num_steps)
    model = model.to(device, dtype)
    channels, size = network.config.in_channels, network.config.sample_size
    x = torch.randn(count, channels, size, size, device=device)
    guided = Guided(Given(model, Condition(asked)), Given(model, Condition(away)), SCALE)
    solver = get_solver("ddim", grid=times)
    names = {"caption": "prompt_embeds", "caption_whole": "pooled_prompt_embeds"}
    embedded = {theirs_name: asked[ours].to(dtype) for ours, theirs_name in names.items() if ours in asked}
    embedded |= {f"negative_{other}": away[ours].to(dtype) for ours, other in names.items() if ours in asked}
    options = {"guidance_scale": SCALE, "num_inference_steps": num_steps, "output_type": "latent"}
    # Another model, of the same network, is asked apart.
    apart = Guided(Given(model, Condition(asked)), Given(copy.copy(model), Condition(away)), SCALE)
    return {
        "theirs": Measured(lambda: theirs(latents=x.to(dtype), **embedded, **options), getattr(theirs, part), device),
        "ours": Measured(lambda: solver(guided, x), model, device),
        "in two calls": Measured(lambda: solver(apart, x), model, device),
    }


def _told(count: int, width: int, vector: int, device: str) -> dict[str, Tensor]:
    """Return what stands for what is heard of prompts, by name."""
    told = {"caption": torch.randn(count, LENGTH, width, device=device)}
    return told | ({"caption_whole": torch.randn(count, vector, device=device)} if vector else {})


def _model(network: Any, told: dict[str, Tensor], scheduler: Any, num_steps: int) -> tuple[ScoreModel, Tensor]:
    """Return our model of a network, and the times of the scheduler's steps."""
    sde, prediction, noise_label, _ = meaning(scheduler)
    if isinstance(sde, DDPMLadder):
        nothing = {name: torch.zeros_like(value[:1]) for name, value in told.items()}
        ours: nn.Module = Prompted(network, nothing, factor=8 if "caption_whole" in told else None)
        scheduler.set_timesteps(num_steps)
        times = sde.time(scheduler.timesteps.double())
    else:
        ours = from_mmdit(network.config, network.state_dict())
        times = flow_times(scheduler.config, num_steps)
    return ScoreModel(ours, sde, prediction, noise_label, scale_input=False).eval().requires_grad_(False), times


if __name__ == "__main__":
    main()
