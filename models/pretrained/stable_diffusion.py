"""Stable Diffusion, versions 1 and 2 (Rombach et al. 2022, arXiv:2112.10752): the library's network, told of prompts.

    caption       the tokens of a prompt, (N, L, width), to which positions attend; those of no words if it is hidden

The network remains a `UNet2DConditionModel`; process, label and output are those of its scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.pretrained.diffusers_parts import differentiable_attention

CAPTION = "caption"
UNET = "UNet2DConditionModel"
# Settings by which the network would be told of more than a time and tokens.
_NOT_TOLD = {
    "class_embed_type": "classes",
    "num_class_embeds": "classes",
    "addition_embed_type": "more than a prompt, as in Stable Diffusion XL",
    "encoder_hid_dim_type": "more than a prompt",
    "time_cond_proj_dim": "a scale of guidance, as in consistency models",
}


class Prompted(nn.Module):
    """A `UNet2DConditionModel` is called as networks are here, `network(x, noise_label, condition)`.

    Args:
        unet: the library's model.
        nothing: what is heard of no words, by name, one row each.

    Raises:
        UserError: the model is told of something that is not known here.
    """

    def __init__(self, unet: Any, nothing: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, what in _NOT_TOLD.items():
            if unet.config.get(name) is not None:
                raise UserError(f"this {UNET} has {name}={unet.config[name]!r}: it is told of {what}, not known here")
        if unet.config.out_channels != unet.config.in_channels:
            raise UserError(f"this {UNET} makes {unet.config.out_channels} channels of {unet.config.in_channels}")
        width = unet.config.cross_attention_dim
        widths = {width} if isinstance(width, int) else set(width)
        if widths != {nothing[CAPTION].shape[-1]}:
            raise UserError(
                f"this {UNET} hears tokens of {width} numbers, and its encoder makes {nothing[CAPTION].shape[-1]}"
            )
        self.unet = unet
        self.nothing = Nothing(nothing)
        differentiable_attention(unet, fused=True)

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the output, shape of `x` `(B, C, h, w)`."""
        tokens = self.nothing.said(condition, len(x))[CAPTION].to(x)
        return self.unet(x, noise_label, encoder_hidden_states=tokens).sample


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
            hidden = condition.hidden_rows.get(name)
            if hidden is not None:
                value = torch.where(hidden.reshape(-1, *(1,) * (value.ndim - 1)), nothing.to(value), value)
            heard[name] = value
        return heard
