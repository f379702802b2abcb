r"""The Gaussian that data look like: `N(m, V diag(c^2) V^T)`, with the data's mean and covariance.

Its diffusion is known in closed form, direction by direction, and where the data look like it, at large noise above
all, so is theirs. In its axes, `u = V^T (x - m)`, each number has a standard deviation `c_i` of its own.

`V` is an orthogonal matrix over all numbers of an example where these are few. Where they are many it is a product of
one matrix for each axis (channels, rows, columns …): the eigenvectors of the covariance along that axis, which for
stationary series and pictures are their frequencies. The variances are then those of the data along the axes of `V`,
and what covariance is left between these is neglected.

Examples that are observed in part have none: covariances of pairs of numbers need not be those of any Gaussian.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# The most numbers of an example for which a whole covariance is taken.
_WHOLE = 128
# The same for a vector, and for an axis of an example; along longer ones the numbers themselves are the axes.
_LONGEST = 1024
# The most different standard deviations that are told apart, where examples have more numbers than this.
_SCALES = 64
# No standard deviation is smaller than the largest by more than this factor: a direction in which the data do not vary
# is one in which a trained model's samples vary a little.
_RANGE = 60.0


class Gaussian(NamedTuple):
    """A Gaussian of examples of shape `dims`; float64, on the CPU.

    Attributes:
        mean: shape `dims`.
        scales: the different standard deviations along its axes, `(S,)`.
        which: which of them each axis has, shape `dims`.
        bases: `V`, of shape `(d, d)`, for `d` numbers of an example laid out in one row; or one matrix for each axis of
            an example, an empty one for the identity; or none at all, for the identity.
    """

    mean: Tensor
    scales: Tensor
    which: Tensor
    bases: tuple[Tensor, ...] = ()

    def rotate(self, x: Tensor) -> Tensor:
        """Return `V^T x`, for `x` `(B, *dims)`; shape, dtype and device of `x`."""
        return self._along(x, transposed=False)

    def rotate_back(self, u: Tensor) -> Tensor:
        """Return `V u`, for `u` `(B, *dims)`; shape, dtype and device of `u`."""
        return self._along(u, transposed=True)

    def _along(self, x: Tensor, transposed: bool) -> Tensor:
        bases = [basis.to(x).mT if transposed else basis.to(x) for basis in self.bases]
        if len(bases) == 1:
            return (x.flatten(1) @ bases[0]).reshape(x.shape)
        for axis, basis in enumerate(bases, 1):
            if basis.numel():
                x = torch.movedim(torch.movedim(x, axis, -1) @ basis, -1, axis)
        return x

    def to(self, x: Tensor) -> Gaussian:
        """Return this in the dtype and on the device of `x`, to rotate states like it."""
        return Gaussian(
            self.mean.to(x), self.scales.to(x), self.which.to(x.device), tuple(basis.to(x) for basis in self.bases)
        )

    def scaled(self, factor: float) -> Gaussian:
        """Return the Gaussian of the data times a factor."""
        return self._replace(mean=factor * self.mean, scales=factor * self.scales)

    def describe(self, exactly: bool = False) -> dict[str, Any]:
        """Return this in plain values, in single precision, or exactly."""
        arrays = {"mean": self.mean, "scales": self.scales} | {
            f"basis_{k}": basis for k, basis in enumerate(self.bases)
        }
        dtype = "<f8" if exactly else "<f4"
        described = {name: _written(array, dtype) for name, array in arrays.items()}
        return {"shape": list(self.mean.shape), "dtype": dtype, "which": _written(self.which, "<u2"), **described}


def isotropic(data_std: float) -> Gaussian:
    """Return `N(0, c^2 I)`, of examples of any shape."""
    nothing = torch.zeros((), dtype=torch.float64)
    return Gaussian(nothing, torch.full((1,), data_std, dtype=torch.float64), nothing.long())


def gaussian_of(mean: Tensor, covariance: Tensor) -> Gaussian:
    """Return the Gaussian of a mean `(d,)` and a covariance `(d, d)`."""
    variances, basis = torch.linalg.eigh(covariance.double())
    return Gaussian(mean.double(), variances.clamp(min=0).sqrt(), torch.arange(len(mean)), (basis,))


def fit_gaussian(x: Tensor) -> Gaussian | None:
    """Return the Gaussian of these examples `(N, *dims)`, rounded as `described`; None if they do not vary.

    Examples with numbers that are not finite, or missing, have none, either.
    """
    if len(x) < 2:
        return None
    mean = x.double().mean(0)
    centred = x.double() - mean
    if not bool(centred.isfinite().all()) or not bool(centred.any()):
        return None
    dims = tuple(mean.shape)
    if mean.numel() <= (_WHOLE if len(dims) > 1 else _LONGEST):
        bases: tuple[Tensor, ...] = (_principal_axes(centred.flatten(1)),)
    elif len(dims) == 1:
        bases = ()
    else:
        bases = tuple(_principal_axes(centred.movedim(axis, -1).flatten(0, -2)) for axis in range(1, centred.ndim))
    whole = Gaussian(mean, torch.ones(1, dtype=torch.float64), torch.zeros(dims, dtype=torch.int64), bases)
    spread = whole.rotate(centred).square().mean(0).sqrt()
    spread = spread.clamp(min=float(spread.max()) / _RANGE)
    scales, which = _told_apart(spread)
    return described(Gaussian(mean, scales, which, bases).describe())


def described(description: Mapping[str, Any]) -> Gaussian:
    """Return the Gaussian of a description."""
    shape = tuple(description["shape"])
    names = description.keys() - {"shape", "dtype", "which"}
    arrays = {name: _read(description[name], description["dtype"]) for name in names}
    bases = [arrays[f"basis_{k}"] for k in range(len(arrays) - 2)]
    return Gaussian(
        arrays["mean"].reshape(shape),
        arrays["scales"],
        _read(description["which"], "<u2").long().reshape(shape),
        tuple(basis.reshape(math.isqrt(basis.numel()), math.isqrt(basis.numel())) for basis in bases),
    )


def _principal_axes(rows: Tensor) -> Tensor:
    """Return the eigenvectors of the covariance of centred rows `(N, n)`, `(n, n)`; an empty matrix if `n` is large."""
    if rows.shape[1] > _LONGEST:
        return rows.new_zeros(0, 0)
    return torch.linalg.eigh(rows.T @ rows / len(rows))[1]


def _told_apart(spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return at most a few scales, and which of them each number of `spread` has, to a few per cent."""
    if spread.numel() <= _WHOLE:
        return spread.flatten(), torch.arange(spread.numel()).reshape(spread.shape)
    position = torch.log(spread / spread.min())
    step = position.max() / (_SCALES - 1)
    which = (position / step).round().long() if step > 0 else torch.zeros_like(position).long()
    return spread.min() * torch.exp(step * torch.arange(_SCALES, dtype=torch.float64)), which


def _written(array: Tensor, dtype: str) -> str:
    return base64.b64encode(array.numpy().astype(dtype).tobytes()).decode()


def _read(text: str, dtype: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype).astype(np.float64))
