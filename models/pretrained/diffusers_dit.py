r"""The library diffusers' `DiTTransformer2DModel`, read into `DiT`.

It is DiT (Peebles & Xie 2022, arXiv:2212.09748) but for three things: each block has an embedding of the time and the
class of its own, which are all alike where the published network was converted; the frequencies of the time end at
1/10000; and the norm before each MLP has an epsilon (1e-5), and on request weights, of its own. Its first files call it
`Transformer2DModel`.

Settings are of three kinds, as in `models.pretrained.diffusers_schedulers`: those that are read (`_READ`), those that
do not matter here (`_IGNORED`), and those that would make it another network (`_NEUTRAL`, with the values at which they
do not). Anything else is refused by its name, if it is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.weight_files import check_finite, load_weights
from score_sde.models.layers.embeddings import CosineFeatures
from score_sde.models.networks.dit import NUM_TIME_FEATURES, DiT
from score_sde.models.pretrained.diffusers_files import choose_weights, read_json, read_weights
from score_sde.models.pretrained.dit_weights import renamed, set_places

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_READ: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "attention_bias": True,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
_IGNORED = ("dropout", "norm_num_groups", "upcast_attention")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu-approximate",),
    "norm_type": ("ada_norm_zero",),
    "attention_type": (None, "default"),
    "interpolation_scale": (None, 1, 1.0),
}
_PLACES, _EMBEDDINGS = "pos_embed.pos_embed", "transformer_blocks.{}.norm1.emb."


def read_transformer(folder: Path) -> DiT:
    """Read the network in a folder, with its weights, in evaluation mode and float32.

    Raises:
        UserError: a file is missing or damaged, or is of another network.
    """
    settings = read_json(folder / "config.json")
    kind = settings.get("_class_name", CLASSES[0])
    if kind not in CLASSES:
        raise UserError(f"{folder / 'config.json'} is not of a {CLASSES[0]}, but {kind}")
    weights = choose_weights((path.name for path in folder.iterdir() if path.name != "config.json"), str(folder))
    return from_transformer(settings, read_weights(folder, weights), str(folder / weights.name))


def from_transformer(settings: Mapping[str, Any], weights: Mapping[str, Tensor], where: str = "the state dict") -> DiT:
    """Build the network of a `DiTTransformer2DModel`, in evaluation mode; it returns all of its channels.

    Args:
        settings: its `config`.
        weights: its state dict.
        where: the origin of the weights, for errors.

    Raises:
        UserError: the settings are of another network, or the weights do not fit them.
    """
    read = _read_settings(settings)
    count, width = read["num_layers"], read["num_attention_heads"] * read["attention_head_dim"]
    weights = {name: tensor.float() for name, tensor in weights.items()}
    check_finite(weights, where)
    alike = _alike(weights, count)
    network = DiT(
        read["sample_size"],
        read["in_channels"],
        read["out_channels"],
        width=width,
        num_blocks=count,
        num_heads=read["num_attention_heads"],
        patch_size=read["patch_size"],
        own_embeddings=not alike,
        conditions={"class": read["num_embeds_ada_norm"]},
    )
    for embedding in network.embeddings:
        embedding.features = CosineFeatures(NUM_TIME_FEATURES, last=NUM_TIME_FEATURES // 2 - 1)
    for block in network.blocks:
        block.norm_mlp = nn.LayerNorm(width, read["norm_eps"], read["norm_elementwise_affine"])
    table = weights.pop(_PLACES, None)
    for index in range(1, count if alike else 1):
        for name in [name for name in weights if name.startswith(_EMBEDDINGS.format(index))]:
            del weights[name]
    _join_projections(weights, count, read["attention_bias"], where)
    if weights.get("pos_embed.proj.weight", torch.empty(0)).ndim == 4:
        weights["pos_embed.proj.weight"] = weights["pos_embed.proj.weight"].flatten(1)
    load_weights(network, renamed(weights, _names(network), where), where)
    if table is not None:
        set_places(network, table, where)
    return network.eval()


def _read_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are read.

    Raises:
        UserError: a setting is not known, or makes it another network than DiT.
    """
    kind = settings.get("_class_name", CLASSES[0])
    needed = set(_READ) - {"out_channels", "norm_eps"} | {"activation_fn", "norm_type"}
    missing = sorted(needed - set(settings)) if kind == CLASSES[1] else []
    if missing:
        raise UserError(f"this {kind} does not say its {missing[0]}, which its class has otherwise than DiT")
    for name, value in settings.items():
        known = name in _READ or name in _IGNORED or name.startswith("_")
        fits = value in _NEUTRAL[name] if name in _NEUTRAL else value is None or value is False
        if not known and not fits:
            raise UserError(f"this {kind} has {name}={value!r}, which is not that of a DiT, or is not known here")
    read = _READ | {name: settings[name] for name in _READ if name in settings}
    for name, value in read.items():
        numbers = (int, float) if name == "norm_eps" else (int,)
        switch = isinstance(_READ[name], bool)
        given = isinstance(value, bool) if switch else type(value) in numbers and value > 0
        if not given and not (name == "out_channels" and value is None):
            raise UserError(
                f"this {kind} has {name}={value!r}, which must be {'true or false' if switch else 'a number'}"
            )
    if read["sample_size"] % read["patch_size"]:
        raise UserError(f"this {kind} has a sample_size of {read['sample_size']}, in patches of {read['patch_size']}")
    return read


def _alike(weights: Mapping[str, Tensor], count: int) -> bool:
    """Return whether all blocks have the embedding of the first."""
    first = _EMBEDDINGS.format(0)
    names = [name.removeprefix(first) for name in weights if name.startswith(first)]

    def same(name: str, index: int) -> bool:
        other = weights.get(_EMBEDDINGS.format(index) + name)
        return other is not None and torch.equal(other, weights[first + name])

    return all(same(name, index) for name in names for index in range(1, count))


def _join_projections(weights: dict[str, Tensor], count: int, biases: bool, where: str) -> None:
    """Join the three projections of attention in one, in place; biases that are not there are zero."""
    for index in range(count):
        attention = f"transformer_blocks.{index}.attn1"
        for kind in ("weight", "bias") if biases else ("weight",):
            parts = [f"{attention}.to_{letter}.{kind}" for letter in "qkv"]
            for name in parts:
                if name not in weights:
                    raise UserError(f"{where} does not fit this network: it has no {name}")
            joined = [weights.pop(name) for name in parts]
            if len({tensor.shape[1:] for tensor in joined}) > 1:
                raise UserError(f"{where} does not fit this network: shapes of {', '.join(parts)} differ")
            weights[f"{attention}.to_qkv.{kind}"] = torch.cat(joined)
        if not biases:
            weights[f"{attention}.to_qkv.bias"] = torch.zeros(len(weights[f"{attention}.to_qkv.weight"]))


def _names(network: DiT) -> dict[str, str]:
    """Return the name here of each weight, by the library's name."""
    parts = {"pos_embed.proj": "input", "proj_out_1": "modulation", "proj_out_2": "output"}
    tables = {}
    for index in range(len(network.embeddings)):
        theirs, ours = _EMBEDDINGS.format(index), f"embeddings.{index}"
        parts |= {f"{theirs}timestep_embedder.linear_1": f"{ours}.hidden"}
        parts |= {f"{theirs}timestep_embedder.linear_2": f"{ours}.output"}
        tables[f"{theirs}class_embedder.embedding_table.weight"] = f"{ours}.condition.vectors.class.weight"
    of_block = {
        "norm1.linear": "modulation",
        "attn1.to_qkv": "query_key_value",
        "attn1.to_out.0": "output",
        "ff.net.0.proj": "expand",
        "ff.net.2": "contract",
    }
    for index, block in enumerate(network.blocks):
        assert isinstance(block.norm_mlp, nn.LayerNorm)
        more = {"norm3": "norm_mlp"} if block.norm_mlp.elementwise_affine else {}
        parts |= {f"transformer_blocks.{index}.{a}": f"blocks.{index}.{b}" for a, b in (of_block | more).items()}
    return tables | {f"{theirs}.{k}": f"{ours}.{k}" for theirs, ours in parts.items() for k in ("weight", "bias")}
