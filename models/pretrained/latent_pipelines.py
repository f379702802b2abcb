"""Whole pipelines of the library diffusers, from a folder: a model of latents, its autoencoder and its text encoders.

    StableDiffusionPipeline       `models.pretrained.stable_diffusion`; and so of …Img2Img, …Inpaint, …Depth2Img and
                                  …ControlNet
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
from collections.abc import Callable, Mapping, Sequence
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
from score_sde.models.pretrained.diffusers_lora import TEXT, add_low_rank_changes
from score_sde.models.pretrained.diffusers_lora import UNET as LORA_UNET
from score_sde.models.pretrained.diffusers_mmdit import CLASS as MMDIT
from score_sde.models.pretrained.diffusers_mmdit import read_mmdit
from score_sde.models.pretrained.diffusers_parts import UNET as PLAIN_UNET
from score_sde.models.pretrained.diffusers_parts import read_network, read_scheduler
from score_sde.models.pretrained.diffusers_schedulers import meaning
from score_sde.models.pretrained.diffusers_text import TextEncoder, read_text_encoder, read_tokenizer
from score_sde.models.pretrained.dit import Means
from score_sde.models.pretrained.stable_diffusion import CAPTION, UNET, Nothing, Prompted, check_unet
from score_sde.models.pretrained.stable_diffusion_3 import ENCODERS, AlwaysTold, ThreeTexts
from score_sde.models.score_model import ScoreModel
from score_sde.sde import DDPMLadder

CONTROLNET = "ControlNetModel"
# Of a folder's parts, these do nothing to latents.
_NOT_READ = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(frozen=True)
class LatentPipeline:
    """A pipeline is a model of latents, and what stands between these, pictures and words.

    Attributes:
        model: the model of latents, in evaluation mode; its weights are float32 at first.
        autoencoder: makes latents of pictures, and pictures of latents.
        shape: the shape of latents that the pipeline has by itself, `(C, h, w)`.
        texts: the encoders of prompts, none if there are no prompts.
        prompts: what the model is told of prompts; None if it is told none.
        scheduler: the library's scheduler, which says the process and steps of its own.
        patch: how many latents a patch of the network is wide.
        multiple: what the sides of latents must be multiples of.
        num_classes: the number of classes that the model is told of.
        beside: the channels of what else it is always told, by name (`models.pretrained.stable_diffusion`).
    """

    model: ScoreModel
    autoencoder: PictureAutoencoder
    shape: tuple[int, int, int]
    texts: nn.ModuleList
    prompts: Prompts | None
    scheduler: Any
    patch: int = 1
    multiple: int = 1
    num_classes: int = 0
    beside: Mapping[str, int] = field(default_factory=dict)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LatentPipeline:
        """Bring all parts to a device, and their weights to a dtype; return the pipeline."""
        for part in (self.model, self.autoencoder, self.texts):
            part.to(device=device, dtype=dtype)
        return self

    def add_low_rank_changes(self, path: Path, scale: float) -> None:
        """Add the low-rank changes of a file to the weights, for good.

        Raises:
            UserError: the file is of another pipeline, or this is no Stable Diffusion of versions 1 and 2.
        """
        network = self.model.network
        if not isinstance(network, Prompted) or self.prompts is None:
            raise UserError("low-rank changes are read for Stable Diffusion 1 and 2 alone, not for this pipeline")
        changed: Any = {LORA_UNET: network.unet, TEXT: self.texts[0].encoder}
        add_low_rank_changes(changed, path, scale)
        # The encoder may hear no words otherwise now.
        network.nothing = Nothing(self.prompts.embed([""]))


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
    known = {
        "vae": ("diffusers", (KL,)),
        "text_encoder": ("transformers", ("CLIPTextModel",)),
        "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
        "unet": ("diffusers", (UNET,)),
        **({"controlnet": ("diffusers", (CONTROLNET,))} if "controlnet" in parts else {}),
    }
    _check_parts(folder, parts, known, passed_over=["depth_estimator"])
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vae", diffusers, KL)
    encoder = read_text_encoder(folder, "text_encoder", "CLIPTextModel")
    tokenizer = read_tokenizer(folder, "tokenizer", "CLIPTokenizer")
    text = TextEncoder(tokenizer, encoder, _length(tokenizer, encoder))
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
    texts = nn.ModuleList([text])
    return LatentPipeline(model, autoencoder, shape, texts, prompts, scheduler, beside=network.beside)


def _stable_diffusion_3(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    encoders = {name: parts.get(name) for name in ENCODERS if any(parts.get(name) or [])}
    known: dict[str, tuple[str, tuple[str, ...]]] = {
        "vae": ("diffusers", (KL,)),
        "transformer": ("diffusers", (MMDIT,)),
        **{name: ("transformers", (ENCODERS[name].encoder,)) for name in encoders},
        **{ENCODERS[name].tokenizer: ("transformers", ENCODERS[name].tokenizers) for name in encoders},
    }
    _check_parts(folder, parts, known, passed_over=[kind.tokenizer for kind in ENCODERS.values()])
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vae", diffusers, KL)
    network, settings = read_mmdit(folder / "transformer")
    texts = ThreeTexts(
        {name: _text_of(folder, name) for name in encoders},
        settings["joint_attention_dim"],
        settings["pooled_projection_dim"],
    )
    prompts = Prompts(texts, texts.told_shape, texts.complaints)
    model = _model(AlwaysTold(network, prompts.embed([""])), scheduler)
    shape = _shape(settings["sample_size"], autoencoder, settings["in_channels"], "transformer")
    patch = settings["patch_size"]
    return LatentPipeline(model, autoencoder, shape, nn.ModuleList([texts]), prompts, scheduler, patch, multiple=patch)


def _text_of(folder: Path, name: str) -> TextEncoder:
    """Read one of the three encoders of texts, of a name."""
    kind = ENCODERS[name]
    tokenizer = read_tokenizer(folder, kind.tokenizer, kind.tokenizers[0])
    encoder = read_text_encoder(folder, name, kind.encoder)
    return TextEncoder(tokenizer, encoder, kind.length or _length(tokenizer, encoder), kind.layer)


def _latent_diffusion(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    known = {"vqvae": ("diffusers", (VQ, KL)), "unet": ("diffusers", (PLAIN_UNET,))}
    _check_parts(folder, parts, known)
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    autoencoder = _autoencoder(folder, "vqvae", diffusers, parts["vqvae"][1])
    unet = read_network(folder, folder / "unet", diffusers, PLAIN_UNET, safetensors_only=True)
    with quiet():
        network = UNet(unet, -1.0)
    shape = _shape(unet.config.sample_size, autoencoder, unet.config.in_channels, "unet")
    # It has no places for what is left of an odd number, unlike networks that are told prompts.
    multiple = 2 ** sum(block.downsamplers is not None for block in unet.down_blocks)
    model = _model(network, scheduler)
    return LatentPipeline(model, autoencoder, shape, nn.ModuleList(), None, scheduler, multiple=multiple)


def _dit(folder: Path, parts: dict[str, Any], diffusers: ModuleType) -> LatentPipeline:
    known = {"vae": ("diffusers", (KL,)), "transformer": ("diffusers", CLASSES)}
    _check_parts(folder, parts, known)
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json", parts, diffusers)
    # Published ones are of the time before .safetensors; what is not data is refused all the same.
    autoencoder = _autoencoder(folder, "vae", diffusers, KL, safetensors_only=False)
    network = read_transformer(folder / "transformer")
    count = network.conditions["class"]
    assert isinstance(count, int)
    model = _model(Means(network), scheduler)
    shape = _shape(network.size, autoencoder, network.in_channels, "transformer")
    return LatentPipeline(
        model, autoencoder, shape, nn.ModuleList(), None, scheduler, network.patch_size, num_classes=count
    )


# What a part is of: the library, and the classes of it that are known.
Known = Mapping[str, tuple[str, tuple[str, ...]]]


def _check_parts(folder: Path, parts: Mapping[str, Any], known: Known, passed_over: Sequence[str] = ()) -> None:
    """See that `model_index.json` names parts of the classes that are known, and no others."""
    kind = parts["_class_name"]
    for name, (origin, classes) in known.items():
        entry = parts.get(name)
        if not isinstance(entry, list) or entry not in [[origin, each] for each in classes]:
            of = ".".join(map(str, entry)) if isinstance(entry, list) else "not there"
            raise UserError(f"{folder} is a {kind} whose {name} is {of}, and known is {' or '.join(classes)}")
    for name, entry in parts.items():
        is_part = not name.startswith("_") and isinstance(entry, list) and any(item is not None for item in entry)
        if is_part and name not in (*known, *_NOT_READ, *passed_over, "scheduler"):
            raise UserError(f"{folder} is a {kind} with a part {name}, which is not known here")


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


def _length(tokenizer: Any, encoder: Any) -> int:
    """Return how many tokens a text has, at most as many as its encoder has places for."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def _told_shape(text: TextEncoder) -> tuple[int, int]:
    encoder: Any = text.encoder
    return text.length, int(encoder.config.hidden_size)


_READERS: dict[str, Callable[[Path, dict[str, Any], ModuleType], LatentPipeline]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionImg2ImgPipeline": _stable_diffusion,
    "StableDiffusionInpaintPipeline": _stable_diffusion,
    "StableDiffusionDepth2ImgPipeline": _stable_diffusion,
    "StableDiffusionControlNetPipeline": _stable_diffusion,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "LDMPipeline": _latent_diffusion,
    "DiTPipeline": _dit,
}
