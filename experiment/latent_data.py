"""Data as the latents of a trained autoencoder, `data.autoencoder`: its units, and what it makes of training examples.

It is one of our own, by its run or a checkpoint, or one of the library diffusers, by its folder or a pipeline's.

    <data.folder>/latents_<digest>.safetensors    means and deviations of the latents of training examples, `encoded`,
                                                  named for the weights of the autoencoder and the examples

A file of this name that is damaged is written anew; it can be deleted at any time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home, write_atomically
from score_sde.common.resumable import digest
from score_sde.common.weight_files import load_weights, read_safetensors
from score_sde.data import Dataset
from score_sde.data.dataset import described
from score_sde.data.latent_units import Latents, scaled
from score_sde.data.units import Bins, Points, Standardised
from score_sde.experiment import checkpoints, configuration, other_run
from score_sde.experiment.autoencoders import about_autoencoder, autoencoder_of
from score_sde.experiment.library_autoencoders import latents_of_library, with_width
from score_sde.experiment.networks import AUTOENCODERS
from score_sde.models.pretrained.diffusers_autoencoder import is_of_library


def of_latents(config: ConfigDict, dataset: Dataset) -> Dataset:
    """Return data that are seen as latents, if the section `data` names an autoencoder, with what it makes of them.

    Data that are latents already, those of a checkpoint, keep the autoencoder that they have.

    Raises:
        UserError: there is no such autoencoder, or it is of other data.
    """
    if isinstance(dataset.units, Latents):
        return replace(dataset, encoded=_encoded(config, dataset, dataset.units))
    if config.data.autoencoder is None:
        return dataset
    if config.data.missing or config.data.masks or config.data.distortion:
        raise UserError(
            "latents are of whole examples as they are: --config.data.missing=False --config.data.masks= "
            "--config.data.distortion=0"
        )
    with naming("data.autoencoder"):
        units = _units(config.data.autoencoder, dataset)
    if not len(dataset.train):
        raise UserError(f"latents are scaled by those of training examples, of which {dataset.name} has none")
    encoded = _encoded(config, dataset, units)
    units = with_width(scaled(units, encoded), dataset.train, encoded, config.seed)
    return replace(dataset, units=units, encoded=encoded)


def _units(place: str, dataset: Dataset) -> Latents:
    """Return the latents of an autoencoder (a run's, a checkpoint's, diffusers' folder) that are not scaled yet."""
    path = at_home(place)
    if is_of_library(path):
        return latents_of_library(path, dataset)
    if not path.exists() and checkpoints.is_pipeline(path):
        raise UserError(f"there is no {place}; nothing is fetched: hf download {place} --local-dir FOLDER")
    found = checkpoints.find(other_run.newest(place))
    if found.config is None or found.data is None or found.weights is None:
        raise UserError(f"{found.path} is no run of this project")
    trained_with = configuration.from_dict(found.config, str(found.path))
    if trained_with.model.network not in AUTOENCODERS:
        raise UserError(
            f"{found.path} is no autoencoder: train one, with --config autoencoders/glyphs and your --config.data.path"
        )
    data = trained_with.data
    theirs = described(found.data, data.low, data.high, data.uniform_dequantisation)
    for what in ("shape", "levels"):
        if getattr(theirs, what) != getattr(dataset, what):
            raise UserError(
                f"{found.path} is of examples with {what} {getattr(theirs, what)}, and {dataset.name} has "
                f"{getattr(dataset, what)}"
            )
    about = about_autoencoder(trained_with, theirs)
    autoencoder = autoencoder_of(about)
    load_weights(autoencoder, found.weights, str(found.path))
    assert isinstance(theirs.units, Bins | Points | Standardised)
    return Latents(autoencoder.to(distributed.device()).eval().requires_grad_(False), theirs.units, about)


def _encoded(config: ConfigDict, dataset: Dataset, units: Latents) -> Tensor:
    """Return what an autoencoder makes of the training examples, computed once."""
    path = at_home(config.data.folder) / f"latents_{units.digest}_{digest(dataset.train)}.safetensors"
    with distributed.one_first():
        shape = (len(dataset.train), 2, *units.shape_of(dataset.shape))
        known = _read(path)
        if known is not None and known.shape == shape:
            return known
        encoded = units.encoded(dataset.train)
        with write_atomically(path) as temporary:
            temporary.write_bytes(safetensors.torch.save({"encoded": encoded.contiguous()}))
        return encoded


def _read(path: Path) -> torch.Tensor | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return read_safetensors(path)[0].get("encoded")
    except UserError:
        return None
