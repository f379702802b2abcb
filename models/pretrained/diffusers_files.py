"""The files of a pipeline of the library diffusers: configurations and weights, here or on the hub.

    model_index.json                                    the classes of its parts
    scheduler/scheduler_config.json
    unet/config.json
    unet/diffusion_pytorch_model.safetensors            or .bin; large ones in parts with an index:
    unet/diffusion_pytorch_model-00001-of-00002.safetensors, …, unet/diffusion_pytorch_model.safetensors.index.json

A variant, such as half precision or weights without averaging, has its name in those of its files:
`diffusion_pytorch_model.fp16.safetensors`, `diffusion_pytorch_model.safetensors.index.fp16.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.weight_files import read_safetensors, read_torch, unwrapped

_STEM = "diffusion_pytorch_model"
_WHOLE = re.compile(rf"{_STEM}(?:\.(?P<variant>.+))?\.(?P<suffix>safetensors|bin)")
_INDEX = re.compile(rf"{_STEM}(?:\.(?P<old>.+))?\.(?P<suffix>safetensors|bin)\.index(?:\.(?P<variant>.+))?\.json")
_PART = re.compile(r".*-\d+-of-\d+(?:\.|$).*")

# Attention's projections had these names, before they were called as in `Attention`.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(?<=\.)({'|'.join(_OLD_NAMES)})(?=\.(?:weight|bias)$)")
# Older files have the Fourier frequencies by both names.
_FOURIER, _OLD_FOURIER = "time_proj.weight", "time_proj.W"


class Weights(NamedTuple):
    """A network's weights can be read from a file, or from the several that an index names.

    Attributes:
        name: name of the file, or of the index of several.
        variant: the variant's name; None for the plain weights.
    """

    name: str
    variant: str | None


def choose_weights(names: Iterable[str], where: str) -> Weights:
    """Choose which of the files of a network to read: the plain weights, or else the only variant; safetensors first.

    Args:
        names: names of all files.
        where: where the files are, in words for the error.

    Raises:
        UserError: there are no weights, or several variants and no plain weights.
    """
    names = sorted(names)
    # The better kinds of file come last, and replace the others.
    found: dict[str | None, str] = {}
    for suffix in ("bin", "safetensors"):
        for pattern in (_INDEX, _WHOLE):
            for name in names:
                match = pattern.fullmatch(name)
                if match and match["suffix"] == suffix and not (pattern is _WHOLE and _PART.fullmatch(name)):
                    found[match["variant"] or match.groupdict().get("old")] = name
    if None in found:
        return Weights(found[None], None)
    if len(found) == 1:
        ((variant, name),) = found.items()
        return Weights(name, variant)
    if not found:
        there = ", ".join(names) or "nothing"
        raise UserError(f"{where} has no {_STEM}.safetensors (or .bin, or an index of parts): there is {there}")
    variants = ", ".join(str(variant) for variant in found)
    raise UserError(f"{where} has the variants {variants} and no plain weights: remove all but one")


def read_weights(folder: Path, weights: Weights) -> dict[str, Tensor]:
    """Read the tensors of a network by their present names, onto the CPU.

    Raises:
        UserError: a file is missing or damaged, or holds more than data.
    """
    path = folder / weights.name
    return _present_names(_read(path) if path.suffix != ".json" else _read_parts(path), str(path))


def _read_parts(path: Path) -> dict[str, Tensor]:
    """Read the tensors of all parts that an index names."""
    found: dict[str, Tensor] = {}
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{path} is not an index of parts: it has no weight_map")
    for part in sorted(set(places.values())):
        if Path(part).name != part:
            raise UserError(f"{path} names a part outside its folder: {part!r}")
        found |= _read(path.parent / part)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read the settings in a JSON file.

    Raises:
        UserError: the file is missing, or is no JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: it is truncated, damaged, or not JSON") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} has no settings by their names")
    return settings


def local_folder(source: str | Path) -> Path:
    """Return the folder of a pipeline: `source`, or what the hub has by this name, without weights that are not used.

    Raises:
        UserError: the hub does not have the pipeline, or cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    import huggingface_hub
    from huggingface_hub import constants

    try:
        if constants.HF_HUB_OFFLINE:
            return Path(huggingface_hub.snapshot_download(str(source), local_files_only=True))
        about = huggingface_hub.HfApi().model_info(str(source))
        names = [file.rfilename for file in about.siblings or []]
        if any(name.startswith(("text_encoder/", "vqvae/")) for name in names):
            raise UserError(
                f"{source} is a pipeline of latents of many parts, which is read from a folder alone: download it, hf "
                f"download {source} --local-dir FOLDER"
            )
        part = "transformer" if "transformer/config.json" in names else "unet"
        wanted = ["model_index.json", "scheduler/*.json", f"{part}/config.json"]
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        if inside:
            chosen = choose_weights(inside, f"{source}/{part}")
            wanted.append(f"{part}/{chosen.name}")
            wanted += [f"{part}/{name}" for name in inside if chosen.name.endswith(".json") and _PART.fullmatch(name)]
        return Path(huggingface_hub.snapshot_download(str(source), revision=about.sha, allow_patterns=wanted))
    except UserError:
        raise
    except Exception as error:  # servers fail in many ways
        try:
            return Path(huggingface_hub.snapshot_download(str(source), local_files_only=True))
        except Exception:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise UserError(
                f"cannot read the pipeline {source}: there is no such folder, and the hub does not have it or there is "
                f"no way there ({lines[0].rstrip('.:')})"
            ) from error


def _read(path: Path) -> dict[str, Tensor]:
    return unwrapped(read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path), str(path))


def _present_names(weights: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    found = {_OLD_NAME.sub(lambda match: _OLD_NAMES[match[1]], name): tensor for name, tensor in weights.items()}
    if _OLD_FOURIER in found:
        frequencies = found.pop(_OLD_FOURIER)
        if not torch.equal(found.setdefault(_FOURIER, frequencies), frequencies):
            raise UserError(f"{where} has {_OLD_FOURIER} and another {_FOURIER}: which to use is not known")
    return found
