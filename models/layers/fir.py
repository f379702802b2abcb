r"""Resampling by a factor of two through a finite impulse response filter, in plain PyTorch operations.

    upsample      y = 4 k * (x with zeros between its pixels)
    downsample    y = (k * x) at every second pixel

`*` is convolution with zeros outside the image, and the kernel k is normalised to sum 1 (Karras et al. 2020,
arXiv:1912.04958; Zhang 2019, arXiv:1904.11486). A learned convolution may be folded in: before the filter when
upsampling, after it when downsampling. The operations are PyTorch's own, so gradients of every kind and order are
right, on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.errors import UserError

FACTOR = 2


def fir_kernel_2d(taps: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """Return the normalised square kernel `(n, n)` with these taps: an outer product if they are one row of n numbers.

    Raises:
        UserError: the taps are not one row or a square, or sum to zero.
    """
    kernel = torch.tensor(taps, dtype=torch.float64, device="cpu")
    if kernel.ndim == 1:
        kernel = torch.outer(kernel, kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] == 0 or kernel.sum() == 0:
        raise UserError(
            "fir_kernel must be a row of numbers (or a square of them) with a non-zero sum, such as [1, 3, 3, 1], "
            f"not {taps}"
        )
    return (kernel / kernel.sum()).to(torch.get_default_dtype())


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double an image's size: `(B, C, H, W)` to `(B, C, 2H, 2W)`, filtered with `kernel` `(n, n)`."""
    # Transposed convolution with the kernel: zeros are inserted and filtered in one pass, at the full (H - 1) * 2 + n
    # outputs.
    size = kernel.shape[0]
    full = F.conv_transpose2d(x, _one_per_channel(kernel, x) * FACTOR**2, stride=FACTOR, groups=x.shape[1])
    before = size - 1 - ((size - FACTOR + 1) // 2 + FACTOR - 1)
    after = size - FACTOR - before
    return F.pad(full, (-before, -after, -before, -after))


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Halve an image's size: `(B, C, H, W)` to `(B, C, H / 2, W / 2)`, filtered with `kernel` `(n, n)`."""
    return _filter(x, kernel, kernel.shape[0] - FACTOR, stride=FACTOR)


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor) -> Tensor:
    """Convolve with `weight` `(C', C, m, m)` at twice the resolution, then filter: `(B, C, H, W)` to `(B, C', 2H,
    2W)`.
    """
    stuffed = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=FACTOR)
    surplus = kernel.shape[0] - FACTOR - (weight.shape[-1] - 1)
    padding = ((surplus + 1) // 2 + FACTOR - 1, surplus // 2 + 1)
    filtered = _convolve(stuffed, kernel * FACTOR**2, padding)
    return filtered if bias is None else filtered + bias[:, None, None]


def downsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor) -> Tensor:
    """Filter, then convolve with `weight` `(C', C, m, m)` at every second pixel: `(B, C, H, W)` to `(B, C', H / 2, W /
    2)`.
    """
    smooth = _filter(x, kernel, kernel.shape[0] - FACTOR + weight.shape[-1] - 1)
    return F.conv2d(smooth, weight, bias, stride=FACTOR)


def _filter(x: Tensor, kernel: Tensor, surplus: int, stride: int = 1) -> Tensor:
    """Convolve with `surplus` zeros around the image, the odd one before it."""
    return _convolve(x, kernel, ((surplus + 1) // 2, surplus // 2), stride)


def _convolve(x: Tensor, kernel: Tensor, padding: tuple[int, int], stride: int = 1) -> Tensor:
    """Convolve each channel with `kernel` (which runs backwards); negative padding crops."""
    weight = _one_per_channel(kernel.flip(0, 1), x)
    return F.conv2d(F.pad(x, padding * 2), weight, stride=stride, groups=x.shape[1])


def _one_per_channel(kernel: Tensor, x: Tensor) -> Tensor:
    """Return `kernel` as the weight of a depthwise convolution on `x`."""
    return kernel.to(x.dtype).expand(x.shape[1], 1, *kernel.shape)
