r"""Networks and checkpoints of the published PyTorch code for Score-SDE (Song et al. 2021, arXiv:2011.13456).

A configuration of that code is a mapping with sections `model`, `data` and `training`. It fixes the network, the
process, what the network predicts and which label it is given at time t:

| sde, continuous   | process                 | label at t                    | the output is |
|-------------------|-------------------------|-------------------------------|---------------|
| vpsde, true       | VP                      | `999 t`                       | the noise     |
| vpsde, false      | DDPM's ladder, N rungs  | the rung `N t - 1`, from 0    | the noise     |
| subvpsde, either  | sub-VP                  | `999 t`                       | the noise     |
| vesde, true       | VE                      | `sigma(t)`                    | the score     |
| vesde, false      | NCSN's ladder, N rungs  | `round((N - 1)(1 - t))`       | the score     |

"The noise" means `score = -output / sigma(t)`. DDPM's rungs may be fractional, NCSN's count from the noisiest level
down (the order of the network's `sigmas`). Networks with Fourier embeddings take sigma, those with positional ones the
other labels; DDPM's network is always positional, whatever its configuration says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.weight_files import check_finite, read_torch, unwrapped
from score_sde.models.networks.ddpm import DDPM
from score_sde.models.networks.ncsnpp import Block, Embedding, NCSNpp
from score_sde.models.pretrained.score_sde_names import reference_tensors
from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, NCSNLadder, SubVPSDE, ddpm_betas, geometric_sigmas

Config = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Convention:
    """A published network is to be used in this way.

    Attributes:
        sde: the process it was trained on.
        prediction: what the network returns: the noise (`score = -output / sigma`) or the score itself.
        noise_label: a function that gives the network's second argument `(B,)` for times `(B,)`, in float64.
    """

    sde: SDE
    prediction: Literal["noise", "score"]
    noise_label: Callable[[Tensor], Tensor]


def convention(config: Config) -> Convention:
    """Return the process, prediction and noise label that a published configuration stands for; see the table above.

    Raises:
        UserError: a needed value is missing, or the process is unknown.
    """
    name = _value(config, "training", "sde").lower()
    if name == "vesde":
        sigma_min, sigma_max = _value(config, "model", "sigma_min"), _value(config, "model", "sigma_max")
        if _value(config, "training", "continuous"):
            ve = VESDE(sigma_min, sigma_max)
            return Convention(ve, "score", lambda t: ve.at(t).sigma)
        ncsn = NCSNLadder(geometric_sigmas(_value(config, "model", "num_scales"), sigma_min, sigma_max))
        return Convention(ncsn, "score", lambda t: torch.round(ncsn.num_rungs - 1 - ncsn.index(t)))
    if name not in ("vpsde", "subvpsde"):
        raise UserError(f"training.sde must be vpsde, subvpsde or vesde, not {name!r}")
    beta_min, beta_max = _value(config, "model", "beta_min"), _value(config, "model", "beta_max")
    if name == "vpsde" and not _value(config, "training", "continuous"):
        ddpm = DDPMLadder(ddpm_betas(_value(config, "model", "num_scales"), beta_min, beta_max))
        return Convention(ddpm, "noise", ddpm.index)
    sde = VPSDE(beta_min, beta_max) if name == "vpsde" else SubVPSDE(beta_min, beta_max)
    return Convention(sde, "noise", lambda t: 999 * t.double())


def network_arguments(config: Config) -> tuple[type[NCSNpp], dict[str, Any]]:
    """Return the class of a published configuration's network, and the keyword arguments to build it with.

    Raises:
        UserError: a needed value is missing, or the network is not NCSN++ or DDPM.
    """
    name = _value(config, "model", "name").lower()
    if name not in ("ncsnpp", "ddpm"):
        raise UserError(f"model.name must be ncsnpp or ddpm, not {name!r}: other published networks are not supported")
    nonlinearity = config["model"].get("nonlinearity", "swish").lower()
    if nonlinearity != "swish":
        raise UserError(f"model.nonlinearity must be swish, not {nonlinearity!r}")
    arguments = {
        "image_size": _value(config, "data", "image_size"),
        "in_channels": _value(config, "data", "num_channels"),
        "channels": _value(config, "model", "nf"),
        "channel_multipliers": tuple(_value(config, "model", "ch_mult")),
        "num_blocks": _value(config, "model", "num_res_blocks"),
        "attention_resolutions": tuple(_value(config, "model", "attn_resolutions")),
        "dropout": _value(config, "model", "dropout"),
        "resample_with_conv": _value(config, "model", "resamp_with_conv"),
        "time_conditional": _value(config, "model", "conditional"),
        "centered": _value(config, "data", "centered"),
        "scale_by_sigma": _value(config, "model", "scale_by_sigma"),
    }
    embedding = "positional" if name == "ddpm" else _value(config, "model", "embedding_type").lower()
    if arguments["scale_by_sigma"] and embedding == "positional":
        arguments["sigmas"] = geometric_sigmas(
            _value(config, "model", "num_scales"),
            _value(config, "model", "sigma_min"),
            _value(config, "model", "sigma_max"),
        ).flip(0)
    if name == "ddpm":
        return DDPM, arguments
    arguments |= {
        "embedding": embedding,
        "block": _value(config, "model", "resblock_type").lower(),
        "fir": _value(config, "model", "fir"),
        "skip_rescale": _value(config, "model", "skip_rescale"),
        "progressive": _value(config, "model", "progressive").lower(),
        "progressive_input": _value(config, "model", "progressive_input").lower(),
        "init_scale": _value(config, "model", "init_scale"),
    }
    if arguments["fir"]:
        arguments["fir_kernel"] = tuple(_value(config, "model", "fir_kernel"))
    if arguments["progressive_input"] == "input_skip":
        arguments["combine"] = _value(config, "model", "progressive_combine").lower()
    if embedding == "fourier":
        arguments["fourier_scale"] = _value(config, "model", "fourier_scale")
    return NCSNpp, arguments


def from_reference(config: Config, state_dict: Mapping[str, Tensor]) -> NCSNpp:
    """Build the network of a published configuration, with the weights of `state_dict`, in evaluation mode.

    Call it as `network(x, noise_label)`, with the labels of the table above.

    Args:
        config: the published configuration: sections `model` and `data`.
        state_dict: tensors under the published names (`all_modules.K.…`), with or without the prefixes of
            wrappers, such as DataParallel's `module.`.

    Raises:
        UserError: the two do not fit together (the first mismatch is named), or the configuration is not one of NCSN++
            or DDPM.
    """
    network_class, arguments = network_arguments(config)
    network = network_class(**arguments)
    num_scales = config["model"].get("num_scales")
    tensors = unwrapped(state_dict, "the state dict")
    if "sigmas" in tensors and num_scales is not None and len(tensors["sigmas"]) != num_scales:
        raise _mismatch("sigmas", (num_scales,), tuple(tensors["sigmas"].shape))
    copy_weights(network, tensors, arguments.get("block", "ddpm"), arguments.get("embedding", "positional"))
    return network.eval()


def copy_weights(
    network: NCSNpp, state_dict: Mapping[str, Tensor], block: Block = "biggan", embedding: Embedding = "positional"
) -> None:
    """Copy weights under the published names into a network.

    Args:
        network: receives the weights.
        state_dict: tensors under the published names, with or without the prefixes of wrappers.
        block: the network's kind of residual block (for DDPM's network, `ddpm`).
        embedding: the network's kind of embedding.

    Raises:
        UserError: the two do not fit together; the first mismatch is named.
    """
    tensors = unwrapped(state_dict, "the state dict")
    # A network that is not told the time still has the layers for it in the published code, unused.
    told = network.embedding is not None
    expected = dict(reference_tensors(network, block, first=int(not told and embedding == "fourier")))
    for name, target in expected.items():
        if name not in tensors and name != "sigmas":
            raise UserError(f"the weights do not fit the configuration: {name} {tuple(target.shape)} is missing")
        value = tensors.get(name, target)
        if value.shape != target.shape:
            raise _mismatch(name, tuple(target.shape), tuple(value.shape))
        check_finite({name: value}, "the file")
        target.copy_(value)
    for name in tensors:
        unused = name == "sigmas" or (not told and (".Dense_0." in name or name == _FOURIER))
        if name not in expected and not unused:
            raise UserError(f"the weights do not fit the configuration: {name} has no place in this network")


def load_reference_checkpoint(config: Config, path: str | Path, use_ema: bool = True) -> NCSNpp:
    """Build the network of a published configuration, with the weights of a published checkpoint, in evaluation mode.

    Args:
        config: the published configuration: sections `model` and `data`.
        path: the checkpoint.
        use_ema: take the exponential moving average of the weights instead of the weights themselves.

    Raises:
        UserError: the file cannot be read, or does not fit the configuration (the first mismatch is named).
    """
    weights, average = read_checkpoint(path)
    try:
        return from_reference(config, average if use_ema else weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the weights in a published checkpoint, and their moving average, both under the published names.

    The file is a dictionary with `model` (a state dict), `ema` (with `shadow_params`: the trained parameters in the
    order of the state dict), `optimizer` and `step`. Nothing in it is executed: only tensors, numbers and containers
    are read.

    Raises:
        UserError: there is no such file, it is damaged, holds something else, or contains more than data.
    """
    contents = read_torch(Path(path))
    try:
        found, averages = contents["model"], list(contents["ema"]["shadow_params"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a checkpoint of the published code: it lacks the weights or their average"
        ) from error
    weights = unwrapped(found, str(path))
    if not all(isinstance(tensor, Tensor) for tensor in averages):
        raise UserError(f"{path} is not a checkpoint of the published code: not all of its weights are tensors")
    trained = [name for name in weights if name not in ("sigmas", _FOURIER)]
    if len(averages) != len(trained):
        raise UserError(f"{path} has averages of {len(averages)} parameters, but {len(trained)} trained parameters")
    return weights, weights | dict(zip(trained, averages, strict=True))


# The Fourier frequencies are the one parameter that is not trained. Networks without them have no tensor of this name.
_FOURIER = "all_modules.0.W"


def _mismatch(name: str, expected: tuple[int, ...], found: tuple[int, ...]) -> UserError:
    return UserError(f"the weights do not fit the configuration: {name} should have shape {expected}, but has {found}")


def _value(config: Config, section: str, key: str) -> Any:
    try:
        return config[section][key]
    except (KeyError, TypeError) as error:
        raise UserError(f"the published configuration has no value {section}.{key}") from error
