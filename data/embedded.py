"""Captions as a network is told them by a frozen text encoder: rows `(1 + L, width)`, a vector and tokens.

The captions of data are embedded once, each but once, and kept in a table of rows that is mapped into memory:

    <cache>/captions_<digest>/rows.npy      `(D, 1 + L, width)`, float32; the digest is of encoder, `L` and captions
    <cache>/captions_<digest>/about.json    what of them is not told; written last

What a model knows of its encoder is its digest: another one is refused, and the same one may lie anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.progress import Progress
from score_sde.data.captions import Words
from score_sde.data.sources.pictures import reserve
from score_sde.data.text_encoder import BATCH, FrozenEncoder, encoder_at
from score_sde.data.words import Part


@dataclass(frozen=True)
class Embedded:
    """Captions are embedded by a frozen encoder.

    Attributes:
        digest: what the encoder is known by.
        length: L, the most tokens that are told of a caption.
        width: the numbers of a token.
        folder: where the encoder lies; None if that is not known.
        cache: where the rows of data are kept; None for models without data.
        table: the rows of the captions of data, `(D, 1 + L, width)`; None for models without data.
        unheard: what of the captions of data is not told, a line each.
    """

    digest: str
    length: int
    width: int
    folder: str | None = field(default=None, compare=False)
    cache: Path | None = field(default=None, compare=False)
    table: Tensor | None = field(default=None, compare=False, repr=False)
    unheard: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one caption's rows is `(1 + L, width)`."""
        return (1 + self.length, self.width)

    @property
    def encoder(self) -> FrozenEncoder:
        """The encoder is the one that the model was trained with.

        Raises:
            UserError: its folder is not known, or another one lies there.
        """
        if self.folder is None:
            raise UserError("captions are told by a text encoder, and its folder is not named")
        encoder = encoder_at(self.folder)
        if encoder.digest != self.digest:
            raise UserError(
                f"the text encoder in {self.folder} is another ({encoder.digest}) than the one that the model was "
                f"trained with ({self.digest}): give that one's folder"
            )
        return encoder

    def at(self, folder: str | None) -> Embedded:
        """Return the same, by an encoder that lies in this folder."""
        return replace(self, folder=folder)

    def read(self, captions: Sequence[str]) -> Tensor:
        """Return captions as rows, `(N, 1 + L, width)`; each is embedded once."""
        distinct = list(dict.fromkeys(captions))
        number = {caption: row for row, caption in enumerate(distinct)}
        return self.encoder.embed(distinct, self.length)[[number[caption] for caption in captions]]

    def complaints(self, caption: str) -> list[str]:
        """Say what of a caption is not told: what the tokenizer does not know, and what is beyond the end."""
        unknown, count = self.encoder.unknown(caption), len(self.encoder.tokens([caption])[0])
        said = [f"the text encoder knows nothing of {', '.join(unknown)}"] if unknown else []
        if count > self.length:
            said.append(f"of its {count} tokens the first {self.length} are heard, and the rest is not")
        return said

    def encode(self, values: Tensor, beside: tuple[int, ...]) -> Tensor:
        """Return the rows of captions of data, `(B, 1 + L, width)`, from their numbers in the table, `(B,)`."""
        assert self.table is not None
        return self.table[values.cpu()].to(values.device, torch.get_default_dtype())

    def told_shape(self, beside: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is told of one example, `(1 + L, width)`."""
        return self.shape

    def describe(self) -> dict[str, Any]:
        """Return what is known of the encoder, in plain values."""
        return {"encoder": self.digest, "length": self.length, "width": self.width, "shape": list(self.shape)}

    @staticmethod
    def described(description: Mapping[str, Any]) -> Embedded:
        """Return what `describe` described."""
        return Embedded(description["encoder"], int(description["length"]), int(description["width"]))


def embedded(
    captions: Mapping[Part, Sequence[str]], folder: str, cache: Path, length: int | None = None
) -> tuple[Embedded, dict[Part, Tensor]]:
    """Embed the captions of data, or find them as they were embedded before.

    Args:
        captions: the captions of each part.
        folder: where the encoder lies.
        cache: where rows are kept.
        length: the most tokens that are told of a caption; all that the encoder hears, if left out.

    Returns:
        How captions are told, and the number in its table of each caption of a part.

    Raises:
        UserError: there is no such encoder, or the rows cannot be kept.
    """
    encoder = encoder_at(folder)
    distinct = list(dict.fromkeys(caption for of_part in captions.values() for caption in of_part))
    identity = json.dumps([1, encoder.digest, length, distinct])
    place = cache / f"captions_{sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    if not (place / "about.json").exists():
        _embed(distinct, encoder, place, length)
    try:
        table = torch.from_numpy(np.load(place / "rows.npy", mmap_mode="c"))
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        cut, unknown = set(about["cut"]), set(about["unknown"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {place}, where captions were kept: remove it, and it is made again") from error
    length = table.shape[1] - 1
    number = {caption: row for row, caption in enumerate(distinct)}
    numbers = {
        part: torch.tensor([number[caption] for caption in said], dtype=torch.int64) for part, said in captions.items()
    }
    notes = []
    for part, rows in numbers.items():
        many = sum(row in cut for row in rows.tolist())
        if many:
            notes.append(f"{many} captions of the {part} part are longer than the {length} tokens that are heard")
        many = sum(row in unknown for row in rows.tolist())
        if many:
            notes.append(f"{many} captions of the {part} part have words of which the text encoder knows nothing")
    return Embedded(encoder.digest, length, table.shape[2], folder, cache, table, tuple(notes)), numbers


def read_by(
    units: Words | Embedded, captions: Mapping[Part, Sequence[str]], own: Words | Embedded
) -> tuple[Words | Embedded, dict[Part, Tensor]]:
    """Return the captions of data as a model is told them, with what it is told by.

    Args:
        units: how the model is told captions.
        captions: the captions of each part.
        own: how models that are trained on these data are told them.

    Raises:
        UserError: one is told words and the other rows of an encoder, or their encoders differ.
    """
    if isinstance(units, Words):
        if isinstance(own, Embedded):
            raise UserError("the model has learnt words of its own: captions are for no text encoder, leave it out")
        return units, {part: units.read(of_part) for part, of_part in captions.items()}
    if not isinstance(own, Embedded) or own.folder is None or own.cache is None:
        raise UserError("the model is told captions by a text encoder: name its folder")
    _ = units.at(own.folder).encoder  # which sees that it is the same
    return embedded(captions, own.folder, own.cache, units.length)


def _embed(captions: list[str], encoder: FrozenEncoder, place: Path, length: int | None) -> None:
    """Write the rows of captions, and which of them are cut off, or have unknown words."""
    tokens = encoder.tokens(captions)
    lengths = list(map(len, tokens))
    length = min(max(lengths), encoder.longest) if length is None else length
    shape = (len(captions), 1 + length, encoder.width)
    with write_atomically(place / "rows.npy") as temporary:
        rows = open_memmap(temporary, "w+", np.float32, shape)
        reserve(temporary)
        with Progress("embedding captions", len(captions), "caption") as bar:
            for start in range(0, len(captions), BATCH):
                some = captions[start : start + BATCH]
                rows[start : start + len(some)] = encoder.embed(some, length).numpy()
                bar.update(len(some))
        rows.flush()
        # The map ends here, since Windows renames no file that is mapped.
        del rows
    encoder.unload()
    about = {
        "cut": [row for row, count in enumerate(lengths) if count > length],
        "unknown": [row for row, numbers in enumerate(tokens) if encoder.lacks(numbers)],
    }
    with write_atomically(place / "about.json") as temporary:
        temporary.write_text(json.dumps(about), encoding="utf-8")
