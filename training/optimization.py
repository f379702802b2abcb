"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from ml_collections import ConfigDict
from torch import nn

from score_sde.common.errors import UserError, choose

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(parameters: Iterable[nn.Parameter], config: ConfigDict) -> torch.optim.Optimizer:
    """Adam (weight decay added to the gradient) or AdamW (decoupled from it), as the section `training` has it.

    Raises:
        UserError: there is no such optimiser, or one of its numbers is out of range.
    """
    optimizer = choose("optimizer", config.optimizer, OPTIMIZERS)
    try:
        return optimizer(
            parameters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=config.fused,
        )
    except ValueError as error:
        numbers = ("learning_rate", "adam_beta1", "adam_beta2", "adam_eps", "weight_decay")
        given = ", ".join(f"{name}={config[name]:g}" for name in numbers)
        raise UserError(f"section training: the optimizer refuses one of its numbers, {given}") from error


def learning_rate(step: int, config: ConfigDict) -> float:
    """The rate of step `step`, counted from 0: a linear warm-up, times a constant or half a cosine that ends at 0.

    Raises:
        UserError: there is no such schedule.
    """
    warm_up = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = choose("schedule", config.schedule, SCHEDULES)
    return config.learning_rate * warm_up * decay(min(1.0, step / config.num_steps))


SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}
