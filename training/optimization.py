"""The optimiser and its learning rate; clipping and steps for which nothing waits for a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde.common.errors import UserError, choose

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(parameters: Iterable[nn.Parameter], config: ConfigDict) -> torch.optim.Optimizer:
    """Make Adam (weight decay added to the gradient) or AdamW (decoupled from it), as the section `training` has it.

    Raises:
        UserError: there is no such optimiser, one of its numbers is out of range, or there is nothing to train.
    """
    optimizer, parameters = choose("optimizer", config.optimizer, OPTIMIZERS), list(parameters)
    if not parameters:
        raise UserError("there is nothing to train: no parameter of the model wants gradients, see requires_grad_()")
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
        raise UserError(f"the optimizer refuses one of its numbers, {given}") from error


def learning_rate(step: int, config: ConfigDict) -> float:
    """Return the rate of a step, counted from 0: a linear warm-up, times a constant or half a cosine that ends at 0.

    Where the rate ends at 0, the warm-up is never longer than a tenth of the steps, so that short runs learn something;
    a constant rate does not depend on the number of steps.

    Raises:
        UserError: there is no such schedule.
    """
    decay = choose("schedule", config.schedule, SCHEDULES)
    longest = config.warmup_steps if config.schedule == "constant" else config.num_steps // 10
    warm_up = min(1.0, (step + 1) / max(1, min(config.warmup_steps, longest)))
    return config.learning_rate * warm_up * decay(min(1.0, step / config.num_steps))


SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Copy a state dict into an optimiser, each moment in the memory layout of its parameter.

    It may have been saved in another one, on another device or of another precision: fused optimisers then refuse the
    moments on a GPU, and take the wrong ones, without a word, on a CPU.
    """
    optimizer.load_state_dict(dict(state))
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def clip(gradients: Sequence[Tensor], norm: Tensor, limit: float) -> None:
    """Scale gradients, in place, so that their norm is at most `limit`.

    Args:
        gradients: the gradients, or one process's parts of them.
        norm: their norm, all together, `()`, on their device.
        limit: the largest norm; 0 for no limit.
    """
    # On a CPU a number can be asked for at once, which saves the scaling.
    if not limit or (norm.device.type == "cpu" and not norm > limit):
        return
    scale = torch.where(norm > limit, (limit / (norm + 1e-6)).clamp(max=1.0), torch.ones_like(norm))
    torch._foreach_mul_(list(gradients), scale)


def step_if(optimizer: torch.optim.Optimizer, fine: Tensor) -> None:
    """Do an optimiser's step, unless `fine` `()`, of bool, says that its numbers are bad: then nothing changes.

    On a GPU the fused optimiser itself looks, when it comes to it; otherwise the answer is waited for.
    """
    if fine.is_cuda and optimizer.defaults.get("fused"):
        optimizer.found_inf = (~fine).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif fine:
        optimizer.step()
