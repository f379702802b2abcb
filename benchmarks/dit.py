"""Speed of DiT-S/2 beside diffusers' DiTTransformer2DModel of the same shape: `python -m benchmarks.networks --dit`.

Latents of 32 x 32 x 4, 1000 classes, variances predicted too. The two take turns, at equal precision; seconds are
medians of the rounds, and the ratio is that of ours to theirs, below 1 where ours is faster: the median of the rounds'
ratios.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.models import DiT
from score_sde.models.pretrained.diffusers_library import library

SIZE, CHANNELS, CLASSES = 32, 4, 1000
WIDTH, NUM_BLOCKS, NUM_HEADS = 384, 12, 6


def networks(device: str) -> dict[str, tuple[nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]]]:
    """Return both networks, by name, each with what calls it on states, labels and classes."""
    diffusers: Any = library()
    torch.manual_seed(0)
    conditions = {"class": CLASSES}
    ours = DiT(
        SIZE, CHANNELS, 2 * CHANNELS, width=WIDTH, num_blocks=NUM_BLOCKS, num_heads=NUM_HEADS, conditions=conditions
    )
    theirs: Any = diffusers.DiTTransformer2DModel(
        num_attention_heads=NUM_HEADS,
        attention_head_dim=WIDTH // NUM_HEADS,
        num_layers=NUM_BLOCKS,
        out_channels=2 * CHANNELS,
    )
    return {
        "DiTTransformer2DModel": (theirs.to(device), lambda x, t, y: theirs(x, t, y, return_dict=False)[0]),
        "DiT": (ours.to(device), lambda x, t, y: ours(x, t, Condition({"class": y}))),
    }


def measure(device: str, batch: int, rounds: int, seconds: Callable[[Callable[[], object], str], float]) -> str:
    """Return the table, in Markdown; `seconds` measures one run."""
    both = networks(device)
    x, labels = torch.randn(batch, CHANNELS, SIZE, SIZE, device=device), 999 * torch.rand(batch, device=device)
    classes = torch.randint(CLASSES, (batch,), device=device)

    def forward(name: str, dtype: torch.dtype) -> None:
        network, call = both[name]
        network.eval()
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            call(x, labels, classes)

    def training(name: str, dtype: torch.dtype) -> None:
        network, call = both[name]
        network.train()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            output = call(x, labels, classes)
        output.float().square().mean().backward()
        network.zero_grad()

    cases = [(what, dtype) for dtype in (torch.float32, torch.bfloat16) for what in (forward, training)]
    times: dict[tuple[Any, torch.dtype, str], list[float]] = {(*case, name): [] for case in cases for name in both}
    for turn in range(rounds + 1):
        for case in cases:
            for name in list(both)[:: 1 if turn % 2 else -1]:
                taken = seconds(lambda case=case, name=name: case[0](name, case[1]), device)  # type: ignore[misc]
                if turn:  # the first round warms up
                    times[(*case, name)].append(taken)
        print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    lines = ["| setting | pass | DiTTransformer2DModel, s | DiT, s | ratio |", "| --- | --- | ---: | ---: | ---: |"]
    for what, dtype in cases:
        peer, own = (times[(what, dtype, name)] for name in both)
        ratio = statistics.median(a / b for a, b in zip(own, peer, strict=True))
        passes = "forward" if what is forward else "forward + backward"
        cells = [str(dtype).removeprefix("torch."), passes, *(f"{statistics.median(t):.3f}" for t in (peer, own))]
        lines.append(f"| {' | '.join(cells)} | {ratio:.3f} |")
    about = f"{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}; batches of {batch}, "
    about += f"{rounds} rounds."
    return "\n".join([*lines, "", about]) + "\n"
