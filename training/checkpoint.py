"""Checkpoints: written whole or not at all, of tensors and plain values only, so that reading one runs no code.

    checkpoints/step_0002000.pt             config, step, network, ema, more_ema, ema_updates, optimizer, unlogged
    checkpoints/step_0002000.safetensors    the moving average alone, for others; its metadata has the configuration

Nothing else is needed to go on as if never stopped, since the randomness of a training step depends on the seed and its
number alone; `unlogged` has the losses that the log's next line will average.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from errors import UserError
from evaluation.parts import digest
from files import write_atomically

_FORMAT = 1
# The entry of a safetensors file's metadata that says whose it is.
_ABOUT = "score_sde"


def path_at(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` training steps lies."""
    return folder / f"step_{step:07d}.pt"


def run_of(path: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in; None if it lies elsewhere, or is of no run of ours."""
    ours = path.suffix in (".pt", ".safetensors") and path.parent.name == "checkpoints" and _step(path) >= 0
    return path.parent.parent if ours else None


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint: nested dicts and lists of tensors, numbers and words.

    Raises:
        UserError: it cannot be written; what was there before is left as it was.
    """
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": _FORMAT, **state}, file)
        except RuntimeError as error:
            # torch's writer meets a full disk as an OSError, and raises its own complaint over it.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def save_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    """Write named tensors in the format of safetensors, with the configuration; the same give the same bytes.

    Raises:
        UserError: they cannot be written.
    """
    contiguous = {name: weights[name].detach().cpu().contiguous().clone() for name in sorted(weights)}
    # One entry, since the library writes several in an order of its own, another each time.
    about = json.dumps({"config": config, "digest": digest(*contiguous.values())}, sort_keys=True)
    with write_atomically(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(contiguous, {_ABOUT: about}))


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_weights` wrote: the weights and the configuration.

    Raises:
        UserError: the file is missing, damaged, or not ours.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if _ABOUT in about:
                config, expected = (json.loads(about[_ABOUT])[name] for name in ("config", "digest"))
            else:  # earlier versions wrote them side by side
                config, expected = json.loads(about["config"]), about["digest"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError as error:
        raise UserError(f"{path} does not say its configuration: it is not of this project") from error
    except Exception as error:  # a damaged file may fail in any way
        raise UserError(f"cannot read the checkpoint {path}: it is truncated, or not a checkpoint") from error
    # They come back in the order of their names.
    if digest(*(weights[name] for name in sorted(weights))) != expected:
        raise UserError(f"cannot read the checkpoint {path}: it is damaged")
    return weights, config


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU.

    Raises:
        UserError: the file is missing, is no checkpoint of this project, or is damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive may fail in any way
        raise UserError(f"cannot read the checkpoint {path}: it is truncated, or not a checkpoint") from error
    if state is None:
        raise UserError(f"cannot read the checkpoint {path}: it is damaged")
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project")
    return state


def averages(state: Mapping[str, Any]) -> dict[float, dict[str, Tensor]]:
    """The moving averages of a checkpoint by their decay, the main one first."""
    return {state["config"]["training"]["ema_decay"]: state["ema"], **state.get("more_ema", {})}


def latest(folder: Path) -> Path | None:
    """The checkpoint with the most steps in this folder, or None."""
    return max(folder.glob("step_*.pt"), key=_step, default=None)


def clear(folder: Path, count: int, every: int = 0) -> None:
    """Delete old checkpoints of this folder, and what a killed process left half written.

    Args:
        folder: of the checkpoints.
        count: how many of the newest stay.
        every: so do those whose number of steps is a multiple of this, unless it is 0.
    """
    old = sorted(folder.glob("step_*.pt"), key=_step)[:-count]
    gone = [path for path in old if not every or _step(path) % every]
    for path in [*gone, *folder.glob(".step_*")]:
        path.unlink(missing_ok=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        # What was tuned to it.
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """See that named tensors are just those of a module.

    Args:
        module: has the names and shapes that are wanted.
        weights: a state dict.
        where: the origin of the weights, for the error.

    Raises:
        UserError: names or shapes differ; the first mismatch is named.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(f"{where} does not fit this network: it has no {name} {tuple(tensor.shape)}")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{where} does not fit this network: {name} has shape {tuple(weights[name].shape)}, "
                f"the network needs {tuple(tensor.shape)}"
            )
    for name in weights:
        if name not in own:
            raise UserError(f"{where} does not fit this network: it has {name}, which the network lacks")


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy named tensors into a module that must have just these; see `check_weights`."""
    check_weights(module, weights, where)
    module.load_state_dict(weights)


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdigit() else -1
