"""What a whole Stable Diffusion XL takes, of random weights: seconds and memory, all on a GPU or parts in main memory.

    python -m benchmarks.offload                    a small one
    python -m benchmarks.offload --large            one of the published sizes, pictures of 1024 pixels, for a GPU

One picture by guided steps of DDIM in latents: by our pipeline and by the library's, in float16 on a GPU
(float32 elsewhere), with all parts there, and with one part there at a time (`model.offload`; theirs by
`enable_model_cpu_offload`); and by ours in float32. Printed: seconds of the second picture, the most memory of the GPU
that is taken, and how far, in levels of 256, our pictures are from those with all parts there.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import score_sde
from benchmarks.pipelines import SIZES
from score_sde.experiment.pipeline_run import PipelineRun
from score_sde.models.pretrained.diffusers_library import library, quiet

PROMPT, AWAY, SCALE = "a red cube", "blurred", 5.0
_LETTERS = "abcdefghijklmnopqrstuvwxyz,"
# Widths, layers and heads of the encoders, small, and large as published.
_ENCODERS = {False: ((768, 2, 12), (1280, 2, 20)), True: ((768, 12, 12), (1280, 32, 20))}


def main() -> None:
    """Print a row of each way to draw a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--num-steps", type=int, default=4)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "float16" if device == "cuda" else "float32"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(folder, arguments.large, getattr(torch, precision))
        options: dict[str, Any] = {"negative_prompt": AWAY, "guidance": SCALE, "num_steps": arguments.num_steps}

        def ours(**settings: Any) -> Callable[[], np.ndarray]:
            run = score_sde.load(folder, settings={f"model.{key}": value for key, value in settings.items()})
            assert isinstance(run, PipelineRun)
            return lambda: run.sample(prompt=PROMPT, solver="ddim", **options)

        def theirs(offload: bool) -> Callable[[], np.ndarray]:
            diffusers: Any = library()
            with quiet():
                loaded = diffusers.StableDiffusionXLPipeline.from_pretrained(
                    folder, torch_dtype=getattr(torch, precision)
                )
                if offload:
                    loaded.enable_model_cpu_offload()
                else:
                    loaded.to(device)
            loaded.set_progress_bar_config(disable=True)
            asked = {"negative_prompt": AWAY, "guidance_scale": SCALE, "num_inference_steps": arguments.num_steps}
            return lambda: loaded(PROMPT, output_type="np", **asked).images

        ways: dict[str, Callable[[], Callable[[], np.ndarray]]] = {
            "ours": lambda: ours(precision=precision),
            "ours, parts in main memory": lambda: ours(precision=precision, offload=True),
            "ours, float32": lambda: ours(),
            "theirs": lambda: theirs(False),
        }
        if device == "cuda":
            ways["theirs, parts in main memory"] = lambda: theirs(True)
        print(f"{device}, {precision}, one picture, {arguments.num_steps} guided steps:\n")
        print("| | seconds | GB of the GPU | levels from ours |\n|---|---:|---:|---:|", flush=True)
        first: np.ndarray | None = None
        for name, make in ways.items():
            pictures, seconds, most = measured(make, device)
            first = pictures if first is None else first
            apart = "" if name.startswith("theirs") else f"{np.abs(pictures.astype(float) - first).mean():.3f}"
            print(f"| {name} | {seconds:.2f} | {most / 2**30:.2f} | {apart} |", flush=True)


def measured(make: Callable[[], Callable[[], np.ndarray]], device: str) -> tuple[np.ndarray, float, int]:
    """Return a picture, the seconds of the second one, and the most memory of the GPU until it was there."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    draw = make()
    draw()
    started = time.perf_counter()
    pictures = draw()
    seconds = time.perf_counter() - started
    return pictures, seconds, torch.cuda.max_memory_allocated() if device == "cuda" else 0


def save(folder: Path, large: bool, dtype: torch.dtype) -> None:
    """Save a pipeline of random weights, and of a tokeniser for which every letter is a token."""
    import transformers

    diffusers: Any = library()
    torch.manual_seed(0)
    names = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizers = [
        transformers.CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=77)
        for _ in range(2)
    ]
    ends: dict[str, Any] = {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1, "pad_token_id": 0}
    configs = [
        transformers.CLIPTextConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
            projection_dim=width, vocab_size=len(names), **ends,
        )
        for width, layers, heads in _ENCODERS[large]
    ]  # fmt: skip
    widths = (128, 256, 512, 512) if large else (32, 32)
    ladder: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        parts = {
            "vae": diffusers.AutoencoderKL(
                block_out_channels=widths,
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * len(widths),
                up_block_types=("UpDecoderBlock2D",) * len(widths),
                scaling_factor=0.13025,
                force_upcast=True,
            ),
            "text_encoder": transformers.CLIPTextModel(configs[0]),
            "text_encoder_2": transformers.CLIPTextModelWithProjection(configs[1]),
            "unet": diffusers.UNet2DConditionModel(**SIZES["Stable Diffusion XL"][large]),
        }
    scheduler = diffusers.DDIMScheduler(**ladder, clip_sample=False, timestep_spacing="trailing")
    with quiet():
        pipeline = diffusers.StableDiffusionXLPipeline(
            **parts, tokenizer=tokenizers[0], tokenizer_2=tokenizers[1], scheduler=scheduler
        )
        pipeline.to(dtype=dtype).save_pretrained(folder)


if __name__ == "__main__":
    main()
