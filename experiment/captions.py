"""Captions that somebody asks for, as a model is told them; what of them it cannot be told is refused or said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, naming, nearest
from score_sde.data import Dataset
from score_sde.data.captions import CAPTION, Words, words_of
from score_sde.data.embedded import Embedded


def told_captions(config: ConfigDict, name: str, units: Words | Embedded, given: Iterable[Any]) -> Tensor:
    """Return what a model is told of captions, one row each, and say what of them it is not told.

    Raises:
        UserError: they are no texts, a word is not known, or the text encoder is not there, or another.
    """
    captions = [item.item() if isinstance(item, np.ndarray | np.generic) else item for item in given]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"the condition {name!r} is a text, or one for each example")
    with naming("data.text_encoder") if isinstance(units, Embedded) else naming(f"condition {name!r}"):
        if isinstance(units, Embedded):
            units = units.at(config.data.text_encoder)
        for caption in dict.fromkeys(captions):
            if isinstance(units, Words):
                _check_words(caption, units)
            for line in units.complaints(caption):
                distributed.say(f"{caption!r}: {line}")
        return units.read(captions)


def check_text_encoder(config: ConfigDict, dataset: Dataset) -> None:
    """See that no text encoder is named for a model that has learnt words of its own.

    Raises:
        UserError: there is one.
    """
    if config.data.text_encoder is not None and isinstance(dataset.condition_units.get(CAPTION), Words):
        raise UserError("data.text_encoder: this model has learnt words of its own, and hears no encoder: leave it out")


def _check_words(caption: str, words: Words) -> None:
    """See that a model knows the words of a caption, of which there are some.

    Raises:
        UserError: it does not know one; the line names the nearest that it knows.
    """
    said = [word for word in words_of(caption) if word.isalnum()]
    unknown = next((word for word in said if word not in words.numbers), None)
    if unknown is None and said:
        return
    known = [word for word in words.vocabulary if word.isalnum()]
    such = f"; they have words such as {', '.join(known[:8])}"
    if unknown is None:
        raise UserError(f"there are no words in {caption!r}{such}")
    like = nearest(unknown, known)
    raise UserError(f"no caption of the training data has the word {unknown!r} of {caption!r}{like or such}")
