"""One network trained by several processes.

    replicated   every process has all of it; gradients are averaged while they are computed (DistributedDataParallel)
    sharded      every process has a part of each weight, of its gradient, of its average and of the optimiser's state;
                 a block's weights are gathered while it is at work (FSDP2; Zhao et al. 2023, arXiv:2304.11277)

What is saved is the same for both, and for a single process: the whole network, under its own names.

FSDP2 takes a second to import, so that only what shards does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from score_sde.common import distributed
from score_sde.models.ema import is_divided
from score_sde.models.layers.resolutions import Stage
from score_sde.models.networks.mlp import Block

# What is gathered at a time.
_UNITS = (Stage, Block)


def replicate(loss: nn.Module) -> nn.Module:
    """The module `loss`, called through this, has its gradients averaged over the processes; itself for one process."""
    if distributed.world_size() == 1:
        return loss
    with warnings.catch_warnings():
        # The name of the option that all versions know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(loss, broadcast_buffers=False)


def shard(*networks: nn.Module) -> None:
    """Divide the weights of networks among the processes, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # What a network returns is never changed in place.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(\w+\) returned a view", UserWarning)
    mesh = init_device_mesh(distributed.device().type, (distributed.world_size(),))
    for network in networks:
        for module in network.modules():
            if isinstance(module, _UNITS):
                fully_shard(module, mesh=mesh)
        fully_shard(network, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether the weights of `network` are divided among the processes."""
    return any(map(is_divided, network.parameters()))


def unsynchronised(loss: nn.Module, network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Within the block gradients are only added up, unless this is the `last` part of a batch."""
    if hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(last)  # type: ignore[operator]
    elif isinstance(loss, DistributedDataParallel) and not last:
        return loss.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided among the processes."""
    return tensor.full_tensor() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network; of a sharded one on the CPU, and empty on all processes but the first."""
    if not is_sharded(network):
        return network.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(network, options=options)
    return weights


def load_whole_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a whole state dict, which every process has, into a network that may be sharded."""
    if not is_sharded(network):
        network.load_state_dict(weights)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(network, dict(weights), options=StateDictOptions(full_state_dict=True))


def whole_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state dict, parameters by number; of a sharded network as for `whole_weights`."""
    if not is_sharded(network):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_optimizer_state_dict(network, optimizer, options=options)
    if not state:
        return {}
    numbers = {name: number for number, (name, _) in enumerate(network.named_parameters())}
    return {
        "state": {numbers[name]: values for name, values in state["state"].items()},
        "param_groups": optimizer.state_dict()["param_groups"],
    }


def load_whole_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Copy such a state dict, which every process has, into the optimiser of a network that may be sharded."""
    if not is_sharded(network):
        optimizer.load_state_dict(dict(state))
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    names = [name for name, _ in network.named_parameters()]
    groups: list[dict[str, Any]] = state["param_groups"]
    by_name: dict[str, Any] = {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": [group | {"params": [names[number] for number in group["params"]]} for group in groups],
    }
    set_optimizer_state_dict(network, optimizer, by_name, options=StateDictOptions(full_state_dict=True))
    for group in optimizer.param_groups:
        # A list by now.
        group["betas"] = tuple(group["betas"])
