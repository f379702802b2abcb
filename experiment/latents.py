"""Published networks of latents, DiT and SiT, as configured models: their files say all but what the output means.

    DiT    sde.name=ddpm              told the rung, returns the noise
    SiT    sde.name=rectified_flow    told 1 - t, returns x_0 - eps; its sign is changed in its last layer

What else they make, variances, is left out. Latents are numbers without levels, in the scale that the network was
trained on, and are written as they are: no autoencoder is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.data.dataset import described
from score_sde.experiment import build, configuration
from score_sde.models import DiT, ScoreModel
from score_sde.models.pretrained.dit import HEADS
from score_sde.models.pretrained.dit_weights import Sizes, load_reference, sizes_of

_CONFIGS = "configs/vp/dit/xl2_256.py or configs/rectified_flow/sit_xl2_256.py"
# What the output and the label mean, by the process.
_MEANINGS: dict[str, dict[str, Any]] = {
    "ddpm": {
        "sde.num_rungs": 1000,
        "sde.beta_min": 0.1,
        "sde.beta_max": 20.0,
        "model.prediction": "noise",
        "model.noise_label": "rung",
    },
    "rectified_flow": {"model.prediction": "flow", "model.noise_label": "alpha"},
}
_SAME: dict[str, Any] = {
    "model.network": "dit",
    "model.class_conditional": True,
    "model.causal": False,
    "model.scale_input": False,
    "model.flow_map": False,
    "data.distortion": 0.0,
    "data.missing": False,
    "data.masks": "",
}


def describe(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Return the description of the latents that a published network is of, and of their classes."""
    sizes = sizes_of(weights, where)
    return _description([sizes.channels, sizes.size, sizes.size], sizes.num_vectors - 1)


def describe_network(network: DiT) -> dict[str, Any]:
    """Return the description of the latents that a network is of, and of their classes."""
    count = network.conditions["class"]
    assert isinstance(count, int)
    return _description([network.in_channels, *network.size], count)


def _description(shape: list[int], num_classes: int) -> dict[str, Any]:
    names = [str(number) for number in range(num_classes)]
    return {"name": build.LATENTS, "shape": shape, "levels": None, "class_names": names, "units": None}


def without_examples(description: Mapping[str, Any]) -> Dataset:
    """Return the latents of a description, of which there are none."""
    return described(description, -1.0, 1.0, as_bins=True)


def make_model(weights: Mapping[str, Tensor], config: ConfigDict, dataset: Dataset, where: str) -> ScoreModel:
    """Make the model of a published network of latents.

    Args:
        weights: tensors under the published names.
        config: the configuration, which says the process.
        dataset: the latents.
        where: the origin of the weights, for errors.

    Raises:
        UserError: the configuration is of another network, or means its output otherwise, or these are other data.
    """
    _check(config, sizes_of(weights, where), where)
    dataset = check_data(dataset, describe(weights, where), where)
    model = build.make_model(config, dataset)
    assert isinstance(model, ScoreModel)
    assert isinstance(model.network, DiT)
    load_reference(model.network, weights, where, sign=-1 if config.sde.name == "rectified_flow" else 1)
    return model


def check_data(dataset: Dataset, description: Mapping[str, Any], where: str) -> Dataset:
    """Return these latents, with the classes of a network if they have none.

    Raises:
        UserError: the network is of latents of another shape, or of other classes.
    """
    dataset = dataset if dataset.num_classes else replace(dataset, class_names=tuple(description["class_names"]))
    dataset.check_like(description, True, where)
    return dataset


def _check(config: ConfigDict, sizes: Sizes, where: str) -> None:
    """See that a configuration is that of a published network of these sizes."""
    if config.sde.name not in _MEANINGS:
        raise UserError(
            f"{where} is of a DiT or a SiT, not of sde.name={config.sde.name}: give its --config {_CONFIGS}"
        )
    here = dict(configuration.flatten(config))
    there: dict[str, Any] = {
        **_SAME,
        **_MEANINGS[config.sde.name],
        "model.width": sizes.width,
        "model.num_blocks": sizes.num_blocks,
        "model.patch_size": sizes.patch_size,
        "model.num_heads": HEADS.get(sizes.width, config.model.num_heads),
    }
    wrong = {key: value for key, value in there.items() if not _same(here[key], value)}
    if wrong:
        all_of_them = ", ".join(f"{key}={value}, not {here[key]}" for key, value in wrong.items())
        raise UserError(f"{where} has {all_of_them}: give its --config {_CONFIGS}, or these values")


def _same(one: Any, other: Any) -> bool:
    return math.isclose(one, other, rel_tol=1e-9) if isinstance(other, float) else one == other
