"""Stable Diffusion 1, 2 (Rombach et al. 2022, arXiv:2112.10752) and XL: the library's network, told of prompts.

    caption       the tokens of a prompt, (N, L, width), to which positions attend; those of no words if it is hidden
    masked        of networks that fill in pictures, a mask and the latents of the rest, (N, 5, h, w), laid beside x
    depth         of networks that are told depths, (N, 1, h, w), laid beside x
    control       with a ControlNet, a picture in [0, 1], (N, 3, H, W) (Zhang et al. 2023, arXiv:2302.05543)

Of XL (Podell et al. 2023, arXiv:2307.01952), beside the tokens,

    caption_whole the prompt as a whole, (N, width)
    sizes         height and width of a picture, top and left of what was cut out of it, and height and width of that,
                  in pixels, (N, 6); where it is not told, those of the picture that x stands for, uncut

The network remains a `UNet2DConditionModel`; process, label and output are those of its scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data.prompts import Prompts
from score_sde.models.layers.text import whole
from score_sde.models.pretrained.diffusers_parts import differentiable_attention

CAPTION = "caption"
UNET = "UNet2DConditionModel"
_ADDED = "addition_embed_type"
# Settings by which the network would be told of more than a time and tokens.
_NOT_TOLD = {
    "class_embed_type": "classes",
    "num_class_embeds": "classes",
    _ADDED: "more than a prompt, as in Stable Diffusion XL",
    "encoder_hid_dim_type": "more than a prompt",
    "time_cond_proj_dim": "a scale of guidance, as in consistency models",
}


# What is laid beside the state, by the number of its channels.
MASKED, DEPTH, CONTROL = "masked", "depth", "control"
_LAID = {5: MASKED, 1: DEPTH}
_CHANNELS = 4
# What XL's network is told of sizes.
SIZES = "sizes"
_NUM_SIZES = 6


def check_unet(settings: Mapping[str, Any], sized: bool = False) -> None:
    """See that the settings of a `UNet2DConditionModel` are of one that is told of what is known here alone.

    Args:
        settings: the settings.
        sized: whether it is told of sizes and of prompts as a whole, as of XL.

    Raises:
        UserError: it is told of something else.
    """
    if sized and settings.get(_ADDED) != "text_time":
        raise UserError(f"this {UNET} has {_ADDED}={settings.get(_ADDED)!r}, and Stable Diffusion XL's 'text_time'")
    for name, what in _NOT_TOLD.items():
        if sized and name == _ADDED:
            continue
        if settings.get(name) is not None:
            raise UserError(f"this {UNET} has {name}={settings[name]!r}: it is told of {what}, not known here")
    channels, made = settings.get("in_channels", _CHANNELS), settings.get("out_channels", _CHANNELS)
    if channels != made and channels - made not in _LAID:
        raise UserError(f"this {UNET} makes {made} channels of {channels}")


class Prompted(nn.Module):
    """A `UNet2DConditionModel` is called as networks are here, `network(x, noise_label, condition)`.

    Args:
        unet: the library's model.
        nothing: what is heard of no words, by name, one row each.
        controlnet: the library's `ControlNetModel`, which is told of a picture and changes features; none if left out.
        factor: of a model that is told of sizes, how many pixels a latent is wide; None of others.

    Attributes:
        beside: the number of channels of what the model is always told besides, by name.

    Raises:
        UserError: the model is told of something that is not known here.
    """

    def __init__(
        self, unet: Any, nothing: Mapping[str, Tensor], controlnet: Any = None, factor: int | None = None
    ) -> None:
        super().__init__()
        more = unet.config.in_channels - unet.config.out_channels
        self.laid = _LAID.get(more)
        self.beside = {} if self.laid is None else {self.laid: more}
        if controlnet is not None:
            self.beside[CONTROL] = controlnet.config.conditioning_channels
        width = unet.config.cross_attention_dim
        widths = {width} if isinstance(width, int) else set(width)
        if widths != {nothing[CAPTION].shape[-1]}:
            raise UserError(
                f"this {UNET} hears tokens of {width} numbers, and its encoder makes {nothing[CAPTION].shape[-1]}"
            )
        if factor is not None:
            wanted = unet.config.projection_class_embeddings_input_dim
            there = _NUM_SIZES * unet.config.addition_time_embed_dim + nothing[whole(CAPTION)].shape[-1]
            if wanted != there:
                raise UserError(
                    f"this {UNET} is told {wanted} numbers of sizes and the whole prompt, and not {there}: that of "
                    "Stable Diffusion XL's refiner is told how pretty pictures are to be, which is not known here"
                )
        self.unet, self.controlnet, self.factor = unet, controlnet, factor
        self.nothing = Nothing(nothing)
        for network in (unet, controlnet):
            if network is not None:
                differentiable_attention(network, fused=True)

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the output, shape of `x` `(B, C, h, w)`."""
        heard = self.nothing.said(condition, len(x))
        tokens = heard[CAPTION].to(x)
        beside = {name: self._beside(name, condition, x) for name in self.beside}
        changes: dict[str, Any] = {}
        if self.controlnet is not None:
            down, middle = self.controlnet(
                x, noise_label, encoder_hidden_states=tokens, controlnet_cond=beside[CONTROL], return_dict=False
            )
            changes = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        if self.factor is not None:
            sizes = self._sizes(condition, x, self.factor)
            changes["added_cond_kwargs"] = {"text_embeds": heard[whole(CAPTION)].to(x), "time_ids": sizes}
        if self.laid is not None:
            x = torch.cat([x, beside[self.laid]], dim=1)
        return self.unet(x, noise_label, encoder_hidden_states=tokens, **changes).sample

    def _sizes(self, condition: Condition | None, x: Tensor, factor: int) -> Tensor:
        """Return sizes that are told, or those of pictures that are as large as `x` says, `(B, 6)`."""
        height, width = (side * factor for side in x.shape[2:])
        # Not of the dtype of `x`: half precision has not all numbers of pixels.
        own = torch.tensor([height, width, 0.0, 0, height, width], device=x.device).expand(len(x), -1)
        if condition is None or SIZES not in condition.values:
            return own
        told, hidden = condition.values[SIZES].to(own), condition.hidden_rows.get(SIZES)
        return told if hidden is None else torch.where(hidden[:, None], own, told)

    def _beside(self, name: str, condition: Condition | None, x: Tensor) -> Tensor:
        """Return what is told of a name, which must be there."""
        value = None if condition is None else condition.values.get(name)
        if condition is None or value is None or value.shape[1] != self.beside[name] or name in condition.hidden_rows:
            raise UserError(f"this network is always told of {name!r} besides: give it from Python")
        return value.to(x)


def heard_of_nothing(prompts: Prompts, as_zeros: bool) -> dict[str, Tensor]:
    """Return what is heard of no words, by name, one row each: what encoders make of them, or zeros."""
    heard = prompts.embed([""])
    return {name: torch.zeros_like(value) if as_zeros else value for name, value in heard.items()}


class Nothing(nn.Module):
    """What is heard of no words stands for prompts that are hidden, or not there.

    Args:
        nothing: what is heard, by name, one row each.
    """

    def __init__(self, nothing: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in nothing.items():
            self.register_buffer(name, value, persistent=False)
        self._names = list(nothing)

    def said(self, condition: Condition | None, count: int) -> dict[str, Tensor]:
        """Return what is heard by each of so many examples, by name.

        Raises:
            UserError: the condition is one of another number of examples, or of something that is not known.
        """
        if condition is not None and len(condition) != count:
            raise UserError(f"the condition is one of {len(condition)} examples, not of {count} as the states")
        heard = {}
        for name in self._names:
            nothing = self.get_buffer(name)
            value = None if condition is None else condition.values.get(name)
            if value is None:
                heard[name] = nothing.expand(count, *nothing.shape[1:])
                continue
            if value.shape[1:] != nothing.shape[1:]:
                wanted, here = tuple(nothing.shape[1:]), tuple(value.shape[1:])
                raise UserError(f"{name!r} must be {wanted} numbers for each example, not {here}")
            hidden = condition.hidden_rows.get(name) if condition else None
            if hidden is not None:
                value = torch.where(hidden.reshape(-1, *(1,) * (value.ndim - 1)), nothing.to(value), value)
            heard[name] = value
        return heard
