r"""Moving averages of any length, reconstructed after training.

    python -m score_sde.training.reconstruct --workdir runs/photos --decay 0.99

After `n` updates an average of the weights `theta_1 … theta_n` (and of the initial ones, `theta_0`) is

    sum_k p_k theta_k,        p_k = (1 - d_k) prod_{k < j <= n} d_j,        p_0 = prod_j d_j

with `d_j` the decay of update `j` (see `models.ema`): it is known by its profile `p`. What checkpoints keep are such
averages, of several lengths and at several steps. The wanted one is approached by the combination of them whose profile
is nearest to its own (Karras et al. 2024, arXiv:2312.02696, section 3.2, who keep power functions of the step; any
averages do). The more checkpoints and lengths were kept, the better: how near it comes is printed, 0 for the average
itself, 1 for nothing alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import at_home
from score_sde.models.ema import decay_of_update
from score_sde.training import checkpoint

# Training is divided into so many stretches, on which profiles are compared.
_STRETCHES = 4000


def stretches(last: int) -> np.ndarray:
    """Return the updates at which stretches of training end, from 0, `last` the last one."""
    return np.unique(np.linspace(0, last, min(last, _STRETCHES) + 1).round().astype(int))


def profile(decay: float, updates: int, ends: np.ndarray) -> np.ndarray:
    """Return the weight that an average after `updates` updates gives to the initial weights, then to each stretch."""
    logs = np.log([decay_of_update(decay, update) for update in range(updates)])
    remains = np.concatenate([[0.0], np.cumsum(logs)])
    # This share of what was there after update k is left at the end.
    left = np.where(ends <= updates, np.exp(remains[-1] - remains[np.minimum(ends, updates)]), 1.0)
    return np.concatenate([left[:1], np.diff(left)])


def coefficients(kept: Sequence[tuple[float, int]], wanted: tuple[float, int]) -> tuple[np.ndarray, float]:
    """Find the combination of averages, each given by its decay and number of updates, nearest to the wanted one.

    Returns:
        The coefficients, which add up to 1, and the distance of the profiles relative to the wanted one's length.
    """
    ends = stretches(wanted[1])
    # Densities are compared: the square of a difference counts half as much on a stretch of twice the length.
    scale = 1 / np.sqrt(np.concatenate([[1.0], np.diff(ends)]))
    columns = np.stack([profile(*one, ends) * scale for one in kept], axis=1)
    target = profile(*wanted, ends) * scale
    # Least squares of differences from the first average keep the sum at 1.
    rest, *_ = np.linalg.lstsq(columns[:, 1:] - columns[:, :1], target - columns[:, 0], rcond=1e-10)
    combination = np.concatenate([[1 - rest.sum()], rest])
    return combination, float(np.linalg.norm(columns @ combination - target) / np.linalg.norm(target))


def reconstruct(folder: Path, decay: float) -> tuple[Path, float]:
    """Write the average with this decay at the last step of the run in `folder`; return where, and the distance.

    Raises:
        UserError: there is no checkpoint, or the decay is out of range.
    """
    if not 0 < decay < 1:
        raise UserError(f"a decay lies between 0 and 1, not {decay:g}")
    paths = sorted((folder / "checkpoints").glob("step_*.pt"))
    if not paths:
        raise UserError(f"there is no checkpoint in {folder}")
    kept, averages = [], []
    for path in paths:
        state = checkpoint.load(path)
        updates = state["ema_updates"]
        for one, weights in checkpoint.averages(state).items():
            kept.append((one, updates))
            averages.append(weights)
    combination, distance = coefficients(kept, (decay, updates))
    weights = {name: combine([average[name] for average in averages], combination) for name in averages[-1]}
    path = folder / "averages" / f"{paths[-1].stem}_{decay:g}.safetensors"
    checkpoint.save_weights(weights, state["config"], path, state.get("data"))
    return path, distance


def combine(tensors: Sequence[Tensor], combination: np.ndarray) -> Tensor:
    """Combine tensors, in float64; of those of whole numbers, which are not averaged, the last one is taken."""
    if not tensors[-1].is_floating_point():
        return tensors[-1]
    total = sum(c * tensor.double() for c, tensor in zip(combination.tolist(), tensors, strict=True))
    assert isinstance(total, Tensor)
    return total.to(tensors[-1].dtype)


def main() -> int:
    """Run the command: parse its arguments, and write the average that they ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--decay", type=float, required=True)
    arguments = parser.parse_args()
    try:
        path, distance = reconstruct(at_home(arguments.workdir), arguments.decay)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: relative distance {distance:.3f}; use it with --checkpoint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
