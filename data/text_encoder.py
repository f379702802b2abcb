r"""Frozen text encoders of the library transformers (`pip install 'score-sde[text]'`): CLIP's and T5's, from folders.

A caption of tokens `w_1 … w_n`, its ends among them, becomes a vector and a token of each, which are told as rows

    v; h_1; …; h_n; 0; …; 0                                                          `(1 + L, width)`

where `h` are the last hidden states and `v` is, of CLIP, that of the last token, which has seen all; of T5 their mean.
What is beyond `L` tokens is cut off, but for the end; rows of zeros follow the end. Weights of any precision are
computed with in float32. (Radford et al. 2021, arXiv:2103.00020; Raffel et al. 2020, arXiv:1910.10683; for pictures
Saharia et al. 2022, arXiv:2205.11487.)

A folder is one that transformers has saved, or that of a pipeline with `text_encoder` and `tokenizer` in it. Nothing is
looked for on the net, and no code in the folder is run: weights are `.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde.common.errors import UserError, first_line
from score_sde.common.files import at_home
from score_sde.common.frozen_networks import check_weights_are_plain, read_frozen, transformers_library, weights_in

# The class of transformers that has the encoder, by the kind that a folder's config.json tells.
_CLASSES = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
# What a folder's config.json says of its writing, and not of the encoder.
_OF_WRITING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "added_tokens.json")
# The most tokens that are heard by an encoder which has no limit of its own.
_MOST_TOKENS = 512
# The captions that are embedded at once.
BATCH = 32


class FrozenEncoder:
    """A text encoder in a folder makes rows of captions; it is loaded when it is first asked for any.

    Args:
        folder: the folder.

    Raises:
        UserError: there is none, or it holds another model, or weights that are changed when they are read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        parts = folder / "text_encoder", folder / "tokenizer"
        self._weights, self._vocabulary = parts if all(part.is_dir() for part in parts) else (folder, folder)
        try:
            self._config: dict[str, Any] = json.loads((self._weights / "config.json").read_text(encoding="utf-8"))
            kind = self._config["model_type"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is no folder of a text encoder, CLIP's or T5's, as transformers saves them: {error!r}"
            ) from error
        check_weights_are_plain(self._weights, self._config)
        if kind not in _CLASSES:
            raise UserError(f"{folder} holds a model of kind {kind!r}, and text encoders are {', '.join(_CLASSES)}")
        self._class = _CLASSES[kind]

    @cached_property
    def digest(self) -> str:
        """A short name for what the encoder makes of captions: of its weights, its vocabulary, and how it is built.

        Raises:
            UserError: there are no weights that can be read without running code.
        """
        weights = weights_in(self._weights)
        built = {name: value for name, value in self._config.items() if name not in _OF_WRITING}
        hasher = sha256(json.dumps(built, sort_keys=True).encode())
        for path in [*weights, *(self._vocabulary / name for name in _VOCABULARIES)]:
            if path.is_file():
                with open(path, "rb") as file:
                    while block := file.read(2**22):
                        hasher.update(block)
        return hasher.hexdigest()[:16]

    @cached_property
    def longest(self) -> int:
        """The most tokens that are heard of a caption, its ends among them."""
        own = self._model.config
        places = own.max_position_embeddings if self._class == "CLIPTextModel" else _MOST_TOKENS
        return int(min(self._tokenizer.model_max_length, places))

    @cached_property
    def width(self) -> int:
        """The number of numbers that a token has."""
        return int(self._model.config.hidden_size)

    def tokens(self, captions: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each caption by their numbers, its ends among them, were nothing cut off."""
        return self._tokenizer(list(captions), truncation=False)["input_ids"] if captions else []

    def lacks(self, tokens: Sequence[int]) -> bool:
        """Return whether there is something among the tokens of a caption that the tokenizer has nothing for."""
        unknown = self._tokenizer.unk_token_id
        # CLIP's has something for all words, and calls its end unknown.
        return unknown in tokens and unknown not in (self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)

    def unknown(self, caption: str) -> list[str]:
        """Return those words of a caption that the tokenizer has nothing for."""
        words = list(dict.fromkeys(caption.split()))
        return [word for word, tokens in zip(words, self.tokens(words), strict=True) if self.lacks(tokens)]

    @torch.no_grad()
    def embed(self, captions: Sequence[str], length: int) -> Tensor:
        """Return captions as rows, `(N, 1 + length, width)`, float32, on the CPU; N is 1 or more."""
        starts = range(0, len(captions), BATCH)
        return torch.cat([self._rows(list(captions[start : start + BATCH]), length).cpu() for start in starts])

    def unload(self) -> None:
        """Give back the memory of the weights, which are loaded again when they are asked for."""
        self.__dict__.pop("_model", None)

    def _rows(self, captions: list[str], length: int) -> Tensor:
        tokens = self._tokenizer(
            captions,
            truncation=True,
            max_length=length,
            padding="max_length",
            padding_side="right",
            return_tensors="pt",
        )
        here = self._model.device
        numbers, there = tokens["input_ids"].to(here), tokens["attention_mask"].to(here)
        heard = self._model(input_ids=numbers, attention_mask=there)
        states = heard.last_hidden_state.masked_fill(there.unsqueeze(-1) == 0, 0.0)
        count = there.sum(1, keepdim=True).clamp(min=1)
        whole = heard.pooler_output if self._class == "CLIPTextModel" else states.sum(1) / count
        return torch.cat([whole.unsqueeze(1), states], dim=1)

    @cached_property
    def _tokenizer(self) -> Any:
        transformers = _library()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(self._vocabulary), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # a tokenizer that is not there fails in many ways
            raise UserError(f"{self.folder} has no tokenizer that can be read: {first_line(error)}") from error
        if tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer of {self.folder} has no token to pad with: set its pad_token, and save it")
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        return read_frozen(getattr(_library(), self._class), self._weights, "text encoder", "sdpa")


def encoder_at(folder: str | Path) -> FrozenEncoder:
    """Return the text encoder in a folder; one that was asked for before is not loaded again.

    Raises:
        UserError: there is none, or it holds another model.
    """
    path = at_home(folder).absolute()
    if not path.is_dir():
        raise UserError(f"there is no folder {folder}, where the text encoder should be")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return _loaded(path, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache(maxsize=2)
def _loaded(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> FrozenEncoder:
    return FrozenEncoder(path)


def _library() -> Any:
    return transformers_library("text encoders need: pip install 'score-sde[text]'")
