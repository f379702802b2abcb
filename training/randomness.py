"""The random numbers of a step: a function of the seed, of what they are for and of the step's number alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Purpose = Literal["training", "held-out"]

_NUMBERS: dict[Purpose, int] = {"training": 0, "held-out": 1}


def noise_generator(seed: int, purpose: Purpose, step: int, device: torch.device) -> torch.Generator:
    """Return the generator for the noise of a step, which is the same for all processes."""
    return torch.Generator(device).manual_seed(_seeds(seed, purpose, step, 0)[0])


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Seed torch's own generators, with which dropout is drawn, for a training step of one process."""
    torch.manual_seed(_seeds(seed, "training", step, rank)[1])


def _seeds(seed: int, purpose: Purpose, step: int, rank: int) -> tuple[int, int]:
    """Return two seeds, of noise and of dropout."""
    entropy = [seed, _NUMBERS[purpose], step, rank]
    noise_seed, dropout_seed = np.random.SeedSequence(entropy).generate_state(2, np.uint64).tolist()
    return noise_seed >> 1, dropout_seed >> 1
