"""The configurations of the published models of ADM, against the flags of their code and the sizes of its networks."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from score_sde.experiment import configuration
from score_sde.experiment.networks import make_network
from score_sde.models.layers.condition import Always, Kind, Picture
from tests.reading import ROOT

REFERENCE = json.loads((ROOT / "tests/models/pretrained/reference/adm.json").read_text(encoding="utf-8"))
FILES = {"lsun": "lsun_bedroom"}
NAMES = [name for name in REFERENCE["flags"] if not name.startswith("classifier")]
# Defaults of the published code, of what flags may leave out, which differ between its two parts.
GUIDED: dict[str, Any] = {"num_heads": 4, "num_head_channels": None, "dropout": 0.0, "rescale_timesteps": False}
GUIDED |= {"attention_resolutions": (16, 8), "resblock_updown": False, "use_new_attention_order": False}
GUIDED |= {"class_cond": False, "use_scale_shift_norm": True}
IMPROVED = GUIDED | {"rescale_timesteps": True}


def read(text: str) -> dict[str, Any]:
    """Return published flags with their values."""
    words = text.split()
    return {flag.removeprefix("--"): value_of(word) for flag, word in zip(words[::2], words[1::2], strict=True)}


def value_of(word: str) -> Any:
    if word in ("True", "False"):
        return word == "True"
    if word.isalpha():
        return word
    numbers = tuple(float(number) if "." in number else int(number) for number in word.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


@pytest.mark.parametrize("name", NAMES)
def test_every_published_value_and_the_number_of_weights(name: str) -> None:
    config = configuration.load_file(f"configs/vp/adm/{FILES.get(name, name)}.py")
    flags = (IMPROVED if "improved" in name else GUIDED) | read(REFERENCE["flags"][name])
    model, image_size = config.model, flags.get("image_size", flags.get("large_size", 256))
    attention = flags["attention_resolutions"]
    assert model.attention_resolutions == (attention if isinstance(attention, tuple) else (attention,))
    labels = {(True, 4000): "rung_of_1000"}.get((flags["rescale_timesteps"], flags["diffusion_steps"]), "rung")
    assert {
        "image_size": config.data.image_size,
        "steps": config.sde.num_rungs,
        "schedule": {"ddpm": "linear"}.get(config.sde.name, config.sde.name),
        "channels": model.channels,
        "blocks": model.num_blocks,
        "head_width": model.head_width,
        "new_order": not model.heads_first,
        "scale_shift": model.scale_shift,
        "resample": model.resample_in_blocks,
        "dropout": model.dropout,
        "classes": model.class_conditional,
        "variances": model.variance == "learned",
        "label": model.noise_label,
    } == {
        "image_size": image_size,
        "steps": flags["diffusion_steps"],
        "schedule": flags["noise_schedule"],
        "channels": flags["num_channels"],
        "blocks": flags["num_res_blocks"],
        "head_width": flags["num_head_channels"],
        "new_order": flags["use_new_attention_order"],
        "scale_shift": flags["use_scale_shift_norm"],
        "resample": flags["resblock_updown"],
        "dropout": flags["dropout"],
        "classes": flags["class_cond"],
        "variances": flags["learn_sigma"],
        "label": labels,
    }
    if flags["num_head_channels"] is None:
        assert model.num_heads == flags["num_heads"]
    if config.data.low_resolution is not None:
        assert config.data.low_resolution == flags.get("small_size", 64)
    kinds: dict[str, Kind] = {"class": Always(1000)} if flags["class_cond"] else {}
    kinds |= {"low_resolution": Picture(3, may_be_hidden=False)} if "upsampler" in name else {}
    with torch.device("meta"):
        network: Any = make_network(config, (3, image_size, image_size), out_channels=6, conditions=kinds)
    assert sum(weight.numel() for weight in network.parameters()) == REFERENCE["parameters"][name]
