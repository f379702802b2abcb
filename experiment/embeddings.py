"""Joint embeddings of pictures and captions: trained runs of `configs/unclip/embedding.py`, and what they make of data.

    data.embedding          data are the embeddings of pictures by this run: what a prior is of
    data.embed_condition    models of pictures are told their embeddings by this run: what a decoder is

    <data.folder>/embeddings_<digest>.safetensors    embeddings of all parts, named for the weights and the pictures

A file of this name that is damaged is written anew; it can be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home, write_atomically
from score_sde.common.resumable import digest
from score_sde.common.weight_files import read_safetensors
from score_sde.data import Dataset
from score_sde.data.captions import CAPTION, Words
from score_sde.data.dataset import described
from score_sde.data.embeddings import as_embeddings, with_embeddings
from score_sde.data.words import PARTS, Part
from score_sde.experiment import checkpoints, configuration, other_run
from score_sde.experiment.arrays import as_examples
from score_sde.experiment.captions import told_captions
from score_sde.experiment.experiment import Experiment
from score_sde.models.joint_embedding import JointEmbedding

# Pictures, or captions, that are embedded together.
_AT_ONCE = 512


@dataclass(frozen=True)
class Embedder:
    """A trained joint embedding embeds pictures as its data hold them, and captions in words.

    Attributes:
        model: the joint embedding.
        config: its configuration.
        dataset: what is known of the data that it was trained on.
    """

    model: JointEmbedding
    config: ConfigDict
    dataset: Dataset

    @cached_property
    def digest(self) -> str:
        """The digest is that of the weights."""
        weights = self.model.state_dict()
        return digest(*(weights[name] for name in sorted(weights)))

    def pictures(self, examples: Tensor) -> Tensor:
        """Return the embeddings `(N, d)`, float32, of pictures `(N, C, H, W)` of levels."""
        return self._in_parts(lambda part: self.model.pictures(self.dataset.units.encode(part)), examples)

    def captions(self, captions: list[str]) -> Tensor:
        """Return the embeddings `(N, d)`, float32, of captions.

        Raises:
            UserError: a word of one is not known.
        """
        words = self.dataset.condition_units[CAPTION]
        assert isinstance(words, Words)
        return self._in_parts(self.model.captions, told_captions(self.config, CAPTION, words, captions))

    def _in_parts(self, embed: Callable[[Tensor], Tensor], examples: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        with torch.no_grad():
            parts = [embed(part.to(device)).float().cpu() for part in examples.split(_AT_ONCE)]
        return torch.cat(parts) if len(examples) else torch.empty(0, self.model.size)


def embed(experiment: Experiment, x: Any) -> np.ndarray:
    """Return the embeddings `(N, d)` of pictures or captions in a joint space, or that of one alone, `(d,)`; float32.

    Raises:
        UserError: the model is none, or pictures or captions are none that it knows.
    """
    model, dataset = experiment.model, experiment.dataset
    if not isinstance(model, JointEmbedding):
        raise UserError("this model embeds nothing: load a run of configs/unclip/embedding.py")
    embedder = Embedder(model, experiment.config, dataset)
    if isinstance(x, str):
        return embedder.captions([x])[0].numpy()
    if isinstance(x, list | tuple) and x and all(isinstance(caption, str) for caption in x):
        return embedder.captions(list(x)).numpy()
    examples, alone = as_examples(dataset, x)
    found = embedder.pictures(examples).numpy()
    return found[0] if alone else found


def find_embedder(place: str) -> Embedder:
    """Load a run, or its checkpoint, that is a joint embedding.

    Raises:
        UserError: there is no such run, or it is of something else.
    """
    found = checkpoints.find(other_run.newest(place))
    if found.config is None or found.data is None:
        raise UserError(f"{found.path} is no run of this project")
    trained_with = configuration.from_dict(found.config, str(found.path))
    data = trained_with.data
    dataset = described(found.data, data.low, data.high, data.uniform_dequantisation)
    model = found.make_model(trained_with, dataset)
    if not isinstance(model, JointEmbedding):
        raise UserError(f"{found.path} is no joint embedding: train one, with --config configs/unclip/embedding.py")
    return Embedder(model.to(distributed.device()).eval().requires_grad_(False), trained_with, dataset)


def of_embeddings(config: ConfigDict, dataset: Dataset) -> Dataset:
    """Return data as embeddings, or with them as a condition, if the section `data` names a run that makes them.

    Raises:
        UserError: there is no such run, or it is of other pictures.
    """
    data = config.data
    for key, made in (("embedding", as_embeddings), ("embed_condition", with_embeddings)):
        if data[key] is not None:
            with naming(f"data.{key}"):
                embedder = find_embedder(data[key])
                _check_pictures(embedder, dataset)
                return made(dataset, _embeddings(config, dataset, embedder), embedder.digest)
    return dataset


def _check_pictures(embedder: Embedder, dataset: Dataset) -> None:
    """Raise `UserError` unless pictures are such as the run embeds."""
    for what in ("shape", "levels"):
        here, there = getattr(dataset, what), getattr(embedder.dataset, what)
        if here != there:
            raise UserError(f"the run embeds pictures with {what} {there}, and {dataset.name} has {here}")


def _embeddings(config: ConfigDict, dataset: Dataset, embedder: Embedder) -> dict[Part, Tensor]:
    """Return the embeddings of all parts, computed once."""
    pictures: dict[Part, Tensor] = {part: getattr(dataset, part) for part in PARTS}
    name = digest(torch.frombuffer(bytearray(embedder.digest.encode()), dtype=torch.uint8), *pictures.values())
    path = at_home(config.data.folder) / f"embeddings_{name}.safetensors"
    known = _read(path)
    if known is not None and all(part in known and len(known[part]) == len(pictures[part]) for part in PARTS):
        return {part: known[part] for part in PARTS}
    made = {part: embedder.pictures(examples) for part, examples in pictures.items()}
    with write_atomically(path) as temporary:
        temporary.write_bytes(safetensors.torch.save({str(part): values for part, values in made.items()}))
    return made


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return read_safetensors(path)[0]
    except UserError:
        return None
