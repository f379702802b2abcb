"""Samples on their way from noise to data, as a GIF: `run.animate`."""

from __future__ import annotations

from pathlib import Path

import torch

from score_sde.common.condition import Condition
from score_sde.evaluation.samples.draw import as_array
from score_sde.experiment import sampling
from score_sde.experiment.experiment import Experiment

_MOST_FRAMES = 60


def animate(experiment: Experiment, asked: Condition | None, path: Path, seconds: float) -> Path:
    """Write a GIF of the samples that the section `sampling` asks for; return its path.

    What is shown of a state is `x / sqrt(alpha^2 + sigma^2)`, in data units.
    """
    from score_sde.common.animation import animate as write
    from score_sde.common.animation import evenly
    from score_sde.common.plots import frames

    dataset, sde = experiment.dataset, experiment.model.sde
    trajectory = sampling.trajectory(experiment, asked)
    log_snr = [float(sde.at(state.t).log_snr.mean()) for state in trajectory]
    states = []
    for number in evenly(log_snr, _MOST_FRAMES):
        here = sde.at(trajectory[number].t)
        x = trajectory[number].x
        states.append(as_array((sde.expand(1 / torch.hypot(here.alpha, here.sigma), x) * x).cpu(), dataset))
    write(list(frames(dataset.kind, states)), path, seconds)
    return path
