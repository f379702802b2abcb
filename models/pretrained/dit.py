r"""Networks of the published code for DiT and SiT, read from their state dicts into `DiT`.

    DiT    facebookresearch/DiT (Peebles & Xie 2022, arXiv:2212.09748)
    SiT    willisma/SiT (Ma et al. 2024, arXiv:2401.08740): the same network, of the same names

Both work on latents, those of Stable Diffusion's autoencoder times 0.18215, and are told one of 1000 classes.

|     | process                                   | label at t    | the output is                      |
|-----|-------------------------------------------|---------------|------------------------------------|
| DiT | DDPM's ladder, betas from 1e-4 to 0.02    | rung, from 0  | the noise, and beside it variances |
| SiT | `x = (1 - t) x_0 + t eps`                 | `1 - t`       | `x_0 - eps`, and as much unused    |

A state dict tells all of a network's sizes but the number of heads, which follows from the published widths, and
whether classes may be hidden, as those of all published ones may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.weight_files import load_weights, read_safetensors, read_torch, unwrapped
from score_sde.models.layers.condition import Always
from score_sde.models.networks.dit import DiT
from score_sde.models.score_model import ScoreModel
from score_sde.sde import DDPMLadder, RectifiedFlow, ddpm_betas

# The published widths, and how many heads divide each.
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
# float32's rounding of numbers up to 1.
_ROUNDING = 1e-6
_WHERE = "the state dict"


class Means(nn.Module):
    """Of a network that predicts more than means, say variances too, only the means are handed on: its first channels.

    Args:
        network: called as `network(x, noise_label)`, or with a condition.
        sign: what they are multiplied by.

    Attributes:
        image_shape: shape of an example, `(channels, *size)`.
    """

    def __init__(self, network: DiT, sign: int = 1) -> None:
        super().__init__()
        self.network, self.sign = network, sign
        self.image_shape = (network.in_channels, *network.size)

    def forward(self, x: Tensor, noise_label: Tensor, *condition: Any) -> Tensor:
        """Return the predicted means, shape of `x`."""
        return self.sign * self.network(x, noise_label, *condition)[:, : x.shape[1]]


def read_reference_dit(path: Path, num_heads: int | None = None, class_dropout: bool = True) -> DiT:
    """Read a file of the published DiT or SiT code; of a checkpoint of their training, the moving average.

    Args:
        path: what `torch.save` wrote, or a `.safetensors` file.
        num_heads: heads of attention; those of the published width if left out.
        class_dropout: whether classes may be hidden.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    found = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch(path)
    if isinstance(found, Mapping) and isinstance(found.get("ema"), Mapping):
        found = found["ema"]
    return from_reference_dit(unwrapped(found, str(path)), num_heads, class_dropout, str(path))


def from_reference_dit(
    weights: Mapping[str, Tensor], num_heads: int | None = None, class_dropout: bool = True, where: str = _WHERE
) -> DiT:
    """Build the network that a published state dict is of, in evaluation mode; it returns all of their channels.

    Args:
        weights: tensors under the published names, with or without the prefixes of wrappers.
        num_heads: heads of attention; those of the published width if left out.
        class_dropout: whether classes may be hidden, so that the last row of their table means that.
        where: the origin of the weights, for errors.

    Raises:
        UserError: the weights are of another network, or not finite, or their places are not the published sines.
    """
    weights = unwrapped(weights, where)
    width, channels, patch_size = _sizes(weights, where)
    rows, side = len(weights["y_embedder.embedding_table.weight"]), math.isqrt(weights["pos_embed"].shape[1])
    out_channels = len(weights["final_layer.linear.weight"]) // patch_size**2
    if num_heads is None and width not in _HEADS:
        raise UserError(f"{where} is of width {width}, which is not published: say num_heads")
    blocks = {int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))}
    network = DiT(
        side * patch_size,
        channels,
        out_channels,
        width=width,
        num_blocks=len(blocks),
        num_heads=_HEADS[width] if num_heads is None else num_heads,
        patch_size=patch_size,
        conditions={"class": rows - 1 if class_dropout else Always(rows)},
    )
    given = {name: tensor for name, tensor in weights.items() if name != "pos_embed"}
    given["x_embedder.proj.weight"] = given["x_embedder.proj.weight"].flatten(1)
    load_weights(network, renamed(given, reference_names(network), where), where)
    set_places(network, weights["pos_embed"], where)
    return network.eval()


def dit_model(network: DiT) -> ScoreModel:
    """Make the score model of a published DiT, of latents, in evaluation mode; `class` is its condition."""
    sde = DDPMLadder(ddpm_betas(1000, 0.1, 20.0))
    return ScoreModel(Means(network), sde, "noise", "rung", scale_input=False).eval()


def sit_model(network: DiT) -> ScoreModel:
    """Make the model of a published SiT, of latents, in evaluation mode; `class` is its condition."""
    sde = RectifiedFlow()
    return ScoreModel(Means(network, sign=-1), sde, "flow", lambda t: 1 - t, scale_input=False).eval()


def reference_names(network: DiT) -> dict[str, str]:
    """Return the name here of each weight, by its published name."""
    of_all = {
        "x_embedder.proj": "input",
        "t_embedder.mlp.0": "embeddings.0.hidden",
        "t_embedder.mlp.2": "embeddings.0.output",
        "final_layer.linear": "output",
        "final_layer.adaLN_modulation.1": "modulation",
    }
    of_block = {
        "attn.qkv": "query_key_value",
        "attn.proj": "output",
        "mlp.fc1": "expand",
        "mlp.fc2": "contract",
        "adaLN_modulation.1": "modulation",
    }
    for index in range(len(network.blocks)):
        of_all |= {f"blocks.{index}.{theirs}": f"blocks.{index}.{ours}" for theirs, ours in of_block.items()}
    names = {f"{theirs}.{k}": f"{ours}.{k}" for theirs, ours in of_all.items() for k in ("weight", "bias")}
    return names | {"y_embedder.embedding_table.weight": "embeddings.0.condition.vectors.class.weight"}


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """Return weights under other names; those that have none keep theirs.

    Args:
        weights: a state dict.
        names: the name here, by the published name; all must be there.
        where: the origin of the weights, for the error.

    Raises:
        UserError: a weight is missing.
    """
    for name in names:
        if name not in weights:
            raise UserError(f"{where} does not fit this network: it has no {name}")
    return {names.get(name, name): tensor for name, tensor in weights.items()}


def set_places(network: DiT, table: Tensor, where: str) -> None:
    """Give a network the table of places that was saved with it, which must be the published one.

    Args:
        network: the network, of square examples, which is changed in place.
        table: what was saved, `(1, N, width)`.
        where: the origin of the table, for the error.

    Raises:
        UserError: it is another table.
    """
    here = network.places[None]
    if table.shape != here.shape or not bool(((table - here).abs() <= _ROUNDING).all()):
        raise UserError(f"{where} has other places of patches than the published sines and cosines of a square")
    network.places.copy_(table[0])


def _sizes(weights: Mapping[str, Tensor], where: str) -> tuple[int, int, int]:
    """Return the width, the channels and the size of a patch, after a look at the shapes that tell the sizes.

    Raises:
        UserError: a tensor that tells them is not there, or has another number of axes.
    """
    axes = {
        "x_embedder.proj.weight": 4,
        "pos_embed": 3,
        "y_embedder.embedding_table.weight": 2,
        "final_layer.linear.weight": 2,
    }
    for name, count in axes.items():
        if name not in weights:
            raise UserError(f"{where} is not of the published DiT or SiT: it has no {name}")
        if weights[name].ndim != count or not weights[name].numel():
            raise UserError(f"{where} is not of the published DiT or SiT: {name} is {tuple(weights[name].shape)}")
    width, channels, patch_size, _ = weights["x_embedder.proj.weight"].shape
    return width, channels, patch_size
