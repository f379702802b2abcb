"""The library diffusers' `SD3Transformer2DModel`, read into `MMDiT`.

Settings are of two kinds: those that are read, and others, which are refused by their name if they are set. The library
makes of the last affine maps of the time a scale and then a shift, here it is a shift and then a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.weight_files import check_finite, load_weights
from score_sde.models.networks.mmdit import JointBlock, MMDiT
from score_sde.models.pretrained.diffusers_files import choose_weights, read_json, read_weights
from score_sde.models.pretrained.diffusers_parts import safe_names
from score_sde.models.pretrained.dit_weights import renamed

CLASS = "SD3Transformer2DModel"
_READ: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "qk_norm": None,
}
_PLACES = "pos_embed.pos_embed"
# The names of three projections each that are one here.
_JOINED = ("to_{}", "add_{}_proj")


def read_mmdit(folder: Path) -> tuple[MMDiT, dict[str, Any]]:
    """Read the network in a folder, in evaluation mode and float32, and its settings.

    Raises:
        UserError: a file is missing, damaged or a pickle, or is of another network.
    """
    settings = read_json(folder / "config.json")
    kind = settings.get("_class_name", CLASS)
    if kind != CLASS:
        raise UserError(f"{folder / 'config.json'} is not of a {CLASS}, but {kind}")
    names = [path.name for path in folder.iterdir() if path.name != "config.json"]
    weights = choose_weights(safe_names(names, folder), str(folder))
    return from_mmdit(settings, read_weights(folder, weights), str(folder / weights.name)), _read_settings(settings)


def from_mmdit(settings: Mapping[str, Any], weights: Mapping[str, Tensor], where: str = "the state dict") -> MMDiT:
    """Build the network of an `SD3Transformer2DModel`, in evaluation mode.

    Args:
        settings: its `config`.
        weights: its state dict.
        where: the origin of the weights, for errors.

    Raises:
        UserError: the settings are of another network, or the weights do not fit them.
    """
    read = _read_settings(settings)
    width = read["num_attention_heads"] * read["attention_head_dim"]
    if read["caption_projection_dim"] != width:
        raise UserError(f"this {CLASS} has words of {read['caption_projection_dim']} numbers, and patches of {width}")
    network = MMDiT(
        read["in_channels"],
        read["out_channels"],
        width=width,
        num_blocks=read["num_layers"],
        num_heads=read["num_attention_heads"],
        patch_size=read["patch_size"],
        token_width=read["joint_attention_dim"],
        vector_width=read["pooled_projection_dim"],
        most_patches=read["pos_embed_max_size"],
        normalised=read["qk_norm"] is not None,
        alone=tuple(read["dual_attention_layers"]),
    )
    given = {name: tensor.float() for name, tensor in weights.items()}
    check_finite(given, where)
    _convert(given, network, where)
    load_weights(network, renamed(given, _names(network), where), where)
    return network.eval()


def converted_changes(network: MMDiT, changes: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return changes of weights by their places here; those that are not known keep theirs.

    Args:
        network: the network.
        changes: what is added to weights, by their places in the library, without `.weight`.
        where: the origin of the changes, for errors.

    Raises:
        UserError: the changes do not fit together.
    """
    given = {f"{place}.weight": change for place, change in changes.items()}
    # Those that are joined with others, and come without them, leave these as they are.
    for name, change in [*given.items()]:
        for pattern in _JOINED:
            letter = next((each for each in "qkv" if name.endswith(f".{pattern.format(each)}.weight")), None)
            for other in "qkv" if letter else "":
                given.setdefault(name.replace(pattern.format(letter), pattern.format(other)), torch.zeros_like(change))
    _convert(given, network, where)
    names = _names(network)
    return {names.get(name, name).removesuffix(".weight"): change for name, change in given.items()}


def _convert(given: dict[str, Tensor], network: MMDiT, where: str) -> None:
    """Bring what is given under the library's names to the shapes and the order that it has here, in place."""
    for pattern in _JOINED:
        ends = tuple(f".{pattern.format('q')}.{kind}" for kind in ("weight", "bias"))
        for name in [name for name in given if name.endswith(ends)]:
            _join(given, name, pattern, where)
    width, last = network.tokens.out_features, len(network.blocks) - 1
    for kind in ("weight", "bias"):
        for name in (f"norm_out.linear.{kind}", f"transformer_blocks.{last}.norm1_context.linear.{kind}"):
            if name in given and len(given[name]) == 2 * width:
                given[name] = given[name].roll(width, 0)
    if given.get("pos_embed.proj.weight", torch.empty(0)).ndim == 4:
        given["pos_embed.proj.weight"] = given["pos_embed.proj.weight"].flatten(1)
    if _PLACES in given:
        given[_PLACES] = given[_PLACES].flatten(0, 1)


def _read_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are read.

    Raises:
        UserError: a setting is not known, or no number.
    """
    for name, value in settings.items():
        if not name.startswith("_") and name not in _READ and value is not None and value is not False:
            raise UserError(f"this {CLASS} has {name}={value!r}, which is not known here")
    read = _READ | {name: settings[name] for name in _READ if settings.get(name) is not None}
    for name, value in read.items():
        if name == "qk_norm":
            fits = value in (None, "rms_norm")
        elif name == "dual_attention_layers":
            fits = isinstance(value, list | tuple) and all(type(number) is int for number in value)
        else:
            fits = type(value) is int and value > 0
        if not fits:
            raise UserError(f"this {CLASS} has {name}={value!r}, which is not known here")
    return read


def _join(weights: dict[str, Tensor], name: str, pattern: str, where: str) -> None:
    """Join the three projections of attention in one, in place, under the name of all three."""
    names = [name.replace(pattern.format("q"), pattern.format(letter)) for letter in "qkv"]
    for each in names:
        if each not in weights:
            raise UserError(f"{where} does not fit this network: it has no {each}")
    parts = [weights.pop(each) for each in names]
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{where} does not fit this network: shapes of {', '.join(names)} differ")
    weights[name.replace(pattern.format("q"), pattern.format("qkv"))] = torch.cat(parts)


def _names(network: MMDiT) -> dict[str, str]:
    """Return the name here of each weight, by the library's name."""
    parts = {
        "pos_embed.proj": "input",
        "time_text_embed.timestep_embedder.linear_1": "time.hidden",
        "time_text_embed.timestep_embedder.linear_2": "time.output",
        "time_text_embed.text_embedder.linear_1": "vector.hidden",
        "time_text_embed.text_embedder.linear_2": "vector.output",
        "context_embedder": "tokens",
        "norm_out.linear": "modulation",
        "proj_out": "output",
    }
    norms: dict[str, str] = {}
    for index, block in enumerate(network.blocks):
        assert isinstance(block, JointBlock)
        theirs, ours = f"transformer_blocks.{index}", f"blocks.{index}"
        mine = {
            "norm1.linear": "patches.modulation",
            "norm1_context.linear": "words.modulation",
            "attn.to_qkv": "patches.attention.query_key_value",
            "attn.to_out.0": "patches.attention.output",
            "attn.add_qkv_proj": "words.attention.query_key_value",
            "ff.net.0.proj": "patches.expand",
            "ff.net.2": "patches.contract",
        }
        if not block.last:
            mine |= {"attn.to_add_out": "words.attention.output"}
            mine |= {"ff_context.net.0.proj": "words.expand", "ff_context.net.2": "words.contract"}
        places = {"attn.norm_": "patches.attention", "attn.norm_added_": "words.attention"}
        if block.alone is not None:
            mine |= {"attn2.to_qkv": "alone.query_key_value", "attn2.to_out.0": "alone.output"}
            places |= {"attn2.norm_": "alone"}
        parts |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in mine.items()}
        if not isinstance(block.patches.attention.norm_query, torch.nn.Identity):
            for a, b in places.items():
                norms |= {f"{theirs}.{a}q.weight": f"{ours}.{b}.norm_query.weight"}
                norms |= {f"{theirs}.{a}k.weight": f"{ours}.{b}.norm_key.weight"}
    names = {f"{theirs}.{k}": f"{ours}.{k}" for theirs, ours in parts.items() for k in ("weight", "bias")}
    return names | norms | {_PLACES: "places"}
