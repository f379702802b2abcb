"""Weights of a network, for one that is told more pictures beside the states: what is new begins at zero.

So GLIDE is fine-tuned to inpaint (Nichol et al. 2021, arXiv:2112.10741, section 2.4): until it is trained, the network
hears nothing of what it is told, and is the one that it began from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# The first layer of networks that lay pictures beside the states, as further channels after these.
_FIRST = "conv_in.weight"


def with_room_for_pictures(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Return weights of which the first layer has as many inputs as that of a module, and how many of these are new."""
    wider, added = dict(weights), 0
    for name, own in module.state_dict().items():
        theirs = weights.get(name)
        if theirs is None or not name.endswith(_FIRST) or theirs.ndim != own.ndim:
            continue
        more = own.shape[1] - theirs.shape[1]
        if more > 0 and theirs.shape[:1] + theirs.shape[2:] == own.shape[:1] + own.shape[2:]:
            zeros = theirs.new_zeros(theirs.shape[0], more, *theirs.shape[2:])
            wider[name], added = torch.cat([theirs, zeros], dim=1), added + more
    return wider, added
