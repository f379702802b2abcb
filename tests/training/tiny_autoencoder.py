"""An autoencoder of a few hundred weights, of series, with its adversary: for tests of how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.data import Batch
from score_sde.experiment import configuration
from score_sde.models.autoencoder import KLAutoencoder
from score_sde.models.decoded import Normal
from score_sde.training.adversary import Adversary
from score_sde.training.autoencoding import Autoencoding
from score_sde.training.loss_means import LossByTerm
from score_sde.training.trainer import Trainer

LENGTH = 32
# Frequencies from this one on are noise alone.
NOISE_FROM = 4


def settings(**values: Any) -> ConfigDict:
    config = configuration.load_file("configs/default.py")
    config.training.update(num_steps=8, batch_size=16, learning_rate=5e-3, warmup_steps=0, ema_decay=0.9)
    config.training.update(schedule="constant", adam_beta1=0.5, adam_beta2=0.99)
    config.training.update(checkpoint_every=0, log_every=0, evaluate_every=0, sample_every=0)
    config.training.update(values)
    return config


def autoencoder() -> KLAutoencoder:
    """Return the autoencoder, which keeps 8 numbers of 32, with the weights of a seed."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv1d(1, 16, 8, 4, 2), nn.LeakyReLU(0.2), nn.Conv1d(16, 2, 3, 1, 1))
    wide = [nn.Conv1d(1, 16, 3, 1, 1), nn.LeakyReLU(0.2), nn.ConvTranspose1d(16, 16, 8, 4, 2), nn.LeakyReLU(0.2)]
    model = KLAutoencoder(encoder, nn.Sequential(*wide, nn.Conv1d(16, 1, 3, 1, 1)), Normal(), factor=4, channels=1)
    model.decoded.log_width.data.zero_()
    return model


def discriminator() -> nn.Module:
    """Return the discriminator, with 8 patches, with the weights of a seed."""
    torch.manual_seed(1)
    first = [nn.Conv1d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv1d(16, 16, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*first, nn.Conv1d(16, 1, 3, 1, 1))


def series(count: int, seed: int) -> Tensor:
    """Return smooth series with white noise of deviation 1/2, `(N, 1, 32)`."""
    generator = torch.Generator().manual_seed(seed)
    smooth, noise = torch.randn(2, count, 1, LENGTH, generator=generator)
    waves = torch.fft.rfft(smooth)
    waves[..., NOISE_FROM:] = 0
    return 1.5 * torch.fft.irfft(waves, n=LENGTH) + 0.5 * noise


class SeriesBatches:
    """Batches are functions of their number; each process has its rows of them."""

    def __init__(self, size: int) -> None:
        self.step, self.size = 0, size

    def __next__(self) -> Batch:
        batch = Batch(series(self.size, self.step)[distributed.rows()])
        self.step += 1
        return batch


def trainer_of(folder: Path, weight: float | None = 0.2, **values: Any) -> Trainer:
    """Return what trains the autoencoder in a folder, with an adversary unless its weight is None."""
    config = settings(**values)
    adversary = None if weight is None else Adversary(discriminator().to(distributed.device()), config.training)
    objective = Autoencoding(0.05, adversary=adversary, adversarial_weight=weight or 0.0)
    means = LossByTerm(objective.names) if objective.names else None
    batches = SeriesBatches(config.training.batch_size)
    held_out = Batch(series(32, seed=10**6))
    return Trainer(autoencoder(), objective, batches, held_out, config, folder, means=means)
