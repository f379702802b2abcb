"""Pipelines of diffusers with tiny networks of random weights, made and saved in the tests: none is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from tests.models.pretrained.test_diffusers import randomise

SIZE, FACTOR, WORDS, WIDTH = 8, 2, 12, 16
LADDER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [","]
_BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2}


def clip_tokenizer() -> Any:
    """Return a tokeniser for which every letter is a token."""
    names = _LETTERS + [f"{letter}</w>" for letter in _LETTERS] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=WORDS)


def clip_config(tokenizer: Any, width: int = WIDTH, **more: Any) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends: dict[str, Any] = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1, "pad_token_id": 0}
    places: dict[str, Any] = {"vocab_size": len(tokenizer), "max_position_embeddings": WORDS}
    return transformers.CLIPTextConfig(**sizes, **ends, **places, **more)


def unet(**changes: Any) -> Any:
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
    }
    network = randomise(diffusers.UNet2DConditionModel(**({"sample_size": SIZE} | _BLOCKS | kinds | changes)))
    with torch.no_grad():
        # A network of random weights makes much of its input: a smaller output keeps states of an ordinary size.
        network.conv_out.weight.mul_(0.3)
    return network


def autoencoder(**changes: Any) -> Any:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    settings = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, **kinds}
    return randomise(diffusers.AutoencoderKL(**(settings | changes)))


def stable_diffusion(folder: Path, scheduler: Any, **parts: Any) -> Any:
    """Save a pipeline in a folder; return it."""
    tokenizer = clip_tokenizer()
    made = {
        "vae": autoencoder(),
        "text_encoder": randomise(transformers.CLIPTextModel(clip_config(tokenizer))),
        "tokenizer": tokenizer,
        "unet": unet(),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
    }
    kind = parts.pop("kind", diffusers.StableDiffusionPipeline)
    pipeline = kind(**(made | parts), requires_safety_checker=False)
    return saved(pipeline, folder)


def saved(pipeline: Any, folder: Path) -> Any:
    """Save a pipeline, and return it as silent and as exact as it can be."""
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype=torch.float64)


def latents(count: int = 2, channels: int = 4, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, channels, size, size, generator=generator, dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def stable_diffusion_xl(folder: Path, scheduler: Any, **parts: Any) -> Any:
    """Save a pipeline with two encoders of texts, of different widths; return it."""
    tokenizer = clip_tokenizer()
    second = clip_config(tokenizer, 2 * WIDTH, projection_dim=WIDTH + 4)
    sized = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "cross_attention_dim": 3 * WIDTH}
    made = {
        "vae": autoencoder(),
        "text_encoder": randomise(transformers.CLIPTextModel(clip_config(tokenizer))),
        "tokenizer": tokenizer,
        "text_encoder_2": randomise(transformers.CLIPTextModelWithProjection(second), seed=1),
        "tokenizer_2": clip_tokenizer(),
        "unet": unet(projection_class_embeddings_input_dim=6 * 4 + WIDTH + 4, **sized),
        "scheduler": scheduler,
    }
    return saved(diffusers.StableDiffusionXLPipeline(**(made | parts)), folder)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in _LETTERS)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


def stable_diffusion_3(folder: Path, scheduler: Any, **parts: Any) -> Any:
    """Save a pipeline with three encoders of texts, or without some, given as None; return it."""
    projected = {"projection_dim": WIDTH}
    t5: dict[str, Any] = {"d_model": 2 * WIDTH + 4, "d_ff": 16, "d_kv": 4, "num_layers": 1, "num_heads": 2}
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    made: dict[str, Any] = {
        "vae": autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=1.5),
        "tokenizer": tokenizer,
        "tokenizer_2": clip_tokenizer(),
        "tokenizer_3": tokenizer_3,
        "transformer": mmdit(),
        "scheduler": scheduler,
    }
    for number, name in enumerate(("text_encoder", "text_encoder_2")):
        if name not in parts:
            config = clip_config(tokenizer, **projected)
            made[name] = randomise(transformers.CLIPTextModelWithProjection(config), seed=number)
    if "text_encoder_3" not in parts:
        made["text_encoder_3"] = randomise(
            transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(tokenizer_3), **t5)), seed=2
        )
    return saved(diffusers.StableDiffusion3Pipeline(**(made | parts)), folder)


def mmdit(**changes: Any) -> Any:
    settings = {
        "sample_size": SIZE,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 2 * WIDTH + 4,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 2 * WIDTH,
        "pos_embed_max_size": 6,
    }
    network = randomise(diffusers.SD3Transformer2DModel(**(settings | changes)))
    with torch.no_grad():
        # The library rounds times to float32, of which a network of random weights would make much.
        network.time_text_embed.timestep_embedder.linear_1.weight.mul_(0.1)
        network.proj_out.weight.mul_(0.3)
    return network


def controlnet() -> Any:
    settings = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "cross_attention_dim": WIDTH,
        "conditioning_embedding_out_channels": (4, 8),
    }
    return randomise(diffusers.ControlNetModel(**(_BLOCKS | settings)), seed=3)
