"""Seconds a step, and memory, of a pipeline's denoiser under our solver and under the library's pipeline, interleaved.

    python -m benchmarks.pipelines                    a small Stable Diffusion of random weights
    python -m benchmarks.pipelines --large            one of the size of version 1.5, for a GPU

Guided steps of DDIM, of the same latents and prompts: the library asks for both in one batch, we in two calls.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from score_sde.common.condition import Condition
from score_sde.control import Guided
from score_sde.models import Given
from score_sde.models.pretrained.latent_pipelines import load_latent_pipeline, scheduler_times
from score_sde.solvers import get_solver
from tests.models.pretrained import tiny_pipelines as tiny

SMALL = {"sample_size": 32, "block_out_channels": (64, 128), "norm_num_groups": 32, "attention_head_dim": 8}
LARGE = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
}
SCALE = 5.0


def main() -> None:
    """Print seconds of a step and the most memory, ours in parts of theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    import diffusers

    with tempfile.TemporaryDirectory() as place:
        scheduler = diffusers.DDIMScheduler(**tiny.LADDER, clip_sample=False, timestep_spacing="trailing")
        network = tiny.unet(**(LARGE if arguments.large else SMALL))
        theirs = tiny.stable_diffusion(Path(place), scheduler, unet=network).to(device, dtype)
        ours = load_latent_pipeline(Path(place)).to(device, dtype)
    size, texts = network.config.sample_size, ["a cat"] * arguments.batch_size
    x = torch.randn(arguments.batch_size, 4, size, size, device=device)
    assert ours.prompts is not None
    told, away = ours.prompts.embed(texts), ours.prompts.embed([""] * arguments.batch_size)
    model: Any = Guided(Given(ours.model, Condition(told)), Given(ours.model, Condition(away)), SCALE)
    solver = get_solver("ddim", grid=scheduler_times(ours, arguments.num_steps))
    options = {"guidance_scale": SCALE, "num_inference_steps": arguments.num_steps, "output_type": "latent"}
    embedded = {"prompt_embeds": told["caption"], "negative_prompt_embeds": away["caption"]}
    runs: dict[str, Callable[[], Any]] = {
        "theirs": lambda: theirs(latents=x.to(dtype), **embedded, **options),
        "ours": lambda: solver(model, x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory: dict[str, float] = {}
    for repeat in range(arguments.repeats + 1):
        for name, run in runs.items():
            taken, most = _measured(run, device)
            if repeat:
                seconds[name].append(taken / arguments.num_steps)
            memory[name] = most
    ratios = [mine / other for mine, other in zip(seconds["ours"], seconds["theirs"], strict=True)]
    print(f"{device}, {dtype}, {arguments.batch_size} latents of {size} x {size}, seconds a guided step:")
    for name, values in seconds.items():
        print(f"    {name:8s} {median(values):.4f}" + (f", {memory[name] / 2**30:.2f} GiB" if memory[name] else ""))
    print(f"    ratio    {median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def _measured(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Return seconds of a run, and the most memory that it took, bytes; 0 where it is not counted."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.no_grad():
        run()
    if device == "cpu":
        return time.perf_counter() - started, 0.0
    torch.cuda.synchronize()
    return time.perf_counter() - started, float(torch.cuda.max_memory_allocated())


if __name__ == "__main__":
    main()
