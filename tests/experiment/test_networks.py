"""Which network takes which examples, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.configs.default import get_config
from score_sde.data import Bins, Dataset
from score_sde.experiment.networks import AXES, NETWORKS, make_network, unused_attention

SHAPES: dict[int, tuple[int, ...]] = {0: (6,), 1: (2, 12), 2: (3, 8, 16), 3: (1, 4, 6, 5)}


def configured(network: str, **values: Any) -> Any:
    config = get_config()
    small = {"channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_resolutions": (4,)}
    config.model.update(network=network, **(small | values))
    return config


def test_every_network_says_what_it_takes() -> None:
    assert set(AXES) == set(NETWORKS)


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("name", ["ncsnpp", "ddpm", "adm", "unet", "dit", "mlp"])
def test_a_network_takes_its_shapes_and_says_of_others_what_does(name: str, axes: int) -> None:
    shape, config = SHAPES[axes], configured(name)
    if axes in AXES[name]:
        network = make_network(config, shape)
        assert network(torch.zeros(2, *shape), torch.zeros(2)).shape == (2, *shape)
        return
    with pytest.raises(UserError, match=r"takes .*, not (vectors of 6 numbers|examples of shape)") as error:
        make_network(config, shape)
    line = str(error.value)
    assert "--config.model.network=mlp" in line
    assert ("--config.model.network=unet" in line) == (axes > 0)


def test_oblong_images_are_halved_along_both_axes_and_attended_to_by_height() -> None:
    """A network for 8 x 16 has the weights of one for 8 x 8, and does the same."""
    torch.manual_seed(0)
    oblong: Any = make_network(configured("ncsnpp", init_scale=1.0), (1, 8, 16))
    torch.manual_seed(0)
    square: Any = make_network(configured("ncsnpp", init_scale=1.0), (1, 8, 8))
    x, labels = torch.randn(2, 1, 8, 16), torch.zeros(2)
    assert torch.equal(oblong.eval()(x, labels), square.eval()(x, labels))
    with pytest.raises(UserError, match="8 x 15 cannot be halved evenly"):
        make_network(configured("ncsnpp"), (1, 8, 15))
    for name in ("classifier", "adm_classifier"):
        with pytest.raises(UserError, match=r"8 x 15 cannot be halved (evenly )?at every resolution"):
            make_network(configured(name), (1, 8, 15), num_outputs=3)
    pictures = torch.zeros(2, 1, 8, 16, dtype=torch.uint8)
    data = Dataset("photos", pictures, pictures, Bins(4))
    assert not unused_attention(configured("ncsnpp"), data)
    assert "no 16 among this network's sizes [8, 4]" in unused_attention(
        configured("ncsnpp", attention_resolutions=(16,)), data
    )
    assert not unused_attention(configured("unet"), data)


def test_periodic_axes_are_counted_from_0() -> None:
    network: Any = make_network(configured("unet", periodic=(1,)), SHAPES[2])
    assert network.space.periodic == (False, True)
    with pytest.raises(UserError, match="section model: periodic names axis 2, and examples extend over 2"):
        make_network(configured("unet", periodic=(0, 2)), SHAPES[2])


def test_levels_need_a_network_that_has_outputs_for_them() -> None:
    network: Any = make_network(configured("unet"), SHAPES[2], out_channels=12)
    assert network(torch.zeros(2, *SHAPES[2]), torch.zeros(2)).shape == (2, 12, 8, 16)
    with pytest.raises(UserError, match=r"'mlp' cannot have out_channels: use --config.model.network=ncsnpp"):
        make_network(configured("mlp"), SHAPES[2], out_channels=12)
