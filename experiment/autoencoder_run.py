"""A trained autoencoder from Python: examples to latents and back, and what its bound says of examples.

run = load("runs/autoencoders_glyphs")
run.decode(run.encode(x))           float32 latents (N, channels, *size / f), as models of latents see them unscaled
run.reconstruct(x)                  examples
run.bits_per_dim(x)                 the bound, one number an example, as --mode likelihood measures it
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import SampleNoise
from score_sde.data.latent_units import Latents
from score_sde.data.units import Bins, Points, Standardised
from score_sde.experiment.arrays import as_array, as_examples
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.reconstructions import rated
from score_sde.experiment.run import Examples, Run


class AutoencoderRun(Run):
    """An autoencoder encodes, decodes, reconstructs and measures examples; it draws none.

    Attributes:
        model: the autoencoder, in model units.
    """

    def encode(self, x: Examples, *, seed: int | None = None, **options: Any) -> np.ndarray:
        """Return the latents of examples, float32 `(N, channels, *size / f)`; of one example those of one.

        Args:
            x: examples, as `run.dataset.train` has them.
            seed: latents are drawn, those of example `i` with `seed + i`; without one they are the means.
            options: none.
        """
        _check_none(options)
        examples, alone = as_examples(self._experiment.dataset, x)
        noise = None if seed is None else SampleNoise(range(seed, seed + len(examples)), "dequantisation")
        latents = self._latents.encode(examples, noise).numpy()
        return latents[0] if alone else latents

    def decode(self, z: Examples, **options: Any) -> np.ndarray:
        """Return the examples of latents, in data units; of one that of one.

        Raises:
            UserError: latents are not of the shape of the autoencoder's.
        """
        _check_none(options)
        shape = self._latents.shape_of(self._experiment.dataset.shape)
        latents = torch.as_tensor(as_array(z)).to(torch.get_default_dtype())
        alone = latents.shape == shape
        latents = latents[None] if alone else latents
        if latents.shape[1:] != shape:
            raise UserError(f"latents have shape {shape}, or (N, …) of them, not {tuple(latents.shape)}")
        examples = self._latents.decode(latents).numpy()
        return examples[0] if alone else examples

    def reconstruct(self, x: Examples) -> np.ndarray:
        """Return what is decoded of the means of the latents of examples, in data units, of their shape."""
        return self.decode(self.encode(x))

    def log_prob(
        self, x: Examples, *, condition: Any = None, given: Any = None, seed: int | None = None, **options: Any
    ) -> Any:
        """Return the bound on the log-probability, or log-density, of examples in data units, in nats, `(N,)` float64.

        Args:
            x: examples, as `run.dataset.train` has them.
            condition: none, as the next.
            given: none.
            seed: latents of example `i` are drawn once, with `seed + i`.
            options: none.
        """
        if isinstance(x, Tensor) and x.requires_grad:
            raise UserError("an autoencoder's bound is not differentiated here: see run.model.terms")
        return super().log_prob(x, condition=condition, given=given, seed=seed, **options)

    def _measured(
        self, examples: Tensor, condition: Any, seed: int | None, options: Mapping[str, Any], given: Any = None
    ) -> Tensor:
        """Return the bound on `log p(x)` of each example, `(N,)`, float64."""
        if condition is not None or given is not None:
            raise UserError("an autoencoder is told nothing: leave out condition and given")
        _check_none(options)
        first = self.config.seed if seed is None else seed
        found = rated(self._experiment, examples, list(range(first, first + len(examples))))
        return -(found["rate"] + found["distortion"]) * examples[0].numel() * math.log(2)

    def _with(self, mode: str, seed: int | None, options: Mapping[str, Any]) -> Experiment:
        """Refuse what is asked of models that draw samples and have densities.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this is an autoencoder, which encodes, decodes, reconstructs and measures: to draw, train a model of its "
            f"latents, data.autoencoder={self._experiment.path}"
        )

    @cached_property
    def _latents(self) -> Latents:
        units = self._experiment.dataset.units
        assert isinstance(units, Bins | Points | Standardised)
        return Latents(self.model, units)


def _check_none(options: Mapping[str, Any]) -> None:
    if options:
        raise UserError(f"an autoencoder has no options such as {next(iter(options))}")
