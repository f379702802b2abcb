r"""The loss of a classifier of noisy states, and its accuracy at several times.

loss = E_t E -log p_t(y | x_t),        x_t = alpha x_0 + sigma eps
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise, SampleNoise
from score_sde.data import Batch
from score_sde.models import NoisyClassifier
from score_sde.sde.times import TimeDistribution, UniformLogSNR, sample_times
from score_sde.training.objectives import Losses

_NUM_TIMES = 9
_BATCH_SIZE = 256


class Classification:
    """The cross-entropy is estimated at one time and one noise an example.

    Args:
        times: the distribution that times are drawn from.
        stratified: whether the times of a batch are spread evenly.
    """

    def __init__(self, times: TimeDistribution, stratified: bool = True) -> None:
        self.times = times
        self.stratified = stratified

    def __call__(self, model: NoisyClassifier, batch: Batch, noise: BatchNoise | None = None) -> Losses:
        """Return the losses of a batch; arguments are those of `training.objectives.Objective`.

        Raises:
            UserError: the batch has no classes.
        """
        if batch.condition is None:
            raise UserError("a classifier needs classes, which these data have not")
        x_0, source = batch.x_0, noise or BatchNoise(len(batch))
        t = sample_times(self.times, source, self.stratified)
        log_probs = model.log_probs(model.sde.perturb(x_0, source.normal(x_0), t), t)
        return Losses(-log_probs.gather(1, batch.condition.values["class"][:, None]).squeeze(1), t)


def accuracy_by_log_snr(
    x_0: Tensor, condition: Condition, t_min: float, seed: int
) -> Callable[[NoisyClassifier], dict[str, float]]:
    """Return a function that measures a classifier: its accuracy at nine log-SNRs, evenly spaced from `T` to `t_min`.

    Args:
        x_0: examples `(N, *dims)` in model units.
        condition: the condition of the examples, with the class of each.
        t_min: smallest time.
        seed: example `i` has noise `seed + i`.
    """

    def measure(model: NoisyClassifier) -> dict[str, float]:
        device = next(model.parameters()).device
        log_snrs = UniformLogSNR(model.sde, t_min)
        values, draw = {}, SampleNoise(range(seed, seed + len(x_0)), "solver").normal(x_0)
        with torch.no_grad():
            for t in log_snrs.quantile(torch.linspace(0, 1, _NUM_TIMES, dtype=torch.float64)):
                noisy = model.sde.perturb(x_0, draw, t).split(_BATCH_SIZE)
                found = torch.cat([model.log_probs(part.to(device), t).argmax(1).cpu() for part in noisy])
                accuracy = (found == condition.values["class"]).double().mean().item()
                values[f"accuracy_at_log_snr/{model.sde.log_snr(t).item():.1f}"] = accuracy
        return values

    return measure
