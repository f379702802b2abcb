r"""Our networks as `UNet2DModel`s of the library diffusers, and score models as its pipelines.

That model can express two of our families exactly:

    DDPM        `ddpm` blocks, positional embedding, no filter, no pyramid, sums not rescaled, resampling with
                convolutions
    NCSN++      `biggan` blocks, Fourier embedding, filter (1, 3, 3, 1), `output_skip` and `input_skip` pyramids joined
                by sums, sums rescaled, output divided by sigma, three channels: the published networks for 256 x 256

with the same number of groups in every GroupNorm. Its decoder has self-attention after each block of a size, DDPM's
(in the Score-SDE code and here) only after the last: the others are given an output layer of zeros, which makes them
the identity.

Layers are matched by walking both networks in the order of their forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError
from score_sde.models.layers.attention import SelfAttention
from score_sde.models.layers.embeddings import FourierFeatures
from score_sde.models.layers.pyramids import Head, InputSkip, OutputSkip
from score_sde.models.layers.resampling import DownsampleConv, UpsampleConv
from score_sde.models.layers.residual import ResidualBlock
from score_sde.models.layers.resolutions import DecoderResolution, EncoderResolution, Stage
from score_sde.models.learned_variance import LearnedVariance
from score_sde.models.networks.ncsnpp import NCSNpp
from score_sde.models.pretrained.diffusers_library import library
from score_sde.models.score_model import ScoreModel
from score_sde.sde import SDE, VESDE, DDPMLadder

Pairs = Iterator[tuple[nn.Module, nn.Module]]

_PREDICTION_TYPES = {"noise": "epsilon", "velocity": "v_prediction", "denoised": "sample"}
_KERNEL = (1.0, 3.0, 3.0, 1.0)


def save_pipeline(model: ScoreModel, folder: str | Path, image_size: int) -> None:
    """Write a score model as a pipeline: `DDPMPipeline` for DDPM's ladder, `ScoreSdeVePipeline` for VE.

    Args:
        model: a score model of images in [-1, 1] (DDPM's ladder, told rungs) or [0, 1] (VE, told sigma).
        folder: the folder, which is made.
        image_size: height and width of the images.

    Raises:
        UserError: the process, noise label, prediction or network is not one that a pipeline can express.
    """
    diffusers = library()
    scheduler = _scheduler(model, diffusers)
    unet = to_unet(model.network, image_size)
    fourier = unet.config.time_embedding_type == "fourier"
    if fourier != isinstance(model.sde, VESDE):
        raise UserError("a pipeline for VE has a network with Fourier embeddings, and one for DDPM's ladder has not")
    pipeline = diffusers.ScoreSdeVePipeline if fourier else diffusers.DDPMPipeline
    try:
        pipeline(unet=unet, scheduler=scheduler).save_pretrained(str(folder))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def to_unet(network: nn.Module, image_size: int) -> Any:
    """Make a `UNet2DModel` that computes what our network does; in evaluation mode.

    Raises:
        UserError: no `UNet2DModel` does; the first reason is named.
    """
    if not isinstance(network, NCSNpp):
        raise UserError(f"a UNet2DModel cannot express a network of type {type(network).__name__}")
    unet = library().UNet2DModel(**unet_arguments(network, image_size)).eval()
    nn.Module.to(unet, next(network.parameters()).dtype)
    with torch.no_grad():
        for ours, theirs in _pairs(network, unet):
            _copy(ours, theirs)
    return unet


def unet_arguments(network: NCSNpp, image_size: int) -> dict[str, Any]:
    """Return the keyword arguments of the `UNet2DModel` that expresses `network`.

    Raises:
        UserError: there is none; the first reason is named.
    """
    resolutions = [resolution for resolution in network.encoder if isinstance(resolution, EncoderResolution)]
    fourier = network.embedding is not None and isinstance(network.embedding.features, FourierFeatures)
    (_check_ncsnpp if fourier else _check_ddpm)(network, resolutions)
    groups = {norm.num_groups for norm in network.modules() if isinstance(norm, nn.GroupNorm)}
    if len(groups) > 1:
        raise UserError(f"a UNet2DModel has the same number of groups in every GroupNorm, not {sorted(groups)}")
    (num_groups,) = groups
    if fourier and num_groups != 32:
        raise UserError(f"a UNet2DModel with skip pyramids has 32 groups in every GroupNorm, not {num_groups}")
    down = "SkipDownBlock2D" if fourier else "DownBlock2D"
    up = "SkipUpBlock2D" if fourier else "UpBlock2D"
    attends = [_attention(resolution.blocks[0]) is not None for resolution in resolutions]
    stages = [stage for resolution in resolutions for stage in resolution.blocks]
    dropouts = {module.p for module in network.modules() if isinstance(module, nn.Dropout)}
    return {
        "sample_size": image_size,
        "in_channels": network.in_channels,
        "out_channels": network.out_channels,
        "center_input_sample": not network.centered,
        "time_embedding_type": "fourier" if fourier else "positional",
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "down_block_types": tuple("Attn" * attend + down for attend in attends),
        "up_block_types": tuple("Attn" * attend + up for attend in reversed(attends)),
        "block_out_channels": tuple(
            _residual(resolution.blocks[-1]).conv_out.out_channels for resolution in resolutions
        ),
        "layers_per_block": len(resolutions[0].blocks),
        "mid_block_scale_factor": math.sqrt(2) if _residual(stages[0]).skip_rescale else 1.0,
        "downsample_padding": 0,
        "dropout": dropouts.pop(),
        "act_fn": "silu",
        "attention_head_dim": None,
        "norm_num_groups": num_groups,
        "norm_eps": 1e-6,
    }


def _check_ddpm(network: NCSNpp, resolutions: list[EncoderResolution]) -> None:
    if network.embedding is None or network.embedding.condition is not None:
        raise UserError("a UNet2DModel is told the time, and here nothing else")
    if network.scale_by_sigma or network.sigmas is not None:
        raise UserError("a UNet2DModel with a positional embedding does not divide its output by sigma")
    if _residual(resolutions[0].blocks[0]).skip_rescale:
        raise UserError("a UNet2DModel with a positional embedding does not rescale sums (skip_rescale)")
    for resolution in resolutions[:-1]:
        if not isinstance(resolution.down, DownsampleConv) or resolution.down.kernel is not None:
            raise UserError("a UNet2DModel resamples by plain convolutions (block='ddpm', fir=False)")
    if network.head is None or any(resolution.inject is not None for resolution in resolutions):
        raise UserError("a UNet2DModel with a positional embedding has no pyramids")
    if any(resolution.emit is not None for resolution in network.decoder if isinstance(resolution, DecoderResolution)):
        raise UserError("a UNet2DModel with a positional embedding has no pyramids")


def _check_ncsnpp(network: NCSNpp, resolutions: list[EncoderResolution]) -> None:
    assert network.embedding is not None
    if network.embedding.condition is not None:
        raise UserError("a UNet2DModel is told the time, and here nothing else")
    if not network.scale_by_sigma:
        raise UserError("a UNet2DModel with a Fourier embedding divides its output by sigma (scale_by_sigma)")
    if not _residual(resolutions[0].blocks[0]).skip_rescale:
        raise UserError("a UNet2DModel with skip pyramids rescales sums (skip_rescale)")
    if network.in_channels != 3 or network.out_channels != 3:
        raise UserError("a UNet2DModel with skip pyramids has three image channels")
    sums = [
        isinstance(resolution.inject, InputSkip) and resolution.inject.combine.method == "sum"
        for resolution in resolutions[:-1]
    ]
    emits = [
        isinstance(resolution.emit, OutputSkip)
        for resolution in network.decoder
        if isinstance(resolution, DecoderResolution)
    ]
    if not all(sums) or not all(emits):
        raise UserError(
            "a UNet2DModel with a Fourier embedding has skip pyramids joined by sums "
            "(progressive='output_skip', progressive_input='input_skip', combine='sum')"
        )
    kernel = torch.outer(torch.tensor(_KERNEL), torch.tensor(_KERNEL)) / sum(_KERNEL) ** 2
    for resolution in resolutions[:-1]:
        used = (
            getattr(_residual(resolution.down).resample, "kernel", None) if isinstance(resolution.down, Stage) else None
        )
        if used is None or used.shape != kernel.shape or not torch.allclose(used.float().cpu(), kernel):
            raise UserError("a UNet2DModel with skip pyramids resamples in blocks, filtered by (1, 3, 3, 1)")


def _scheduler(model: ScoreModel, diffusers: Any) -> Any:
    if not isinstance(model, ScoreModel):
        raise UserError("only models of noise, score, velocity or denoised image can be pipelines")
    if isinstance(model, LearnedVariance):
        raise UserError("the steps of a pipeline have a fixed variance, and this model learned it")
    sde = model.sde
    if model.scale_input and not (isinstance(sde, DDPMLadder) and model.data_std == 1):
        raise UserError("a pipeline does not divide its network's input: train with scale_input=False")
    if isinstance(sde, VESDE):
        _require(model.noise_label, "sigma", sde)
        if model.prediction != "score":
            raise UserError(f"a pipeline for VE predicts the score, not {model.prediction}")
        return diffusers.ScoreSdeVeScheduler(
            sigma_min=sde.sigma_min, sigma_max=sde.sigma_max, sampling_eps=sde.t_min or 1e-5
        )
    if not isinstance(sde, DDPMLadder):
        raise UserError(f"a pipeline has DDPM's ladder or VE, not {type(sde).__name__}: train with one of them")
    _require(model.noise_label, "rung", sde)
    if model.prediction not in _PREDICTION_TYPES:
        raise UserError(f"a pipeline predicts one of {', '.join(_PREDICTION_TYPES)}, not {model.prediction}")
    return diffusers.DDPMScheduler(
        num_train_timesteps=sde.num_rungs,
        trained_betas=sde.betas.tolist(),
        prediction_type=_PREDICTION_TYPES[model.prediction],
        clip_sample=False,
    )


def _require(noise_label: object, wanted: str, sde: SDE) -> None:
    if noise_label != wanted:
        raise UserError(f"a pipeline for {type(sde).__name__} tells its network {wanted!r}, not {noise_label!r}")


def _pairs(network: NCSNpp, unet: Any) -> Pairs:
    """Yield our layers with theirs, in the order of the forward pass; residual blocks and attentions are whole."""
    assert network.embedding is not None
    if isinstance(network.embedding.features, FourierFeatures):
        yield network.embedding.features, unet.time_proj
    yield network.embedding.hidden, unet.time_embedding.linear_1
    yield network.embedding.output, unet.time_embedding.linear_2
    yield network.conv_in, unet.conv_in
    for resolution, block in zip(network.encoder, unet.down_blocks, strict=True):
        assert isinstance(resolution, EncoderResolution)
        yield from _stages(resolution.blocks, block)
        if isinstance(resolution.down, Stage):
            yield resolution.down.residual, block.resnet_down
            assert isinstance(resolution.inject, InputSkip)
            yield resolution.inject.combine.conv, block.skip_conv
        elif resolution.down is not None:
            assert isinstance(resolution.down, DownsampleConv)
            yield resolution.down.conv, block.downsamplers[0].conv
    yield from _stages(network.bottleneck, unet.mid_block)
    for resolution, block in zip(network.decoder, unet.up_blocks, strict=True):
        assert isinstance(resolution, DecoderResolution)
        yield from _stages(resolution.blocks, block)
        if isinstance(resolution.emit, OutputSkip):
            last = resolution.up is None
            yield resolution.emit.head.norm, unet.conv_norm_out if last else block.skip_norm
            yield resolution.emit.head.conv, unet.conv_out if last else block.skip_conv
        if isinstance(resolution.up, Stage):
            yield resolution.up.residual, block.resnet_up
        elif resolution.up is not None:
            assert isinstance(resolution.up, UpsampleConv)
            yield resolution.up.conv, block.upsamplers[0].conv
    if isinstance(network.head, Head):
        yield network.head.norm, unet.conv_norm_out
        yield network.head.conv, unet.conv_out


def _stages(stages: nn.ModuleList, block: Any) -> Pairs:
    """Yield the blocks of a resolution, and its attentions: those that only theirs has are made the identity."""
    for stage, resnet in zip(stages, block.resnets, strict=True):
        yield _residual(stage), resnet
    theirs = list(getattr(block, "attentions", ()))
    # Theirs has only one attention in two places: at the end of a decoder's size with skip pyramids, and after the
    # bottleneck's first block.
    ours = [_attention(stage) for stage in stages]
    if len(theirs) < len(ours):
        ours = [attention for attention in ours if attention is not None]
    for attention, other in zip(ours, theirs, strict=True):
        if attention is not None:
            yield attention, other
        else:
            nn.init.zeros_(other.to_out[0].weight)
            nn.init.zeros_(other.to_out[0].bias)


def _copy(ours: nn.Module, theirs: Any) -> None:
    """Copy the weights of one layer, one residual block or one attention."""
    if isinstance(ours, ResidualBlock):
        assert ours.modulation is not None
        for one, other in (
            (ours.norm_in, theirs.norm1),
            (ours.conv_in, theirs.conv1),
            (ours.modulation, theirs.time_emb_proj),
            (ours.norm_out, theirs.norm2),
            (ours.conv_out, theirs.conv2),
        ):
            _copy(one, other)
        if isinstance(ours.shortcut, nn.Conv2d):
            _copy(ours.shortcut, theirs.conv_shortcut)
    elif isinstance(ours, SelfAttention):
        _copy(ours.norm, theirs.group_norm)
        weights, biases = ours.query_key_value.weight.chunk(3), ours.query_key_value.bias.chunk(3)
        for weight, bias, other in zip(weights, biases, (theirs.to_q, theirs.to_k, theirs.to_v), strict=True):
            _fill(other, weight, bias)
        _copy(ours.output, theirs.to_out[0])
    elif isinstance(ours, FourierFeatures):
        theirs.weight.copy_(ours.frequencies)
    else:
        _fill(theirs, ours.weight, ours.bias)  # type: ignore[arg-type]


def _fill(layer: Any, weight: Tensor, bias: Tensor) -> None:
    if layer.weight.shape != weight.shape:
        raise UserError(f"no UNet2DModel has this network's layers: {tuple(weight.shape)}, {tuple(layer.weight.shape)}")
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


def _residual(stage: nn.Module | None) -> ResidualBlock:
    assert isinstance(stage, Stage)
    assert isinstance(stage.residual, ResidualBlock)
    return stage.residual


def _attention(stage: nn.Module) -> SelfAttention | None:
    assert isinstance(stage, Stage)
    return stage.attention
