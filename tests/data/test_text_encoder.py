"""Frozen text encoders: as transformers' own models make of one caption at a time, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data.embedded import Embedded, embedded
from score_sde.data.text_encoder import FrozenEncoder, encoder_at
from score_sde.data.words import Part
from tests.text_encoders import CLIP_LENGTH, save_clip, save_t5

transformers = pytest.importorskip("transformers")

CAPTIONS = ["red ball", "a red, blue ball of a", "", "ball"]
SAVE = {"clip": save_clip, "t5": save_t5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("encoders")
    return {name: save(place / name) for name, save in SAVE.items()}


def alone(name: str, folder: Path, caption: str) -> tuple[Tensor, Tensor]:
    """Return the tokens `(n, width)` and the vector of a caption by transformers' model, without any padding."""
    kind = transformers.CLIPTextModel if name == "clip" else transformers.T5EncoderModel
    model = kind.from_pretrained(folder).float().eval()
    numbers = transformers.AutoTokenizer.from_pretrained(folder)(caption, return_tensors="pt")["input_ids"]
    numbers = torch.cat([numbers[:, : CLIP_LENGTH - 1], numbers[:, -1:]], 1) if numbers.shape[1] > 10 else numbers
    with torch.no_grad():
        heard = model(input_ids=numbers)
    tokens = heard.last_hidden_state[0]
    # CLIP's vector is the last token's state, T5's their mean.
    return tokens, heard.pooler_output[0] if name == "clip" else tokens.mean(0)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("name", SAVE)
def test_rows_are_the_states_of_the_model_alone_whatever_lies_beside(name, folders):
    """Captions are told as one by one without padding, to 1e-6; behind the end are zeros; the longest is cut off."""
    rows = encoder_at(folders[name]).embed(CAPTIONS, CLIP_LENGTH)
    for caption, row in zip(CAPTIONS, rows, strict=True):
        tokens, whole = alone(name, folders[name], caption)
        torch.testing.assert_close(row[0], whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(row[1 : 1 + len(tokens)], tokens, rtol=0, atol=1e-6)
        assert (row[1 + len(tokens) :] == 0).all()
        assert len(tokens) <= CLIP_LENGTH
    assert len({round(float(row[0, 0]), 5) for row in rows}) == len(CAPTIONS)


@pytest.mark.usefixtures("on_cpu")
def test_whole_models_halves_and_pipelines_have_the_same_encoder(folders, tmp_path):
    """A CLIP with its pictures' side, a T5 with its decoder and bfloat16, and a folder with parts are read."""
    text = transformers.CLIPTextConfig.from_pretrained(folders["clip"])
    seen = transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
    )
    whole = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text.to_dict(), vision_config=seen.to_dict(), projection_dim=4)
    )
    shutil.copytree(folders["clip"], tmp_path / "whole")
    (tmp_path / "whole" / "model.safetensors").unlink()
    whole.save_pretrained(tmp_path / "whole")
    tokens, vector = alone("clip", tmp_path / "whole", "red ball")
    row = encoder_at(tmp_path / "whole").embed(["red ball"], 6)[0]
    torch.testing.assert_close(row[1 : 1 + len(tokens)], tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(row[0], vector, rtol=0, atol=1e-6)

    small = transformers.T5Config.from_pretrained(folders["t5"])
    shutil.copytree(folders["t5"], tmp_path / "parts" / "tokenizer")
    halves = transformers.T5ForConditionalGeneration(small).bfloat16()
    halves.save_pretrained(tmp_path / "parts" / "text_encoder")
    row = encoder_at(tmp_path / "parts").embed(["red ball"], 6)[0]
    shutil.copytree(folders["t5"], tmp_path / "halves")
    halves.save_pretrained(tmp_path / "halves")
    tokens, vector = alone("t5", tmp_path / "halves", "red ball")
    torch.testing.assert_close(row[1:4], tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(row[0], vector, rtol=0, atol=1e-6)


def test_an_encoder_is_known_by_what_it_makes_of_captions(folders, tmp_path):
    """Another place is the same encoder, and so is what another version has written; other weights are another."""
    for name in SAVE:
        shutil.copytree(folders[name], tmp_path / name)
        about = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**about, "transformers_version": "0"}))
        assert encoder_at(tmp_path / name).digest == encoder_at(folders[name]).digest
    told, numbers = embedded({"train": CAPTIONS}, str(folders["clip"]), tmp_path / "kept")
    again, _ = embedded({"train": CAPTIONS}, str(tmp_path / "clip"), tmp_path / "kept")
    assert told == again == Embedded.described(told.describe())
    assert torch.equal(told.encode(numbers["train"], (1, 8, 8)), told.read(CAPTIONS))
    other = save_clip(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"is another \(.*\) than the one that the model was trained with"):
        told.at(str(other)).read(CAPTIONS)


def test_captions_of_data_are_embedded_once_and_what_is_cut_off_is_counted(folders, tmp_path, monkeypatch):
    captions: dict[Part, list[str]] = {"train": [*CAPTIONS, "red ball"], "test": ["b" * 30]}
    told, numbers = embedded(captions, str(folders["clip"]), tmp_path)
    assert told.table is not None
    assert (told.length, told.width, told.table.shape) == (CLIP_LENGTH, 16, (5, 1 + CLIP_LENGTH, 16))
    assert numbers["train"].tolist() == [0, 1, 2, 3, 0]
    assert told.unheard == (
        "1 captions of the train part are longer than the 10 tokens that are heard",
        "1 captions of the test part are longer than the 10 tokens that are heard",
    )
    assert told.complaints("b" * 30) == ["of its 32 tokens the first 10 are heard, and the rest is not"]
    assert told.complaints("red ball") == []
    monkeypatch.setattr(FrozenEncoder, "embed", None)
    again, _ = embedded(captions, str(folders["clip"]), tmp_path)
    assert again.table is not None
    assert torch.equal(again.table, told.table)


def test_words_that_a_tokenizer_lacks_are_said(folders, tmp_path):
    told, _ = embedded({"train": ["red ball", "red quux"]}, str(folders["t5"]), tmp_path)
    assert told.unheard == ("1 captions of the train part have words of which the text encoder knows nothing",)
    assert told.complaints("a quux") == ["the text encoder knows nothing of a, quux"]


def refused(folder: Path, line: str) -> None:
    with pytest.raises(UserError, match=line):
        encoder_at(folder).embed(["red"], 4)


def test_what_is_no_text_encoder_is_refused(folders, tmp_path):
    refused(tmp_path / "none", "there is no folder")
    refused(tmp_path, "is no folder of a text encoder, CLIP's or T5's")
    seen = transformers.CLIPVisionConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8)
    seen.save_pretrained(tmp_path / "vision")
    refused(tmp_path / "vision", "holds a model of kind 'clip_vision_model', and text encoders are clip, clip_text")
    for name, removed, line in (
        ("pickled", "model.safetensors", r"no weights in .safetensors, and others are not read"),
        ("mute", "vocab.json", "has no tokenizer that can be read"),
    ):
        shutil.copytree(folders["clip"], tmp_path / name)
        (tmp_path / name / removed).unlink()
        refused(tmp_path / name, line)
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    refused(tmp_path / "pickled", "others are not read")
    shutil.copytree(folders["clip"], tmp_path / "larger")
    about = json.loads((tmp_path / "larger" / "config.json").read_text())
    (tmp_path / "larger" / "config.json").write_text(json.dumps({**about, "num_hidden_layers": 3}))
    refused(tmp_path / "larger", "the weights in .* lack 16 of a CLIPTextModel, such as")
    (tmp_path / "larger" / "config.json").write_text(json.dumps({**about, "quantization_config": {"bits": 8}}))
    refused(tmp_path / "larger", "config.json has a quantization_config, which is not read: save plain weights")
    (tmp_path / "larger" / "adapter_config.json").write_text("{}")
    refused(tmp_path / "larger", "has an adapter, adapter_config.json, which is not read")
    (tmp_path / "larger" / "adapter_config.json").unlink()
    (tmp_path / "larger" / "config.json").write_text(json.dumps(about))
    (tmp_path / "larger" / "model.safetensors").write_bytes(b"nothing")
    refused(tmp_path / "larger", "cannot read the text encoder in")
