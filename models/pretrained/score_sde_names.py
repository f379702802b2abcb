"""The names and layouts that the published Score-SDE code gives to the tensors of NCSN++ and DDPM.

That code keeps one flat list, `all_modules`, in the order in which the forward pass uses it, and names tensors
`all_modules.K.…`. Here the list is walked once, and each of its tensors is given as a view into one of ours: copying
into the views imports a network, reading them exports it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from score_sde.models.layers.attention import SelfAttention
from score_sde.models.layers.embeddings import FourierFeatures
from score_sde.models.layers.pyramids import Combine, InputSkip, OutputResidual
from score_sde.models.layers.resampling import DownsampleConv, UpsampleConv
from score_sde.models.layers.residual import ResidualBlock
from score_sde.models.layers.resolutions import DecoderResolution, EncoderResolution, Stage
from score_sde.models.networks.ncsnpp import Block, NCSNpp

NamedTensors = Iterator[tuple[str, Tensor]]


def reference_tensors(network: NCSNpp, block: Block, *, first: int = 0) -> NamedTensors:
    """Yield names and tensors in the published code's order and layout; tensors share memory with the network's.

    Args:
        block: the kind of residual block, which decides how shortcuts are stored.
        first: number of the first entry of the published list that this network has.
    """
    if network.sigmas is not None:
        yield "sigmas", network.sigmas.detach()
    for index, module in enumerate(_modules(network), start=first):
        for name, tensor in _tensors(module, block):
            yield f"all_modules.{index}.{name}", tensor.detach()


def _modules(network: NCSNpp) -> Iterator[nn.Module]:
    """Yield the entries of `all_modules`, those without parameters included."""
    if network.embedding is not None:
        if isinstance(network.embedding.features, FourierFeatures):
            yield network.embedding.features
        yield network.embedding.hidden
        yield network.embedding.output
    yield network.conv_in
    for resolution in network.encoder:
        assert isinstance(resolution, EncoderResolution)
        yield from _encoder_resolution(resolution)
    for stage in network.bottleneck:
        yield from _stage(stage)
    for resolution in network.decoder:
        assert isinstance(resolution, DecoderResolution)
        yield from _decoder_resolution(resolution)
    if network.head is not None:
        yield from (network.head.norm, network.head.conv)


def _encoder_resolution(resolution: EncoderResolution) -> Iterator[nn.Module]:
    for stage in resolution.blocks:
        yield from _stage(stage)
    if resolution.down is not None:
        yield from _stage(resolution.down)
    if resolution.inject is not None:
        yield resolution.inject.combine if isinstance(resolution.inject, InputSkip) else resolution.inject.downsample


def _decoder_resolution(resolution: DecoderResolution) -> Iterator[nn.Module]:
    for stage in resolution.blocks:
        yield from _stage(stage)
    if isinstance(resolution.emit, OutputResidual):
        yield resolution.emit.upsample
    elif resolution.emit is not None:
        yield from (resolution.emit.head.norm, resolution.emit.head.conv)
    if resolution.up is not None:
        yield from _stage(resolution.up)


def _stage(stage: nn.Module) -> Iterator[nn.Module]:
    """Yield a residual block and its attention as two entries, a plain change of resolution as one."""
    if not isinstance(stage, Stage):
        yield stage
        return
    yield stage.residual
    if stage.attention is not None:
        yield stage.attention


def _tensors(module: nn.Module, block: Block) -> NamedTensors:
    """Yield names and tensors of one entry."""
    if isinstance(module, FourierFeatures):
        yield "W", module.frequencies
    elif isinstance(module, ResidualBlock):
        yield from _residual_block(module, block)
    elif isinstance(module, SelfAttention):
        yield from _self_attention(module)
    elif isinstance(module, Combine):
        yield from _renamed("Conv_0", module.conv)
    elif isinstance(module, DownsampleConv | UpsampleConv):
        yield from _renamed("Conv_0" if module.kernel is None else "Conv2d_0", module.conv)
    else:
        yield from module.named_parameters()


def _residual_block(module: ResidualBlock, block: Block) -> NamedTensors:
    yield from _renamed("GroupNorm_0", module.norm_in)
    yield from _renamed("Conv_0", module.conv_in)
    if module.modulation is not None:
        yield from _renamed("Dense_0", module.modulation)
    yield from _renamed("GroupNorm_1", module.norm_out)
    yield from _renamed("Conv_1", module.conv_out)
    if not isinstance(module.shortcut, nn.Conv2d):
        return
    if block == "biggan":
        yield from _renamed("Conv_2", module.shortcut)
    else:
        yield from _pixelwise("NIN_0", module.shortcut.weight[:, :, 0, 0], module.shortcut.bias)


def _self_attention(module: SelfAttention) -> NamedTensors:
    yield from _renamed("GroupNorm_0", module.norm)
    weights, biases = module.query_key_value.weight.chunk(3), module.query_key_value.bias.chunk(3)
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        yield from _pixelwise(f"NIN_{index}", weight, bias)
    yield from _pixelwise("NIN_3", module.output.weight, module.output.bias)


def _pixelwise(name: str, weight: Tensor, bias: Tensor | None) -> NamedTensors:
    """Yield an affine map of each pixel, whose weight the published code stores as inputs x outputs."""
    assert bias is not None
    yield f"{name}.W", weight.T
    yield f"{name}.b", bias


def _renamed(name: str, module: nn.Module) -> NamedTensors:
    for suffix, tensor in module.named_parameters():
        yield f"{name}.{suffix}", tensor
