"""One model trained by several processes.

    replicated   every process has all of it; gradients are averaged while they are computed (DistributedDataParallel)
    sharded      every process has a part of each weight, of its gradient, of its average and of the optimiser's state;
                 a unit's weights are gathered while it is at work (FSDP2; Zhao et al. 2023, arXiv:2304.11277)

What is gathered at a time, a network says itself: a module with `shard_units()` lists its units, and what belongs to
none of them is one unit more. The module that is divided is the one that is called, whatever of the model an objective
calls within: the loss.

What is saved is the same for both, and for a single process: the whole model, under its own names.

FSDP2 takes a second to import, so that only what shards does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models.ema import is_divided
from score_sde.training.objectives import Losses
from score_sde.training.optimization import load_optimizer


class LossOf(nn.Module):
    """A module computes a model's losses: the one that is called, replicated and divided."""

    def __init__(self, model: nn.Module, objective: Callable[[Any, Batch, BatchNoise], Losses]) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, noise: BatchNoise) -> Losses:
        """Return the losses of a batch."""
        return self.objective(self.model, batch, noise)


def replicate(loss: nn.Module) -> nn.Module:
    """Return the module to call for losses whose gradients are averaged over the processes; `loss` for one process."""
    if distributed.world_size() == 1:
        return loss
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        # All versions know the option by this name.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(loss, broadcast_buffers=False)


def shard(module: nn.Module, device: torch.device) -> None:
    """Divide the weights of a module among the processes, in place, unit by unit."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # The warning is of views that are changed in place, which a network's outputs never are.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(\w+\) returned a view", UserWarning)
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for unit in units(module):
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)


def units(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the units that the parts of a module say they have."""
    for part in list(module.modules()):
        if hasattr(part, "shard_units"):
            yield from part.shard_units()  # type: ignore[operator]


def is_sharded(module: nn.Module) -> bool:
    """Say whether the weights of a module are divided among the processes."""
    return any(map(is_divided, module.parameters()))


def unsynchronised(loss: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Let gradients only be added up within the block, unless this is the `last` part of a batch."""
    if hasattr(loss, "set_requires_gradient_sync"):
        loss.set_requires_gradient_sync(last)  # type: ignore[operator]
    elif hasattr(loss, "no_sync") and not last:
        return loss.no_sync()  # type: ignore[operator]
    return nullcontext()


def own(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that may be divided among the processes; they share their memory."""
    return tensor.to_local() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be divided among the processes."""
    return tensor.full_tensor() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model; of a sharded one on the CPU, and empty on all processes but the first."""
    if not is_sharded(model):
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    return state


def load_whole_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a whole state dict, which every process has, into a model that may be sharded."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))


def whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state dict, parameters by number; of a sharded model as `whole_state` does."""
    if not is_sharded(model):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    if not state:
        return {}
    numbers = {name: number for number, name in enumerate(_trained(model))}
    return {
        "state": {numbers[name]: values for name, values in state["state"].items()},
        "param_groups": optimizer.state_dict()["param_groups"],
    }


def load_whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Copy a whole state dict, which every process has, into the optimiser of a model that may be sharded."""
    if not is_sharded(model):
        load_optimizer(optimizer, state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    names = _trained(model)
    groups: list[dict[str, Any]] = state["param_groups"]
    by_name: dict[str, Any] = {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": [group | {"params": [names[number] for number in group["params"]]} for group in groups],
    }
    set_optimizer_state_dict(model, optimizer, by_name, options=StateDictOptions(full_state_dict=True))
    for group in optimizer.param_groups:
        # The betas have become a list by now.
        group["betas"] = tuple(group["betas"])


def _trained(model: nn.Module) -> list[str]:
    """List the names of the parameters that are trained, in the optimiser's order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
