r"""CLIP's loss: of a batch of pictures and captions, which belongs to which (Radford et al. 2021, arXiv:2103.00020).

With embeddings `u_i` of pictures and `v_i` of captions, of norm 1, and a scale `s`,

    loss_i = -1/2 log softmax_j(s u_i · v_j)_i - 1/2 log softmax_j(s u_j · v_i)_i,

the cross-entropy of finding a picture's caption among those of the batch, and a caption's picture. Here alone a
statistic is taken across a batch, by the nature of the loss: what an example costs depends on what it is compared with.
So a batch is not divided, neither among processes nor in parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.data.captions import CAPTION
from score_sde.models.joint_embedding import JointEmbedding
from score_sde.training.objectives import Losses

_BATCH_SIZE = 512


def contrastive_losses(pictures: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Return the losses `(B,)` of embeddings of pictures and of their captions, `(B, d)` of norm 1 each."""
    # Where all else is computed in few digits, logits are not: they may be as large as 100.
    with torch.autocast(pictures.device.type, enabled=False):
        logits = scale * pictures @ captions.T
        found_captions, found_pictures = logits.log_softmax(1).diagonal(), logits.log_softmax(0).diagonal()
        return -(found_captions + found_pictures) / 2


class Contrastive:
    """The loss of a joint embedding compares all examples of a batch; no noise is drawn."""

    def __call__(self, model: JointEmbedding, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; arguments are those of `training.objectives.Objective`.

        Raises:
            UserError: the batch has no captions.
        """
        captions = _captions(batch.condition)
        return Losses(contrastive_losses(model.pictures(batch.x_0), model.captions(captions), model.scale))


def retrieval(x_0: Tensor, condition: Condition | None) -> Callable[[JointEmbedding], dict[str, float]]:
    """Return a function that measures a joint embedding: of how many examples it finds what belongs to them.

    Args:
        x_0: pictures `(N, C, H, W)` in model units.
        condition: the condition of the pictures, with the caption of each.
    """
    words = _captions(condition)

    def measure(model: JointEmbedding) -> dict[str, float]:
        device, own = next(model.parameters()).device, torch.arange(len(x_0))
        with torch.no_grad():
            pictures = torch.cat([model.pictures(part.to(device)).cpu() for part in x_0.split(_BATCH_SIZE)])
            captions = torch.cat([model.captions(part.to(device)).cpu() for part in words.split(_BATCH_SIZE)])
        likeness = pictures @ captions.T
        return {
            "captions_found": (likeness.argmax(1) == own).double().mean().item(),
            "pictures_found": (likeness.argmax(0) == own).double().mean().item(),
        }

    return measure


def _captions(condition: Condition | None) -> Tensor:
    if condition is None or CAPTION not in condition.values:
        raise UserError("a joint embedding needs captions, which these data have not")
    return condition.values[CAPTION]
