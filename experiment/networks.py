"""Networks by name, and which examples each takes."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from ml_collections import ConfigDict
from torch import nn

from score_sde.common.errors import UserError, choose, naming
from score_sde.data import Dataset
from score_sde.experiment import own
from score_sde.models import ADM, DDPM, MLP, ADMClassifier, ControlNet, DiT, Encoder, NCSNpp, UNet
from score_sde.models.layers.condition import Kind, Picture
from score_sde.sde import geometric_sigmas

AnyModule = TypeVar("AnyModule", bound=Any)

NETWORKS: dict[str, type[nn.Module]] = {
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "adm": ADM,
    "unet": UNet,
    "dit": DiT,
    "mlp": MLP,
    "classifier": Encoder,
    "adm_classifier": ADMClassifier,
}
# Networks that tell classes from each other.
CLASSIFIERS = ("classifier", "adm_classifier")
# Those that make few numbers of an example, and the example of these.
KL, VQ = AUTOENCODERS = ("kl_autoencoder", "vq_autoencoder")
# What embeds pictures and captions in one space, and is no score model.
JOINT_EMBEDDING = "joint_embedding"
# The name of a configuration's network and process where a pipeline of diffusers decides them.
PIPELINE = "pipeline"
# Over how many axes the examples extend that each network takes: vectors over none.
_ONE_TO_THREE = (1, 2, 3)
AXES = {
    "ncsnpp": (2,),
    "ddpm": (2,),
    "adm": (2,),
    "unet": _ONE_TO_THREE,
    "dit": _ONE_TO_THREE,
    "mlp": tuple(range(10)),
    "classifier": (2,),
    "adm_classifier": (2,),
}


def make_network(config: ConfigDict, shape: tuple[int, ...], **more: Any) -> nn.Module:
    """Make the network of the section `model`, for examples of this shape; it is given the arguments `more`, too.

    Raises:
        UserError: the network does not exist or cannot take examples of this shape.
    """
    model = config.model
    if model.control:
        return _controlled(config, shape, **more)
    if model.network == "mixture":
        raise UserError("a mixture needs no training: use it with --mode sample, likelihood, compare or tune")
    if own.is_own(model.network):
        sizes = {"shape": shape, "dimension": math.prod(shape), "in_channels": shape[0], "out_channels": shape[0]}
        return own.make("network", model.network, nn.Module, {**model, **sizes, "conditions": {}, **more})
    network = choose("network", model.network, NETWORKS)
    known = inspect.signature(network).parameters
    options = {name: value for name, value in model.items() if name in known} | more
    unknown = set(more) - set(known)
    if unknown:
        raise UserError(
            f"network {model.network!r} cannot have {', '.join(unknown)}: use --config.model.network=ncsnpp"
        )
    _check_axes(model.network, shape)
    if network is MLP:
        return MLP(torch.Size(shape).numel(), **options)
    if options.get("embedding") == "fourier" and model.noise_label in ("log_snr", "edm", "alpha"):
        raise UserError(
            f"a Fourier embedding takes a label's logarithm, not model.noise_label={model.noise_label}: use rho"
        )
    channels, *size = shape
    with naming("section model"):
        if network is UNet:
            return UNet(channels, **options | {"dims": len(size), "periodic": closed_axes(model.periodic, len(size))})
        if "sigmas" in known and model.scale_by_sigma and model.noise_label == "rung_from_noisiest":
            # The noise label counts from the noisiest rung, so the table does, too.
            rungs = (config.sde.num_rungs, config.sde.sigma_min, config.sde.sigma_max)
            options["sigmas"] = geometric_sigmas(*rungs).flip(0)
        return network(tuple(size), channels, **options)


def names_of_controls(config: ConfigDict) -> tuple[str, ...]:
    """Return the names of the conditions that are each heard by a copy of a frozen network's encoder."""
    return tuple(name.strip() for name in config.model.control.split(",") if name.strip())


def _controlled(config: ConfigDict, shape: tuple[int, ...], conditions: dict[str, Kind], **more: Any) -> ControlNet:
    """Make a network with controls beside it; arguments and errors are those of `make_network`.

    Raises:
        UserError: a control is no picture among the conditions.
    """
    names = names_of_controls(config)
    pictures = [name for name, kind in conditions.items() if isinstance(kind, Picture)]
    for name in names:
        if name not in pictures:
            raise no_picture(name, pictures)
    others = {name: kind for name, kind in conditions.items() if name not in names}
    plain = copy.deepcopy(config)
    plain.model.control = ""
    base = make_network(plain, shape, **more, **({"conditions": others} if others else {}))
    with naming("model.control"):
        return ControlNet(base, {name: conditions[name].channels for name in names})  # type: ignore[union-attr]


def no_picture(name: str, pictures: Sequence[str]) -> UserError:
    """Return the complaint that a control is none of the conditions with place."""
    return UserError(
        f"model.control names {name}, and what is told of these data with place is: "
        f"{', '.join(pictures) or 'nothing'}; see data.edges, data.low_resolution and data.condition"
    )


def frozen_but_controls(model: AnyModule) -> AnyModule:
    """Return a model in which controls alone want gradients, if its network has any; it is changed in place."""
    if isinstance(getattr(model, "network", None), ControlNet):
        model.requires_grad_(False).network.controls.requires_grad_(True)
    return model


def _check_axes(network: str, shape: tuple[int, ...]) -> None:
    """See that a network takes examples that extend over as many axes as these do, whose first axis is channels.

    Raises:
        UserError: it does not; the line says what does.
    """
    axes = len(shape) - 1
    if axes in AXES[network]:
        return
    what = "images" if AXES[network] == (2,) else "series, images, fields and volumes"
    if axes == 0:
        raise UserError(
            f"network {network!r} takes {what}, not vectors of {shape[0]} numbers; use --config "
            "configs/vp/vectors.py, or --config.model.network=mlp"
        )
    others = " or ".join(f"--config.model.network={name}" for name in ("unet", "mlp") if axes in AXES[name])
    raise UserError(f"network {network!r} takes {what}, not examples of shape {shape}: use {others or 'other data'}")


def closed_axes(periodic: tuple[int, ...], axes: int) -> tuple[bool, ...]:
    """Return whether each of so many axes is among the periodic ones, which are counted from 0.

    Raises:
        UserError: there is no such axis.
    """
    for axis in periodic:
        if not axis < axes:
            raise UserError(f"periodic names axis {axis}, and examples extend over {axes}, counted from 0")
    return tuple(axis in periodic for axis in range(axes))


def unused_attention(config: ConfigDict, dataset: Dataset) -> str:
    """Say which attention is asked for at heights that the network does not have; an empty text if there is none."""
    model = config.model
    if model.network not in NETWORKS or len(dataset.model_shape) < 3:
        return ""
    if "attention_resolutions" not in inspect.signature(NETWORKS[model.network]).parameters:
        return ""
    heights = [dataset.model_shape[-2] // 2**level for level in range(len(model.channel_multipliers))]
    unused = [str(asked) for asked in model.attention_resolutions if asked not in heights]
    return f"model.attention_resolutions: no {', '.join(unused)} among this network's sizes {heights}" if unused else ""
