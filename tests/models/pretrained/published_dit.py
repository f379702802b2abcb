"""State dicts of the published DiT and SiT code, by names and shapes, with weights drawn here, and their input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.models.layers.patches import places

# Patches of every published size, with and without variances, hidden classes, and heads of 64 (S, B, L) and 72 (XL).
CASES: dict[str, dict[str, int]] = {
    "DiT 2": {"patch": 2, "width": 128, "heads": 2, "learn_sigma": 1, "class_dropout": 1},
    "DiT 4": {"patch": 4, "width": 144, "heads": 2, "learn_sigma": 0, "class_dropout": 1},
    "DiT 8": {"patch": 8, "width": 128, "heads": 2, "learn_sigma": 1, "class_dropout": 0},
    "SiT 2": {"patch": 2, "width": 144, "heads": 2, "learn_sigma": 1, "class_dropout": 1},
}
SIZE, CHANNELS, CLASSES, DEPTH = 16, 4, 10, 2


def published(patch: int, width: int, learn_sigma: int, class_dropout: int, **_: int) -> dict[str, Tensor]:
    """Return a state dict of such a network, of ordinary size, none of it zero."""
    generator = torch.Generator().manual_seed(0)
    weights = {"pos_embed": places((SIZE // patch,) * 2, width).float()[None]}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan_in**0.5
        if bias:
            weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    add("x_embedder.proj", width, CHANNELS, patch, patch)
    add("t_embedder.mlp.0", width, 256)
    add("t_embedder.mlp.2", width, width)
    add("y_embedder.embedding_table", CLASSES + class_dropout, width, bias=False)
    for index in range(DEPTH):
        add(f"blocks.{index}.attn.qkv", 3 * width, width)
        add(f"blocks.{index}.attn.proj", width, width)
        add(f"blocks.{index}.mlp.fc1", 4 * width, width)
        add(f"blocks.{index}.mlp.fc2", width, 4 * width)
        add(f"blocks.{index}.adaLN_modulation.1", 6 * width, width)
    add("final_layer.linear", patch * patch * CHANNELS * (1 + learn_sigma), width)
    add("final_layer.adaLN_modulation.1", 2 * width, width)
    return weights


def asked(sit: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return states, labels and classes; SiT's labels are times from 0, noise, to 1."""
    x = torch.randn(3, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0.0, 1 / 3, 0.975]) if sit else torch.tensor([0.0, 333.25, 999.0])
    return x, labels, torch.tensor([0, 7, 9])


def network(weights: dict[str, Tensor], heads: int, x: Tensor, label: Tensor, classes: Tensor) -> Tensor:
    """Return what the published network makes of states, labels and classes, written as one function of its weights."""

    def affine(name: str, h: Tensor) -> Tensor:
        return F.linear(h, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def normed(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    patches = weights["x_embedder.proj.weight"]
    h = F.conv2d(x, patches, weights["x_embedder.proj.bias"], stride=patches.shape[-1]).flatten(2).mT
    h = h + weights["pos_embed"]
    angles = label[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=x.dtype) / 128)
    told = affine("t_embedder.mlp.2", F.silu(affine("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))
    told = F.silu(told + weights["y_embedder.embedding_table.weight"][classes])
    for index in range(sum(name.endswith("attn.qkv.weight") for name in weights)):
        block = f"blocks.{index}"
        shift, scale, gate, shift_2, scale_2, gate_2 = affine(f"{block}.adaLN_modulation.1", told).chunk(6, 1)
        queries = affine(f"{block}.attn.qkv", normed(h, shift, scale)).unflatten(-1, (3, heads, -1))
        heard = F.scaled_dot_product_attention(*queries.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        h = h + gate[:, None] * affine(f"{block}.attn.proj", heard)
        hidden = F.gelu(affine(f"{block}.mlp.fc1", normed(h, shift_2, scale_2)), approximate="tanh")
        h = h + gate_2[:, None] * affine(f"{block}.mlp.fc2", hidden)
    h = affine("final_layer.linear", normed(h, *affine("final_layer.adaLN_modulation.1", told).chunk(2, 1)))
    side, patch = x.shape[-1] // patches.shape[-1], patches.shape[-1]
    h = h.reshape(len(x), side, side, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", h).reshape(len(x), -1, side * patch, side * patch)
