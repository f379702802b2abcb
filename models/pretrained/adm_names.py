"""Names of weights in the published code of ADM, guided-diffusion and improved-diffusion, and here.

    there                                                      here
    time_embed.0, .2; label_emb                                embedding
    input_blocks.0.0                                           encoder.conv_in
    input_blocks.1.0, .1; input_blocks.2.0, …                  encoder.stages.0, 1, …: residual block, attention
    middle_block.0, .1, .2                                     encoder.bottleneck
    output_blocks.0.0, .1; …; last of a resolution also .2     decoder.0.0, …; up.0, …
    out                                                        norm, output

The parts of a row of theirs are numbered: where there is no attention, what changes resolution is `.1`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from score_sde.models.layers.pooling import AttentionPool, MeanPool, SpatialPool
from score_sde.models.layers.resampling import DownsampleConv
from score_sde.models.layers.resolutions import Stage
from score_sde.models.networks.adm import ADM, ADMEncoder
from score_sde.models.networks.adm_classifier import ADMClassifier

_RESIDUAL = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "modulation",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "shortcut",
}
_ATTENTION = {"norm": "norm", "qkv": "query_key_value", "proj_out": "output"}


def adm_names(network: ADM) -> dict[str, str]:
    """Return the name here of each weight of a published U-Net, by its published name."""
    layers = _encoder_layers(network.encoder) | {"out.0": "norm", "out.2": "output"}
    number = 0
    for depth, stages in enumerate(network.decoder):
        assert isinstance(stages, nn.ModuleList)
        for index, stage in enumerate(stages):
            row = [(f"decoder.{depth}.{index}", stage)]
            if index == len(stages) - 1 and depth < len(network.up):
                row.append((f"up.{depth}", network.up[depth]))
            layers |= _in_a_row(f"output_blocks.{number}", row)
            number += 1
    names, classes = _weight_names(network, layers), "embedding.condition.vectors.class.weight"
    return names | ({"label_emb.weight": classes} if "class" in network.conditions else {})


def classifier_names(network: ADMClassifier) -> dict[str, str]:
    """Return the name here of each weight of a published classifier, by its published name."""
    pool = network.pool
    if isinstance(pool, AttentionPool):
        layers = {"out.0": "pool.norm", "out.2.qkv_proj": "pool.query_key_value", "out.2.c_proj": "pool.output"}
    elif isinstance(pool, MeanPool):
        layers = {"out.0": "pool.norm", "out.3": "pool.output"}
    else:
        assert isinstance(pool, SpatialPool)
        last = "out.2" if pool.norm is None else "out.3"
        layers = {"out.0": "pool.hidden", "out.1": "pool.norm", last: "pool.output"}
    places = {"out.2.positional_embedding": "pool.places"} if isinstance(pool, AttentionPool) else {}
    return _weight_names(network, _encoder_layers(network.encoder) | layers) | places


def _encoder_layers(encoder: ADMEncoder) -> dict[str, str]:
    """Return the name here of each layer of the embedding of time, the encoder and the bottleneck."""
    layers = {"time_embed.0": "embedding.hidden", "time_embed.2": "embedding.output"}
    layers["input_blocks.0.0"] = "encoder.conv_in"
    for index, stage in enumerate(encoder.stages):
        layers |= _in_a_row(f"input_blocks.{index + 1}", [(f"encoder.stages.{index}", stage)])
    bottleneck = [(f"encoder.bottleneck.{index}", stage) for index, stage in enumerate(encoder.bottleneck)]
    return layers | _in_a_row("middle_block", bottleneck)


def _weight_names(network: nn.Module, layers: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the weights and biases of layers, those that there are in the network."""
    own = network.state_dict().keys()
    names = {f"{there}.{kind}": f"{here}.{kind}" for there, here in layers.items() for kind in ("weight", "bias")}
    return {there: here for there, here in names.items() if here in own}


def _in_a_row(name: str, modules: Sequence[tuple[str, nn.Module]]) -> dict[str, str]:
    """Return the names of layers of a row of theirs, whose parts are numbered."""
    parts = [part for here, module in modules for part in _parts(here, module)]
    return {
        f"{name}.{number}.{theirs}": f"{here}.{ours}"
        for number, (here, layers) in enumerate(parts)
        for theirs, ours in layers.items()
    }


def _parts(here: str, module: nn.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each part of a module, and the names of its layers."""
    if not isinstance(module, Stage):
        yield here, {"op" if isinstance(module, DownsampleConv) else "conv": "conv"}
        return
    yield f"{here}.residual", _RESIDUAL
    if module.attention is not None:
        yield f"{here}.attention", _ATTENTION
