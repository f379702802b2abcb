"""Whole pipelines of the library diffusers, from a folder: a model of latents, its autoencoder and its text encoders.

    StableDiffusionPipeline       `models.pretrained.stable_diffusion`; and so of …Img2Img, …Inpaint, …Depth2Img and
                                  …ControlNet
    StableDiffusionXLPipeline     the same network, and `models.pretrained.stable_diffusion_xl`; and so of …Img2Img
    StableDiffusion3Pipeline      `models.pretrained.stable_diffusion_3`
    LDMPipeline                   a `UNet2DModel` of latents, told of nothing
    DiTPipeline                   `models.pretrained.diffusers_dit`, told of classes

All is read from the folder, weights from `.safetensors` alone. Parts that look at pictures afterwards, such as a safety
checker, are not read.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.data.prompts import Prompts
from score_sde.models.pretrained.diffusers import UNet
from score_sde.models.pretrained.diffusers_autoencoder import KL, VQ, PictureAutoencoder
from score_sde.models.pretrained.diffusers_dit import CLASSES, read_transformer
from score_sde.models.pretrained.diffusers_files import read_json
from score_sde.models.pretrained.diffusers_flow import FLOWS, flow_times
from score_sde.models.pretrained.diffusers_library import library, quiet
from score_sde.models.pretrained.diffusers_lora import TRANSFORMER, add_low_rank_changes
from score_sde.models.pretrained.diffusers_lora import UNET as LORA_UNET
from score_sde.models.pretrained.diffusers_mmdit import CLASS as MMDIT
from score_sde.models.pretrained.diffusers_mmdit import read_mmdit
from score_sde.models.pretrained.diffusers_parts import UNET as PLAIN_UNET
from score_sde.models.pretrained.diffusers_parts import check_parts, read_network, read_scheduler
from score_sde.models.pretrained.diffusers_schedulers import meaning
from score_sde.models.pretrained.diffusers_text import FIRST, Encoder, TextEncoder, known_texts, read_encoder
from score_sde.models.pretrained.dit import Means
from score_sde.models.pretrained.offload import OneAtATime
from score_sde.models.pretrained.stable_diffusion import (
    CAPTION,
    UNET,
    Nothing,
    Prompted,
    check_unet,
    heard_of_nothing,
)
from score_sde.models.pretrained.stable_diffusion_3 import ENCODERS, AlwaysTold, ThreeTexts
from score_sde.models.pretrained.stable_diffusion_xl import ENCODERS_XL, TwoTexts
from score_sde.models.score_model import ScoreModel
from score_sde.sde import DDPMLadder

CONTROLNET = "ControlNetModel"


@dataclass(frozen=True)
class LatentPipeline:
    """A pipeline is a model of latents, and what stands between these, pictures and words.

    Attributes:
        model: the model of latents, in evaluation mode; its weights are float32 at first.
        autoencoder: makes latents of pictures, and pictures of latents.
        shape: the shape of latents that the pipeline has by itself, `(C, h, w)`.
        texts: the encoders of prompts, by the names of parts; none if there are no prompts.
        prompts: what the model is told of prompts; None if it is told none.
        scheduler: the library's scheduler, which says the process and steps of its own.
        patch: how many latents a patch of the network is wide.
        multiple: what the sides of latents must be multiples of.
        num_classes: the number of classes that the model is told of.
        beside: the channels of what else it is always told, by name (`models.pretrained.stable_diffusion`).
        sized: whether the model is told of sizes.
        zeros: whether the model hears zeros where there are no words, and not what the encoders make of none.
    """

    model: ScoreModel
    autoencoder: PictureAutoencoder
    shape: tuple[int, int, int]
    texts: nn.ModuleDict
    prompts: Prompts | None
    scheduler: Any
    patch: int = 1
    multiple: int = 1
    num_classes: int = 0
    beside: Mapping[str, int] = field(default_factory=dict)
    sized: bool = False
    zeros: bool = False

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LatentPipeline:
        """Bring all parts to a device, and their weights to a dtype; return the pipeline."""
        for part in (self.model, self.texts):
            part.to(device=device, dtype=dtype)
        # Some, as those of XL, have numbers that float16 does not.
        too_small = dtype is torch.float16 and self.autoencoder.network.config.get("force_upcast", False)
        self.autoencoder.to(device=device, dtype=torch.float32 if too_small else dtype)
        return self

    def offload(self, device: torch.device) -> None:
        """Leave all parts in main memory, from here on, but for the one in use, which is brought to the device."""
        parts = OneAtATime(device)
        for part in (*self.texts.values(), self.model.network):
            parts.add(part)
        parts.add(self.autoencoder, ("posterior", "decode"))

    def add_low_rank_changes(self, path: Path, scale: float) -> None:
        """Add the low-rank changes of a file to the weights, for good.

        Raises:
            UserError: the file is of another pipeline, or this is no Stable Diffusion.
        """
        network = self.model.network
        if not isinstance(network, Prompted | AlwaysTold) or self.prompts is None:
            raise UserError("low-rank changes are read for Stable Diffusion alone, not for this pipeline")
        denoiser = {LORA_UNET: network.unet} if isinstance(network, Prompted) else {TRANSFORMER: network.network}
        texts: Any = self.texts.items()
        add_low_rank_changes(denoiser | {name: text.encoder for name, text in texts}, path, scale)
        # The encoder may hear no words otherwise now.
        network.nothing = Nothing(heard_of_nothing(self.prompts, self.zeros))


def scheduler_times(pipeline: LatentPipeline, num_steps: int) -> Tensor:
    """Return the times at which the pipeline's own scheduler asks its network, as solvers take them for a grid.

    They may begin before `T`, with `timestep_spacing="leading"`; then solvers start there by `control.latents.Until`.
    """
    scheduler = copy.deepcopy(pipeline.scheduler)
    if type(scheduler).__name__ in FLOWS:
        patches = math.prod(pipeline.shape[1:]) // pipeline.patch**2
        return flow_times(scheduler.config, num_steps, patches)
    scheduler.set_timesteps(num_steps)
    sde = pipeline.model.sde
    assert isinstance(sde, DDPMLadder)
    return sde.time(torch.unique(torch.as_tensor(scheduler.timesteps, dtype=torch.float64)).flip(0))


def is_latent_pipeline(folder: Path) -> bool:
    """Return whether a folder has a pipeline that is read here."""
    try:
        parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(parts, dict) or parts.get("_class_name") not in _READERS:
        return False
    # A DiT without its autoencoder is a model of latents all the same, which `models.pretrained.diffusers` reads.
    return parts["_class_name"] != "DiTPipeline" or (folder / "vae").is_dir()


def load_latent_pipeline(folder: Path) -> LatentPipeline:
    """Read a pipeline from a folder.

    Raises:
        UserError: a part is missing, damaged, a pickle, or of another class than is known here.
    """
    diffusers = library()
    parts = read_json(folder / "model_index.json")
    try:
        return _READERS[parts["_class_name"]](folder, parts, diffusers)
    except UserError as error:
        if str(error).startswith((str(folder), f"there is no {folder}", "cannot read")):
            raise
        raise UserError(f"cannot read the pipeline {folder}: {error}") from error


def _stable_diffusion(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    encoders = {FIRST: Encoder("CLIPTextModel", "tokenizer")}
    known = {
        "vae": ("diffusers", (KL,)),
        "unet": ("diffusers", (UNET,)),
        **known_texts(encoders),
        **({"controlnet": ("diffusers", (CONTROLNET,))} if "controlnet" in parts else {}),
    }
    check_parts(folder, parts, known, passed_over=["depth_estimator"])
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vae", diffusers, KL)
    text = read_encoder(folder, FIRST, encoders[FIRST])
    prompts = Prompts(lambda texts: {CAPTION: text(texts)[0]}, _told_shape(text), text.complaints)
    check_unet(read_json(folder / "unet" / "config.json"))
    unet = read_network(folder, folder / "unet", diffusers, UNET, safetensors_only=True)
    controlnet = None
    if "controlnet" in parts:
        controlnet = read_network(folder, folder / "controlnet", diffusers, CONTROLNET, safetensors_only=True)
    with quiet():
        network = Prompted(unet, prompts.embed([""]), controlnet)
    model = _model(network, scheduler)
    shape = _shape(unet.config.get("sample_size"), autoencoder, unet.config.out_channels, "unet")
    texts = nn.ModuleDict({FIRST: text})
    return LatentPipeline(model, autoencoder, shape, texts, prompts, scheduler, beside=network.beside)


def _stable_diffusion_xl(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    known = {"vae": ("diffusers", (KL,)), "unet": ("diffusers", (UNET,)), **known_texts(ENCODERS_XL)}
    check_parts(folder, parts, known)
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vae", diffusers, KL)
    if autoencoder.network.config.get("latents_mean") is not None:
        raise UserError(f"{folder / 'vae'} has latents_mean: latents are of other units then, not known here")
    texts = TwoTexts({name: read_encoder(folder, name, kind) for name, kind in ENCODERS_XL.items()})
    prompts = Prompts(texts, texts.told_shape, texts.complaints)
    check_unet(read_json(folder / "unet" / "config.json"), sized=True)
    unet = read_network(folder, folder / "unet", diffusers, UNET, safetensors_only=True)
    zeros = bool(parts.get("force_zeros_for_empty_prompt", True))
    with quiet():
        network = Prompted(unet, heard_of_nothing(prompts, zeros), factor=autoencoder.factor)
    shape = _shape(unet.config.get("sample_size"), autoencoder, unet.config.out_channels, "unet")
    return LatentPipeline(
        _model(network, scheduler),
        autoencoder,
        shape,
        texts.encoders,
        prompts,
        scheduler,
        beside=network.beside,
        sized=True,
        zeros=zeros,
    )


def _stable_diffusion_3(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    encoders = {name: parts.get(name) for name in ENCODERS if any(parts.get(name) or [])}
    known: dict[str, tuple[str, tuple[str, ...]]] = {
        "vae": ("diffusers", (KL,)),
        "transformer": ("diffusers", (MMDIT,)),
        **known_texts({name: ENCODERS[name] for name in encoders}),
    }
    check_parts(folder, parts, known, passed_over=[kind.tokenizer for kind in ENCODERS.values()])
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vae", diffusers, KL)
    network, settings = read_mmdit(folder / "transformer")
    texts = ThreeTexts(
        {name: read_encoder(folder, name, ENCODERS[name]) for name in encoders},
        settings["joint_attention_dim"],
        settings["pooled_projection_dim"],
    )
    prompts = Prompts(texts, texts.told_shape, texts.complaints)
    model = _model(AlwaysTold(network, prompts.embed([""])), scheduler)
    shape = _shape(settings["sample_size"], autoencoder, settings["in_channels"], "transformer")
    patch = settings["patch_size"]
    return LatentPipeline(model, autoencoder, shape, texts.encoders, prompts, scheduler, patch, multiple=patch)


def _latent_diffusion(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    known = {"vqvae": ("diffusers", (VQ, KL)), "unet": ("diffusers", (PLAIN_UNET,))}
    check_parts(folder, parts, known)
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vqvae", diffusers, parts["vqvae"][1])
    unet = read_network(folder, folder / "unet", diffusers, PLAIN_UNET, safetensors_only=True)
    with quiet():
        network = UNet(unet, -1.0)
    shape = _shape(unet.config.sample_size, autoencoder, unet.config.in_channels, "unet")
    # It has no places for what is left of an odd number, unlike networks that are told prompts.
    multiple = 2 ** sum(block.downsamplers is not None for block in unet.down_blocks)
    model = _model(network, scheduler)
    return LatentPipeline(model, autoencoder, shape, nn.ModuleDict(), None, scheduler, multiple=multiple)


def _dit(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    known = {"vae": ("diffusers", (KL,)), "transformer": ("diffusers", CLASSES)}
    check_parts(folder, parts, known)
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    # Published ones are of the time before .safetensors; what is not data is refused all the same.
    autoencoder = _autoencoder(folder, "vae", diffusers, KL, safetensors_only=False)
    network = read_transformer(folder / "transformer")
    count = network.conditions["class"]
    assert isinstance(count, int)
    model = _model(Means(network), scheduler)
    shape = _shape(network.size, autoencoder, network.in_channels, "transformer")
    return LatentPipeline(
        model, autoencoder, shape, nn.ModuleDict(), None, scheduler, network.patch_size, num_classes=count
    )


def _autoencoder(
    folder: Path, name: str, diffusers: ModuleType, kind: str, safetensors_only: bool = True
) -> PictureAutoencoder:
    network = read_network(folder, folder / name, diffusers, kind, safetensors_only)
    return PictureAutoencoder(network.eval().requires_grad_(False))


def _model(network: nn.Module, scheduler: Any) -> ScoreModel:
    """Make the model of latents that a scheduler says."""
    sde, prediction, noise_label, _ = meaning(scheduler)
    return ScoreModel(network, sde, prediction, noise_label, scale_input=False).eval().requires_grad_(False)


def _shape(size: Any, autoencoder: PictureAutoencoder, channels: int, name: str) -> tuple[int, int, int]:
    """Return the shape of latents that a network is made for."""
    if channels != autoencoder.channels:
        raise UserError(f"the {name} is of {channels} channels, and the autoencoder of {autoencoder.channels}")
    if size is None:
        raise UserError(f"the {name} does not say how large its latents are: give its config a sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def _told_shape(text: TextEncoder) -> tuple[int, int]:
    encoder: Any = text.encoder
    return text.length, int(encoder.config.hidden_size)


_READERS: dict[str, Callable[[Path, dict[str, Any], ModuleType], LatentPipeline]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionImg2ImgPipeline": _stable_diffusion,
    "StableDiffusionInpaintPipeline": _stable_diffusion,
    "StableDiffusionDepth2ImgPipeline": _stable_diffusion,
    "StableDiffusionControlNetPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusionXLImg2ImgPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "LDMPipeline": _latent_diffusion,
    "DiTPipeline": _dit,
}
