"""ADM and its classifier read from published state dicts: the same numbers and sizes; what is wrong with files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data.conditions import ConditionUnits
from score_sde.data.units import Standardised
from score_sde.models import ADM
from score_sde.models.layers.condition import Always, Kind, Picture
from score_sde.models.networks.adm_classifier import ADMClassifier
from score_sde.models.pretrained.adm import adm_classifier, load_adm, read_adm_weights
from tests.models.pretrained.published_adm import CASES, CLASSES, SIZE, Published, asked, published

REFERENCE = json.loads((Path(__file__).parent / "reference" / "adm.json").read_text(encoding="utf-8"))


def made(case: Published) -> ADM:
    """Make the network of published flags."""
    kinds: dict[str, Kind] = {"class": Always(CLASSES)} if case.class_cond else {}
    if case.small_size:
        kinds["low_resolution"] = Picture(3, may_be_hidden=False)
    return ADM(
        SIZE,
        3,
        6 if case.learn_sigma else 3,
        channels=case.channels,
        channel_multipliers=case.mult,
        num_blocks=case.blocks,
        attention_resolutions=case.attention,
        num_heads=case.heads,
        num_heads_up=None if case.heads_up < 0 else case.heads_up,
        head_width=None if case.head_channels < 0 else case.head_channels,
        heads_first=not case.new_order,
        scale_shift=case.scale_shift,
        resample_in_blocks=case.updown,
        conditions=kinds,
    )


def answer(case: Published, weights: dict[str, Tensor]) -> Tensor:
    """Return what the network of published weights makes of what it is asked."""
    x, labels, classes, small = asked(case)
    if case.pool:
        return adm_classifier(weights, SIZE, head_width=case.head_channels)(x, labels)
    network = made(case)
    load_adm(network, weights)
    told = {} if classes is None else {"class": classes}
    if small is not None:
        units = ConditionUnits(tuple(small.shape[1:]), Standardised(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))
        told["low_resolution"] = units.encode(small, (3, SIZE, SIZE))
    return network(x, labels, Condition(told) if told else None)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_published_networks_return_the_published_numbers(name: str) -> None:
    """The reference is of float64; to three times what float32 changes there."""
    case, known = CASES[name], REFERENCE["values"][name]
    output = answer(case, published(case))
    assert list(output.shape) == known["shape"]
    found = output.flatten()[:: 1 if case.pool else 149].double()
    error = (found - torch.tensor(known["values"], dtype=torch.float64)).abs().max().item()
    assert error <= 3 * known["rounding_largest"]


@torch.no_grad()
def test_weights_of_half_precision_are_read_as_they_are(tmp_path: Path) -> None:
    """As do their scripts, which load what they saved into networks of float32."""
    case = CASES["three resolutions"]
    half = {name: tensor.half() for name, tensor in published(case).items()}
    torch.save({f"module.{name}": tensor for name, tensor in half.items()}, tmp_path / "half.pt")
    found = answer(case, read_adm_weights(tmp_path / "half.pt"))
    assert torch.equal(found, answer(case, {name: tensor.float() for name, tensor in half.items()}))


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_published_classifiers_have_as_many_weights(size: int) -> None:
    widths = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
    with torch.device("meta"):
        network = ADMClassifier(size, 3, 1000, channel_multipliers=widths[size], num_blocks=4 if size == 64 else 2)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == REFERENCE["parameters"][f"classifier_{size}"]


OTHER: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "no middle": ({"middle_block.0.in_layers.0.weight": None}, "is not of a published U-Net"),
    "no time": ({"time_embed.0.weight": torch.ones(3)}, r"time_embed.0.weight is \(3,\)"),
    "nothing in it": ({"out.2.weight": torch.ones(0, 32, 3, 3)}, r"out.2.weight is \(0, 32, 3, 3\)"),
    "no classes": ({"label_emb.weight": None}, "with classes=0, and this one has classes=5"),
    "other classes": ({"label_emb.weight": torch.ones(7, 128)}, "with classes=7, and this one has classes=5"),
    "no variances": ({"out.2.weight": torch.ones(3, 32, 3, 3)}, "output channels=3, and this one has .*=6"),
    "an upsampler": ({"input_blocks.0.0.weight": torch.ones(32, 6, 3, 3)}, "input channels=6, and this one has .*=3"),
    "no scales": ({"middle_block.0.emb_layers.1.weight": torch.ones(64, 128)}, "scale_shift=False, and"),
    "convolutions": ({"input_blocks.2.0.op.weight": torch.ones(32, 32, 3, 3)}, "resample_in_blocks=False, and"),
    "other width": ({"time_embed.0.weight": torch.ones(256, 64)}, "channels=64, and this one has channels=32"),
    "no block": ({"output_blocks.3.0.in_layers.0.bias": None}, "it has no output_blocks.3.0.in_layers.0.bias"),
    "a block more": ({"output_blocks.4.0.in_layers.0.bias": torch.ones(2)}, "it has output_blocks.4.0.in_layers.0.b"),
    "another shape": ({"middle_block.1.qkv.bias": torch.ones(7)}, r"query_key_value.bias has shape \(7,\)"),
    "NaN": ({"out.0.bias": torch.full((32,), torch.nan)}, "norm.bias is NaN"),
}


@pytest.mark.parametrize("what", OTHER)
def test_what_is_of_other_flags_is_said_in_one_line(what: str) -> None:
    changed, message = OTHER[what]
    case = Published(head_channels=16)
    wrong: Any = {name: tensor for name, tensor in (published(case) | changed).items() if tensor is not None}
    with pytest.raises(UserError, match=message) as error:
        load_adm(made(case), wrong, "a.pt")
    assert str(error.value).startswith("a.pt")
    assert "\n" not in str(error.value)


def test_what_is_no_classifier_is_said_in_one_line() -> None:
    case = CASES["classifier, attention"]
    weights = published(case)
    without = {name: tensor for name, tensor in weights.items() if ".1.qkv." not in name or "middle" in name}
    of_another = weights | {"out.2.positional_embedding": torch.ones(64, 17)}
    for wrong, message in (
        (published(Published()), "is not of a published classifier"),
        (without, "has no attention at its smallest resolution"),
        (of_another, r"pool.places has shape \(64, 17\), the network needs \(64, 65\)"),
        (weights | {"time_embed.0.weight": torch.ones(3)}, r"time_embed.0.weight is \(3,\)"),
        ({name: tensor for name, tensor in weights.items() if name != "out.2.c_proj.weight"}, "no out.2.c_proj.weight"),
    ):
        with pytest.raises(UserError, match=message) as error:
            adm_classifier(wrong, SIZE, "a.pt", case.head_channels)
        assert str(error.value).startswith("a.pt")
