"""The number format and memory layout in which a network is trained fastest; `docs/networks.md` has the measurements.

Weights, losses and the optimiser are float32 in any case: bfloat16 means autocast, which uses it in convolutions and
matrix products.
"""

from __future__ import annotations

import torch

from score_sde.common.errors import choose

PRECISIONS = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


def training_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the precision called `name`; `auto` is bfloat16 where `device` multiplies it in hardware, else float32.

    Raises:
        UserError: there is no such precision.
    """
    chosen = choose("precision", name, PRECISIONS)
    if chosen is not None:
        return chosen
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether the hardware has products of bfloat16 (GPUs: Ampere and later; CPUs: AMX, AVX-512)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # PyTorch tells a CPU's capabilities from release 2.10 on.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def image_layout(
    precision: torch.dtype, device: torch.device, channels_last: bool | None = None
) -> torch.memory_format:
    """Return the memory layout of a convolutional network in training: as `channels_last` says, or else the fastest.

    Convolutions run fastest with the channels last. But GroupNorm is slower that way, on GPUs and, in bfloat16, on
    CPUs, which costs more than the convolutions gain (`docs/gpu.md`, `docs/networks.md`).
    """
    if channels_last is None:
        channels_last = device.type == "cpu" and precision != torch.bfloat16
    return torch.channels_last if channels_last else torch.contiguous_format
