"""The text encoders of a pipeline: the library transformers' own, read from the folder alone.

A tokeniser makes of a text so many numbers, `L`, and an encoder of these as many tokens, `(L, width)`, and, where it
has a projection, a vector of the whole. No code is read: classes are chosen here, and weights are `.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError, first_line
from score_sde.common.frozen_networks import check_weights_are_plain, transformers_library
from score_sde.models.pretrained.diffusers_files import read_json
from score_sde.models.pretrained.diffusers_library import quiet
from score_sde.models.pretrained.diffusers_parts import Known, safe_names

FIRST, SECOND = "text_encoder", "text_encoder_2"
_NEEDED = "the text encoders of a pipeline need the package transformers: pip install 'score-sde[pipelines]'"
_CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


class Encoder(NamedTuple):
    """An encoder of texts is of a class of the library transformers, with a tokeniser, in a pipeline.

    Attributes:
        encoder: its class.
        tokenizer: the part that is its tokeniser.
        tokenizers: the classes of that.
        length: the number of tokens of a text; None for as many as the tokeniser says.
        layer: which hidden state is taken; None for the encoder's output.
    """

    encoder: str
    tokenizer: str
    tokenizers: tuple[str, ...] = _CLIP_TOKENIZERS
    length: int | None = None
    layer: int | None = None


def known_texts(encoders: Mapping[str, Encoder]) -> Known:
    """Return what the parts of encoders of texts are of."""
    of_encoders = {name: ("transformers", (kind.encoder,)) for name, kind in encoders.items()}
    return of_encoders | {kind.tokenizer: ("transformers", kind.tokenizers) for kind in encoders.values()}


class TextEncoder(nn.Module):
    """A text encoder of a pipeline makes tokens of texts.

    Args:
        tokenizer: the library's tokeniser.
        encoder: the library's encoder.
        length: the number of tokens of a text, to which it is filled up or cut.
        layer: which hidden state is taken, counted from the last; None for the encoder's own output.
    """

    def __init__(self, tokenizer: Any, encoder: nn.Module, length: int, layer: int | None = None) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.length, self.layer = tokenizer, encoder, length, layer

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Return the tokens of texts, `(N, L, width)`, and, of a hidden state, the encoder's first output beside it."""
        read = self.tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        device = next(self.encoder.parameters()).device
        masked = getattr(self.encoder.config, "use_attention_mask", False)
        told = {"attention_mask": read.attention_mask.to(device)} if masked else {}
        if self.layer is None:
            return self.encoder(read.input_ids.to(device), **told)[0], None
        answer = self.encoder(read.input_ids.to(device), output_hidden_states=True, **told)
        return answer.hidden_states[self.layer], answer[0]

    def complaints(self, text: str) -> list[str]:
        """Say of a text that is too long what is not heard of it."""
        with quiet():
            numbers = self.tokenizer([text], padding=False, truncation=False)["input_ids"][0]
        if len(numbers) <= self.length:
            return []
        rest = self.tokenizer.decode(numbers[self.length - 1 : -1])
        return [f"it has {len(numbers)} tokens, and {self.length} are heard; the rest is not: {rest.strip()!r}"]


def read_encoder(folder: Path, name: str, kind: Encoder) -> TextEncoder:
    """Read an encoder of texts with its tokeniser, in evaluation mode and float32.

    Args:
        folder: that of the pipeline.
        name: the part.
        kind: what it is.

    Raises:
        UserError: a file is missing, damaged or a pickle, or is of another class.
    """
    encoder: Any = _read_text_encoder(folder, name, kind.encoder)
    tokenizer = _read_tokenizer(folder, kind.tokenizer, kind.tokenizers[0])
    length = kind.length or min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    return TextEncoder(tokenizer, encoder, length, kind.layer)


def _read_text_encoder(folder: Path, name: str, kind: str) -> nn.Module:
    """Read a part that is an encoder, of a class of the library."""
    place, transformers = _place(folder, name), transformers_library(_NEEDED)
    names = [path.name for path in place.iterdir()]
    if not any(each.endswith((".safetensors", ".safetensors.index.json")) for each in safe_names(names, place)):
        raise UserError(f"{place} has no model.safetensors: there is {', '.join(sorted(names)) or 'nothing'}")
    check_weights_are_plain(place, read_json(place / "config.json"))
    # How attention is computed is not for a file to say, which could name code of others.
    safe: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "attn_implementation": "sdpa"}
    try:
        with quiet():
            encoder, report = getattr(transformers, kind).from_pretrained(str(place), output_loading_info=True, **safe)
    except Exception as error:  # the library has many checks, and each raises its own
        raise UserError(f"{place} is not of a {kind}: {first_line(error)}") from error
    wrong = sorted(str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]])
    if wrong:
        raise UserError(f"{place} is not of a {kind}: its weights lack {wrong[0]}, or have it in another shape")
    return encoder.float().eval().requires_grad_(False)


def _read_tokenizer(folder: Path, name: str, kind: str) -> Any:
    """Read a part that is a tokeniser, of a class of the library."""
    place, transformers = _place(folder, name), transformers_library(_NEEDED)
    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(str(place), local_files_only=True)
    except Exception as error:
        raise UserError(f"{place} is not of a {kind}: {first_line(error)}") from error


def _place(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise UserError(f"there is no {folder / name}")
    return folder / name
