"""Frozen networks of the library transformers, from folders that it saved.

Nothing is looked for on the net, no code in a folder is run, and weights are `.safetensors`, none of which is missing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.common import distributed
from score_sde.common.errors import UserError, first_line


def transformers_library(complaint: str) -> Any:
    """Return transformers, which says nothing by itself.

    Args:
        complaint: what needs it, and how it is installed.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError as error:
        raise UserError(complaint) from error
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    return transformers


def weights_in(folder: Path) -> list[Path]:
    """Return the files of weights in a folder.

    Raises:
        UserError: there are none that can be read without running code.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{folder} has no weights in .safetensors, and others are not read, since they can run code: "
            "save_pretrained writes them"
        )
    return weights


def check_weights_are_plain(folder: Path, settings: Mapping[str, Any]) -> None:
    """See that the weights in a folder are those that are computed with, which the library changes by itself else.

    Args:
        folder: where the weights are.
        settings: what its config.json says.

    Raises:
        UserError: there is an adapter beside them, or they are quantised.
    """
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} has an adapter, adapter_config.json, which is not read: save the whole without it")
    if settings.get("quantization_config") is not None:
        raise UserError(f"{folder / 'config.json'} has a quantization_config, which is not read: save plain weights")


def read_frozen(kind: Any, folder: Path, what: str, attention: str) -> Any:
    """Return the network in a folder, in float32, on this process's device, for evaluation alone.

    Args:
        kind: the class of transformers that reads it.
        folder: the folder.
        what: what the network is, for the complaint.
        attention: how attention is computed, which is not for a file to say: it could name code of others.

    Raises:
        UserError: it cannot be read, or some of its weights are missing.
    """
    weights_in(folder)
    check_weights_are_plain(folder, _settings(folder))
    try:
        network, about = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # damaged weights fail in many ways
        raise UserError(f"cannot read the {what} in {folder}: {first_line(error)}") from error
    # What is missing would be drawn at random.
    wrong = sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]]))
    if wrong:
        name = type(network).__name__
        raise UserError(f"the weights in {folder} lack {len(wrong)} of a {name}, such as {wrong[0]}")
    return network.float().eval().requires_grad_(False).to(distributed.device())


def _settings(folder: Path) -> dict[str, Any]:
    """Return what the config.json of a folder says; nothing if it cannot be read, of which the library complains."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
