"""Text encoders of random weights, as transformers saves them: for tests that are told captions by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

START, END, PAD, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<pad>", "<unk>"
LETTERS = "abcdefghijklmnopqrstuvwxyz,"
# What the vocabulary of CLIP has beside letters, in the order of its making.
MERGES = (("r", "e"), ("re", "d</w>"), ("b", "a"), ("ba", "l"), ("bal", "l</w>"))
# The most tokens that CLIP hears here.
CLIP_LENGTH = 10


def save_clip(folder: Path, seed: int = 0, **built: Any) -> Path:
    """Save a CLIP text encoder of two layers, and its tokenizer, which knows letters; return the folder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *map("".join, MERGES), START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *map(" ".join, MERGES), ""])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CLIP_LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, **built}
    places: dict[str, Any] = {
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    config = CLIPTextConfig(
        vocab_size=len(words), num_attention_heads=2, max_position_embeddings=CLIP_LENGTH, **size, **places
    )
    torch.manual_seed(seed)
    CLIPTextModel(config).save_pretrained(folder)
    return folder


def save_t5(folder: Path, seed: int = 0) -> Path:
    """Save a T5 encoder of two layers, and its tokenizer, which knows a few words; return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = [PAD, "</s>", UNKNOWN, "red", "blue", "ball", "of", ",", "sans", "bold"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    saved = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token="</s>", unk_token=UNKNOWN, model_max_length=20
    )
    saved.save_pretrained(folder)
    torch.manual_seed(seed)
    config = T5Config(vocab_size=len(words), d_model=12, d_kv=6, d_ff=24, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    return folder
