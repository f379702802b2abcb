"""FIR resampling against scipy, and its derivatives against finite differences."""

import pytest
import scipy.signal
import torch
from torch.autograd import gradcheck, gradgradcheck

from score_sde.common.errors import UserError
from score_sde.models.layers.fir import downsample, downsample_conv, fir_kernel_2d, upsample, upsample_conv
from score_sde.models.layers.resampling import Downsample, Upsample

KERNELS = [[1.0], [1, 1], [1, 2, 1], [1, 3, 3, 1], [1, 4, 6, 4, 1], [1, 2, 5, 3, 2, 1]]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def zero_stuffed(x):
    stuffed = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    stuffed[:, :, ::2, ::2] = x
    return stuffed


def convolved(images, kernel, first, size):
    """`size` x `size` pixels of the full convolution, from pixel `first` on."""
    full = torch.stack([torch.stack([torch.from_numpy(scipy.signal.convolve2d(c, kernel)) for c in i]) for i in images])
    padded = torch.nn.functional.pad(full, (2, 2, 2, 2))
    return padded[:, :, first + 2 : first + 2 + size, first + 2 : first + 2 + size]


@pytest.mark.parametrize("taps", KERNELS, ids=str)
def test_upsampling_is_zero_insertion_and_convolution(taps):
    """Output pixel 0 is pixel `n - 1 - pad` of the full convolution, `pad = (n - 1) // 2 + 1` zeros before."""
    x, kernel = torch.randn(2, 3, 4, 4), fir_kernel_2d(taps)
    first = len(taps) - 1 - ((len(taps) - 1) // 2 + 1)
    torch.testing.assert_close(upsample(x, kernel), 4 * convolved(zero_stuffed(x), kernel, first, 8))


@pytest.mark.parametrize("taps", KERNELS, ids=str)
def test_downsampling_is_convolution_at_every_second_pixel(taps):
    x, kernel = torch.randn(2, 3, 8, 8), fir_kernel_2d(taps)
    first = len(taps) - 1 - (len(taps) - 1) // 2
    torch.testing.assert_close(downsample(x, kernel), convolved(x, kernel, first, 8)[:, :, ::2, ::2])


@pytest.mark.parametrize("taps", KERNELS, ids=str)
def test_constant_images_stay_constant_inside(taps):
    """Away from the border. (One tap is no filter for upsampling: it leaves zeros between the pixels.)"""
    x, kernel = torch.ones(1, 1, 16, 16), fir_kernel_2d(taps)
    torch.testing.assert_close(downsample(x, kernel)[:, :, 2:-2, 2:-2], torch.ones(1, 1, 4, 4))
    if taps in ([1, 1], [1, 2, 1], [1, 3, 3, 1], [1, 4, 6, 4, 1]):
        torch.testing.assert_close(upsample(x, kernel)[:, :, 4:-4, 4:-4], torch.ones(1, 1, 24, 24))


def test_two_taps_are_the_unfiltered_resampling():
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(Downsample([1, 1])(x), Downsample()(x))
    torch.testing.assert_close(Upsample([1, 1])(x), Upsample()(x))


@pytest.mark.parametrize("taps", KERNELS[1:], ids=str)
def test_convolutions_are_folded_in(taps):
    """With zeros enough around the image, filter and convolution may be applied one after the other."""
    x = torch.nn.functional.pad(torch.randn(1, 2, 4, 4), (6, 6, 6, 6))
    weight, bias, kernel = torch.randn(3, 2, 3, 3), torch.randn(3), fir_kernel_2d(taps)
    up = torch.nn.functional.conv2d(upsample(x, kernel), weight, bias, padding=1)
    folded = upsample_conv(x, weight, bias, kernel)
    if len(taps) % 2 == 0:  # an odd kernel's middle is rounded the other way
        torch.testing.assert_close(folded, up)
    down = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    filtered = downsample_conv(x, weight, bias, kernel)
    if len(taps) % 2 == 0:
        torch.testing.assert_close(filtered[:, :, 2:-2, 2:-2], downsample(down, kernel)[:, :, 2:-2, 2:-2])
    assert folded.shape == (1, 3, 32, 32)
    assert filtered.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 1]], ids=str)
def test_derivatives_of_first_and_second_order(taps):
    kernel = fir_kernel_2d(taps)
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    for function in (upsample, downsample):
        assert gradcheck(lambda y, f=function: f(y, kernel), x, check_forward_ad=True)
        assert gradgradcheck(lambda y, f=function: f(y, kernel) ** 2, x)
    weight, bias = torch.randn(1, 2, 3, 3, requires_grad=True), torch.randn(1, requires_grad=True)
    for folded in (upsample_conv, downsample_conv):
        inputs = (x, weight, bias)
        assert gradcheck(lambda *i, f=folded: f(*i, kernel), inputs, check_forward_ad=True)
        assert gradgradcheck(lambda *i, f=folded: f(*i, kernel), inputs)


def test_square_kernels_and_mistakes():
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.testing.assert_close(fir_kernel_2d(square.tolist()), square / 10)
    for taps in ([], [1, -1], [[1, 2]]):
        with pytest.raises(UserError, match="fir_kernel must be"):
            fir_kernel_2d(taps)
