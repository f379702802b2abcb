"""DDPM's U-Net (Ho et al. 2020, arXiv:2006.11239, appendix B): NCSN++ with its additions left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from score_sde.models.layers.condition import Kind
from score_sde.models.networks.ncsnpp import NCSNpp


class DDPM(NCSNpp):
    """DDPM's U-Net has blocks between resamplings, sums not rescaled, no filter, no pyramid, and 32 groups a GroupNorm.

    Call it as `network(x, noise_label)`; the label is a time in steps. Arguments are those of `NCSNpp`.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int,
        out_channels: int | None = None,
        *,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resample_with_conv: bool = True,
        time_conditional: bool = True,
        conditions: Mapping[str, Kind] | None = None,
        centered: bool = True,
        scale_by_sigma: bool = False,
        sigmas: Sequence[float] | Tensor | None = None,
        input_frequencies: Sequence[int] = (),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            image_size,
            in_channels,
            out_channels,
            channels=channels,
            channel_multipliers=channel_multipliers,
            num_blocks=num_blocks,
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            embedding="positional",
            block="ddpm",
            fir=False,
            resample_with_conv=resample_with_conv,
            skip_rescale=False,
            progressive="none",
            progressive_input="none",
            time_conditional=time_conditional,
            init_scale=0.0,
            conditions=conditions,
            centered=centered,
            scale_by_sigma=scale_by_sigma,
            sigmas=sigmas,
            channels_per_group=1,
            input_frequencies=input_frequencies,
            activation_checkpointing=activation_checkpointing,
        )
