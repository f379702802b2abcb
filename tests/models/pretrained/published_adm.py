"""State dicts of the published code of ADM, by names and shapes, with weights drawn here, and what is asked of them.

The code is that of openai/guided-diffusion (22e0df8) and openai/improved-diffusion (1bc7bbb), which
`reference/adm.json` has the answers of.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES, SIZE = 5, 16


@dataclass(frozen=True)
class Published:
    """Holds what the published flags say: `improved` for the older code, `pool` for a classifier."""

    scale_shift: bool = True
    updown: bool = True
    new_order: bool = False
    heads: int = 4
    heads_up: int = -1
    head_channels: int = -1
    learn_sigma: bool = True
    class_cond: bool = True
    small_size: int = 0
    channels: int = 32
    mult: tuple[float, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (8,)
    improved: bool = False
    pool: str = ""


def _cases() -> dict[str, Published]:
    cases = {}
    heads = {"4 heads": (4, -1, -1), "2 and 8 heads": (2, 8, -1), "heads of 8": (4, -1, 8)}
    for index, (scale_shift, updown, new_order) in enumerate(itertools.product((True, False), repeat=3)):
        for name, (count, up, width) in heads.items():
            flags = f"scale_shift={scale_shift}, updown={updown}, new_order={new_order}, {name}"
            cases[flags] = Published(scale_shift, updown, new_order, count, up, width, index % 3 > 0, index % 2 > 0)
    deep = {"mult": (0.5, 1, 2), "channels": 64, "attention": (8, 4)}
    return cases | {
        "three resolutions": Published(blocks=2, head_channels=16, **deep),  # type: ignore[arg-type]
        "upsampler": Published(small_size=4, head_channels=16),
        "upsampler without classes": Published(small_size=8, class_cond=False, updown=False),
        "improved": Published(updown=False, improved=True, class_cond=False),
        "improved, one head": Published(False, False, heads=1, improved=True, learn_sigma=False),
        "improved, of two kinds of heads": Published(updown=False, heads=2, heads_up=4, improved=True, blocks=2),
        "improved upsampler": Published(updown=False, small_size=8, improved=True),
        **{
            f"classifier, {pool}": Published(
                scale_shift=pool != "spatial", updown=pool != "adaptive", head_channels=16, blocks=2, pool=pool
            )
            for pool in ("attention", "adaptive", "spatial", "spatial_v2")
        },
    }


CASES = _cases()


def published(case: Published) -> dict[str, Tensor]:
    """Return a state dict of such a network, of ordinary size, none of it zero."""
    made: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    embedded, widths = 4 * case.channels, [int(times * case.channels) for times in case.mult]

    def add(name: str, *shape: int, bias: bool = True) -> None:
        made[f"{name}.weight"] = torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5
        if bias:
            made[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    def norm(name: str, width: int) -> None:
        for kind, mean in (("weight", 1.0), ("bias", 0.0)):
            made[f"{name}.{kind}"] = mean + 0.1 * torch.randn(width, generator=generator)

    def residual(name: str, before: int, after: int) -> None:
        norm(f"{name}.in_layers.0", before)
        add(f"{name}.in_layers.2", after, before, 3, 3)
        add(f"{name}.emb_layers.1", after * (1 + case.scale_shift), embedded)
        norm(f"{name}.out_layers.0", after)
        add(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            add(f"{name}.skip_connection", after, before, 1, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        add(f"{name}.qkv", 3 * width, width, 1)
        add(f"{name}.proj_out", width, width, 1)

    add("time_embed.0", embedded, case.channels)
    add("time_embed.2", embedded, embedded)
    if case.class_cond and not case.pool:
        add("label_emb", CLASSES, embedded, bias=False)
    here, number, skips = widths[0], 1, [widths[0]]
    add("input_blocks.0.0", here, 6 if case.small_size else 3, 3, 3)
    for depth, width in enumerate(widths):
        for _ in range(case.blocks):
            residual(f"input_blocks.{number}.0", here, width)
            if SIZE // 2**depth in case.attention:
                attention(f"input_blocks.{number}.1", width)
            here, number, skips = width, number + 1, [*skips, width]
        if depth < len(widths) - 1:
            if case.updown:
                residual(f"input_blocks.{number}.0", here, here)
            else:
                add(f"input_blocks.{number}.0.op", here, here, 3, 3)
            number, skips = number + 1, [*skips, here]
    residual("middle_block.0", here, here)
    attention("middle_block.1", here)
    residual("middle_block.2", here, here)
    if case.pool:
        _add_pool(case, add, norm, made, here, sum(skips) + here)
        return made
    number = 0
    for depth, width in reversed(list(enumerate(widths))):
        for block in range(case.blocks + 1):
            residual(f"output_blocks.{number}.0", here + skips.pop(), width)
            here, attends = width, SIZE // 2**depth in case.attention
            if attends:
                attention(f"output_blocks.{number}.1", width)
            if depth and block == case.blocks:
                up = f"output_blocks.{number}.{1 + attends}"
                residual(up, here, here) if case.updown else add(f"{up}.conv", here, here, 3, 3)
            number += 1
    norm("out.0", here)
    add("out.2", 6 if case.learn_sigma else 3, here, 3, 3)
    return made


def _add_pool(case: Published, add, norm, made: dict[str, Tensor], width: int, features: int) -> None:
    """Add the weights of a classifier's pool, for feature maps of so many channels, at the end and in all."""
    if case.pool.startswith("spatial"):
        add("out.0", 2048, features)
        last = "out.3" if case.pool == "spatial_v2" else "out.2"
        if case.pool == "spatial_v2":
            norm("out.1", 2048)
        add(last, CLASSES, 2048)
        return
    norm("out.0", width)
    if case.pool == "adaptive":
        add("out.3", CLASSES, width, 1, 1)
        return
    positions = (SIZE // 2 ** (len(case.mult) - 1)) ** 2 + 1
    add("out.2.positional_embedding", width, positions, bias=False)
    made["out.2.positional_embedding"] = made.pop("out.2.positional_embedding.weight")
    add("out.2.qkv_proj", 3 * width, width, 1)
    add("out.2.c_proj", CLASSES, width, 1)


def asked(case: Published) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return states, labels, and, of those that are told them, classes and small pictures."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, SIZE, SIZE, generator=generator)
    labels, classes = torch.tensor([3.0, 996.75]), torch.tensor([0, 4])
    size = case.small_size
    small = torch.rand(2, 3, size, size, generator=generator) * 2 - 1 if size else None
    return x, labels, classes if case.class_cond and not case.pool else None, small
