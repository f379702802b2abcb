r"""Networks of the published code for DiT and SiT, read from their state dicts into `DiT`.

    DiT    facebookresearch/DiT (Peebles & Xie 2022, arXiv:2212.09748)
    SiT    willisma/SiT (Ma et al. 2024, arXiv:2401.08740): the same network, of the same names

Both work on latents, those of Stable Diffusion's autoencoder times 0.18215, and are told one of 1000 classes.

|     | process                                   | label at t    | the output is                      |
|-----|-------------------------------------------|---------------|------------------------------------|
| DiT | DDPM's ladder, betas from 1e-4 to 0.02    | rung, from 0  | the noise, and beside it variances |
| SiT | `x = (1 - t) x_0 + t eps`                 | `1 - t`       | `x_0 - eps`, and as much unused    |

What their files hold is in `models.pretrained.dit_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.common.weight_files import unwrapped
from score_sde.models.layers.condition import Always
from score_sde.models.networks.dit import DiT
from score_sde.models.pretrained.dit_weights import load_reference, read_reference_weights, sizes_of
from score_sde.models.score_model import ScoreModel
from score_sde.sde import DDPMLadder, RectifiedFlow, ddpm_betas

# The published widths, and how many heads divide each.
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
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
    return from_reference_dit(read_reference_weights(path), num_heads, class_dropout, str(path))


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
    sizes = sizes_of(weights, where)
    if num_heads is None and sizes.width not in HEADS:
        raise UserError(f"{where} is of width {sizes.width}, which is not published: say num_heads")
    network = DiT(
        sizes.size,
        sizes.channels,
        sizes.out_channels,
        width=sizes.width,
        num_blocks=sizes.num_blocks,
        num_heads=HEADS[sizes.width] if num_heads is None else num_heads,
        patch_size=sizes.patch_size,
        conditions={"class": sizes.num_vectors - 1 if class_dropout else Always(sizes.num_vectors)},
    )
    load_reference(network, weights, where)
    return network.eval()


def dit_model(network: DiT) -> ScoreModel:
    """Make the score model of a published DiT, of latents, in evaluation mode; `class` is its condition."""
    sde = DDPMLadder(ddpm_betas(1000, 0.1, 20.0))
    return ScoreModel(Means(network), sde, "noise", "rung", scale_input=False).eval()


def sit_model(network: DiT) -> ScoreModel:
    """Make the model of a published SiT, of latents, in evaluation mode; `class` is its condition."""
    sde = RectifiedFlow()
    return ScoreModel(Means(network, sign=-1), sde, "flow", "alpha", scale_input=False).eval()
