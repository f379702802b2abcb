"""Checkpoints: written whole or not at all, of tensors and plain values only, so that reading one runs no code.

    checkpoints/step_0002000.pt             config, data, step, best, model, ema, more_ema, ema_updates, optimizer,
                                            unlogged; objective, of one that learns along
    checkpoints/step_0002000.safetensors    the moving average alone, for others; its metadata has config and data
    checkpoints/best.pt, .safetensors       the same after the step whose held-out loss, `best`, is the lowest so far

`model` and the averages are whole state dicts, each under the model's own names: `network.…` and what else it has.
`data` describes the data, so that a model can be sampled without them (see `data.dataset.described`), and has the
weights of the autoencoder whose latents are modelled, if any (see `training.data_tensors`). Nothing else is
needed to go on as if never stopped, since the randomness of a training step depends on the seed and its number alone;
`unlogged` has the losses that the log's next line will average.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.resumable import digest
from score_sde.common.weight_files import check_named, read_metadata, read_safetensors, read_some, read_torch
from score_sde.training import data_tensors

# Checkpoints of format 1 had the network's weights in place of the model's.
_FORMAT = 2
# This entry of a safetensors file's metadata says that the file is ours.
_ABOUT = "score_sde"


def path_at(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` training steps lies."""
    return folder / f"step_{step:07d}.pt"


def best_in(folder: Path) -> Path:
    """Return where the checkpoint with the lowest held-out loss lies."""
    return folder / "best.pt"


def step_of_best(folder: Path) -> int:
    """Return how many steps the checkpoint with the lowest held-out loss has; 0 if there is none.

    Raises:
        UserError: the checkpoint is damaged.
    """
    path = best_in(folder)
    try:
        return int(load(path)["step"]) if path.exists() else 0
    except UserError as error:
        raise UserError(f"{error}; remove it to go on without") from error


def run_of(path: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None if it lies elsewhere, or is of no run of ours."""
    ours = path.suffix.lower() in (".pt", ".safetensors") and path.parent.name == "checkpoints"
    ours = ours and (_step(path) >= 0 or path.stem == best_in(path.parent).stem)
    return path.parent.parent if ours else None


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint: nested dicts and lists of tensors, numbers and words.

    Raises:
        UserError: the file cannot be written; what was there before is left as it was.
    """
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": _FORMAT, **state}, file)
        except RuntimeError as error:
            # torch's writer meets a full disk as an OSError, and raises its own complaint over it.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def save_both(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, and beside it its average alone; what was made for one that was there before is removed.

    Raises:
        UserError: a file cannot be written.
    """
    _remove_made_for(path)
    save(state, path)
    save_weights(state["ema"], state["config"], path.with_suffix(".safetensors"), state["data"])


def save_weights(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], path: Path, data: Mapping[str, Any] | None = None
) -> None:
    """Write named tensors in the format of safetensors, with the configuration, and the description of the data if
    there is one; the same give the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    plain, tensors = (None, {}) if data is None else data_tensors.apart(data)
    together = {**weights, **tensors}
    contiguous = {name: together[name].detach().cpu().contiguous().clone() for name in sorted(together)}
    # One entry, since the library writes several in an order of its own, another each time. The order of the conditions
    # of data is that of a network's channels.
    in_order = json.loads(json.dumps(config, sort_keys=True))
    about = json.dumps({"config": in_order, "data": plain, "digest": digest(*contiguous.values())})
    with write_atomically(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(contiguous, {_ABOUT: about}))


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Read what `save_weights` wrote: the weights, the configuration, and the description of the data if there is one.

    Raises:
        UserError: the file is missing, damaged, or not ours.
    """
    weights, about = read_safetensors(path)
    try:
        # Earlier versions wrote the two side by side.
        told = json.loads(about[_ABOUT]) if _ABOUT in about else {**about, "config": json.loads(about["config"])}
        config, expected = told["config"], told["digest"]
    except KeyError as error:
        raise UserError(f"{path} does not say its configuration: it is not of this project") from error
    except ValueError as error:
        raise UserError(f"cannot read the checkpoint {path}: it is damaged") from error
    # The weights come back in the order of their names.
    if digest(*(weights[name] for name in sorted(weights))) != expected:
        raise UserError(f"cannot read the checkpoint {path}: it is damaged")
    tensors = data_tensors.taken_out(weights)
    return weights, config, data_tensors.put_back(told.get("data"), tensors)


def data_of_newest(folder: Path) -> dict[str, Any] | None:
    """Return the description of the data that the newest checkpoint of a folder was trained on; None if it has none.

    Raises:
        UserError: the checkpoint is damaged.
    """
    newest = latest(folder)
    if newest is None:
        return None
    weights = newest.with_suffix(".safetensors")
    if not weights.is_file():
        return load(newest).get("data")
    data = json.loads(read_metadata(weights)[_ABOUT])["data"]
    if data is not None and len(data.get("conditions", {})) > 1:
        # Earlier versions wrote several conditions in another order there than networks have.
        return load(newest).get("data")
    held = read_some(weights, data_tensors.ROOT)
    return data_tensors.put_back(data, held)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, onto the CPU.

    Raises:
        UserError: the file is missing, is no checkpoint of this project, or is damaged.
    """
    state = read_torch(path)
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path} is not a checkpoint of this project")
    if state["format"] != _FORMAT:
        raise UserError(f"{path} is a checkpoint of another version of this project, which this one cannot read")
    for weights in (state.get("model", {}), state.get("ema", {}), *state.get("more_ema", {}).values()):
        check_named(weights, str(path))
    return state


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the checkpoint with the most steps in this folder; return None if there is none.

    Raises:
        UserError: the checkpoint is damaged; the line says whether there is another to go on from.
    """
    newest = latest(folder)
    if newest is None:
        return None
    try:
        return newest, load(newest)
    except UserError as error:
        older = len(list(folder.glob("step_*.pt"))) > 1
        raise UserError(f"{error}; remove it to go on from the one before" if older else str(error)) from error


def averages(state: Mapping[str, Any]) -> dict[float, dict[str, Tensor]]:
    """Return the moving averages of a checkpoint by their decay, the main one first."""
    return {state["config"]["training"]["ema_decay"]: state["ema"], **state.get("more_ema", {})}


def latest(folder: Path) -> Path | None:
    """Return the checkpoint with the most steps in this folder, or None."""
    return max(folder.glob("step_*.pt"), key=_step, default=None)


def clear(folder: Path, count: int, every: int = 0) -> None:
    """Delete old checkpoints of this folder, and what a killed process left half written.

    Args:
        folder: folder of the checkpoints.
        count: how many of the newest checkpoints stay.
        every: checkpoints stay, too, whose number of steps is a multiple of this, unless it is 0.
    """
    old = sorted(folder.glob("step_*.pt"), key=_step)[:-count]
    gone = [path for path in old if not every or _step(path) % every]
    for path in [*gone, *folder.glob(".step_*"), *folder.glob(".best.*")]:
        path.unlink(missing_ok=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        _remove_made_for(path)


def _remove_made_for(path: Path) -> None:
    """Remove the folder beside a checkpoint, which has what was tuned to it."""
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdigit() else -1
