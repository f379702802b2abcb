"""What training has made of a model, as a checkpoint keeps it: the whole model, its averages, the optimiser's moments.

The model is its whole state dict, with what lies outside its network: a process that is learned, a second head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.common.weight_files import check_weights
from score_sde.models import EMA
from score_sde.training import parallel


def snapshot(model: nn.Module, averages: Sequence[EMA[Any]], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of a model, its averages (the main one first) and its optimiser; all processes must ask."""
    main, *more = averages
    return {
        "model": parallel.whole_state(model),
        "ema": parallel.whole_state(main.model),
        "more_ema": {average.decay: parallel.whole_state(average.model) for average in more},
        "ema_updates": main.num_updates,
        "optimizer": parallel.whole_optimizer(model, optimizer),
    }


def restore(
    state: Mapping[str, Any],
    where: str,
    model: nn.Module,
    averages: Sequence[EMA[Any]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Copy a snapshot back into a model, its averages and its optimiser.

    Args:
        state: what `snapshot` returned; every process has all of it.
        where: the checkpoint's file, for the complaint.
        model: the model that receives its state, as the next two receive theirs.
        averages: the averages of the model, the main one first.
        optimizer: the optimiser of the model.

    Raises:
        UserError: the snapshot is of another model, or lacks one of the averages.
    """
    saved, more = [state["model"], state["ema"]], state["more_ema"]
    for average in averages[1:]:
        if average.decay not in more:
            raise UserError(
                f"{where} has no average with decay {average.decay:g}: its runs had "
                f"{', '.join(map(str, more)) or 'none'} beside the first"
            )
        saved.append(more[average.decay])
    for one, weights in zip((model, *(average.model for average in averages)), saved, strict=True):
        check_weights(one, weights, where)
        parallel.load_whole_state(one, weights)
    for average in averages:
        average.num_updates = state["ema_updates"]
    parallel.load_whole_optimizer(model, optimizer, state["optimizer"])
