"""Pictures as embeddings of a trained encoder: data by themselves, or what models of the pictures are told of them.

unCLIP (Ramesh et al. 2022, arXiv:2204.06125) has both: a prior is a model of embeddings given captions, and a decoder
one of pictures given their embeddings, which it is told in the place of captions.

Whose embeddings they are, data remember by the digest of the encoder's weights, so that a model is not given those of
another: to it, they mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from score_sde.data.captions import CAPTION
from score_sde.data.conditions import condition_units
from score_sde.data.dataset import Dataset
from score_sde.data.units import Standardised, standardised
from score_sde.data.words import PARTS, Part

EMBEDDING = "embedding"


def as_embeddings(dataset: Dataset, embeddings: Mapping[Part, Tensor], by: str) -> Dataset:
    """Return data whose examples are embeddings, of mean 0 and deviation 1 in model units; all else stays as it is.

    Args:
        dataset: the pictures.
        embeddings: for each part, the embedding of each picture, `(N, d)`.
        by: whose embeddings they are.

    Raises:
        UserError: a number is the same in every embedding.
    """
    train = embeddings["train"]
    units = standardised(train) if len(train) else Standardised()
    return replace(
        dataset,
        name=f"embeddings of {dataset.name}",
        train=train,
        validation=embeddings["validation"],
        test=embeddings["test"],
        units=units,
        embedded_by=by,
    )


def with_embeddings(dataset: Dataset, embeddings: Mapping[Part, Tensor], by: str) -> Dataset:
    """Return data of which models are told the `embedding` of each picture, in the place of its caption.

    Arguments are those of `as_embeddings`.
    """
    units = condition_units(EMBEDDING, embeddings["train"], dataset.shape)
    told = {name: units for name, units in dataset.condition_units.items() if name != CAPTION}
    conditions: dict[Part, dict[str, Tensor]] = {}
    for part in PARTS:
        rest = {name: values for name, values in dataset.conditions.get(part, {}).items() if name != CAPTION}
        conditions[part] = {**rest, EMBEDDING: embeddings[part]}
    told[EMBEDDING] = units
    return replace(dataset, conditions=conditions, condition_units=told, captions={}, embedded_by=by)
