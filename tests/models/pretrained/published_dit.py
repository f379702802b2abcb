"""State dicts of the published DiT and SiT code, by names and shapes, with weights drawn here, and their input."""

from __future__ import annotations

import torch
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
