r"""What is observed of an example: linear operators `A`, as functions of states `(B, *dims)`, one example by itself.

    masked          some pixels                        A A^T = I on them
    grey            the mean of the colours            A A^T = I / 3
    shrunk          means of squares of pixels         A A^T = I / factor^2
    blurred         a Gaussian filter                  A A^T nearly singular

Series and volumes have one and three axes where pictures have two; means are then of stretches and of cubes.

Any other linear function serves as well, `LinearOperator(function)`: its transpose is the derivative's, and
`(v I + r^2 A A^T)^{-1}` is applied by conjugate gradients (Hestenes & Stiefel 1952), which are done after one iteration
where `A A^T` is a multiple of the identity. They stop after 100; without noise the inverse of a strong blur is then not
reached, and what it should give back is given back as far as that.

What is observed may be any differentiable function `A(x)`; near a state it is linear, `A(x + v) ≈ A(x) + A' v`
(`linearised`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from score_sde.common.arguments import checked
from score_sde.common.condition import Rows
from score_sde.common.errors import UserError
from score_sde.control.base import dot
from score_sde.sde import SDE
from score_sde.solvers.density.divergence import value_and_pull_back

_AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX_ITERATIONS = 100
# A blur's standard deviation in pixels is at most this.
LARGEST_BLUR = 100.0
# What is observed of states `(B, *dims)`, `(B, *observed)`: linear or not, differentiable, each example by itself.
Operator = Callable[[Tensor], Tensor]

# Conjugate gradients stop at this relative residual, in units of the number format's rounding.
_ROUNDINGS = 10.0


class LinearOperator:
    """A linear function comes with its transpose, and the inverses that follow from the two.

    Args:
        function: a function from `(B, *dims)` to `(B, *observed)`, linear, each example by itself.
    """

    @checked
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        """Return `A x`, `(B, *observed)`."""
        return self.function(x)

    def transpose(self, y: Tensor, like: Tensor) -> Tensor:
        """Return `A^T y` for `y` `(B, *observed)`; shape of `like` `(B, *dims)`."""
        return value_and_pull_back(self.function, torch.zeros_like(like))[1](y)[0]

    def solve(self, y: Tensor, like: Tensor, diagonal: Tensor, spread: Tensor) -> Tensor:
        """Return `(diagonal I + spread A A^T)^{-1} y`; shape of `y` `(B, *observed)`.

        With a diagonal of 0 this is the pseudo-inverse, for `y` that can be observed.

        Args:
            y: what the inverse is applied to.
            like: a state `(B, *dims)`, for its shape.
            diagonal: the multiple of `I`, not negative, `()` or `(B,)`.
            spread: the multiple of `A A^T`, positive, `()` or `(B,)`.
        """
        _, pull_back = value_and_pull_back(self.function, torch.zeros_like(like))
        diagonal, spread = SDE.expand(diagonal, y), SDE.expand(spread, y)

        def apply(v: Tensor) -> Tensor:
            return diagonal * v + spread * self.function(pull_back(v)[0])

        return conjugate_gradients(apply, y)

    def count(self, y: Tensor) -> int:
        """Return how many numbers of an example are observed, of `y` `(B, *observed)`."""
        return y[0].numel()

    def pseudo_inverse(self, y: Tensor, like: Tensor) -> Tensor:
        """Return `A^+ y = A^T (A A^T)^{-1} y`, the smallest state that gives `y`; shape of `like`."""
        return self.transpose(self.solve(y, like, y.new_zeros(()), y.new_ones(())), like)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the state nearest to `x` `(B, *dims)` that gives `y`: `x + A^+ (y - A x)`."""
        return x + self.pseudo_inverse(y - self(x), x)


class Masked(LinearOperator):
    """The pixels where `keep` is true are observed; others are observed as 0.

    Args:
        keep: which pixels are observed; bool, broadcasts against `(B, *dims)`.
    """

    @checked
    def __init__(self, keep: Tensor) -> None:
        super().__init__(lambda x: torch.where(keep.to(x.device), x, 0.0))
        self.keep = keep

    def solve(self, y: Tensor, like: Tensor, diagonal: Tensor, spread: Tensor) -> Tensor:
        return torch.where(self.keep.to(y.device), y / SDE.expand(diagonal + spread, y), 0.0)

    def count(self, y: Tensor) -> int:
        return int(self.keep.to(y.device).expand_as(y[:1]).sum())

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(self.keep.to(x.device), y, x)


class EachMasked(Masked):
    """The pixels where `keep` is true are observed, of each example those of its own: bool, `(B, *dims)`."""

    def rows(self, rows: Rows) -> EachMasked:
        """Return the masks of these examples."""
        return EachMasked(self.keep[rows])


def grey() -> LinearOperator:
    """Return the operator that takes the mean over channels of images `(B, C, H, W)`, `(B, 1, H, W)`."""
    return LinearOperator(lambda x: x.mean(1, keepdim=True))


@checked
def shrunk(factor: int) -> LinearOperator:
    """Return the operator that takes means of squares of `factor` by `factor` pixels of images `(B, C, H, W)`.

    Of series `(B, C, L)` it takes means of stretches, of volumes those of cubes.

    Raises:
        UserError: `factor` is not positive; when called: examples have no axes, or the squares do not fill them.
    """

    if factor < 1:
        raise UserError(f"images cannot be shrunk by {factor}: the factor must be at least 1")

    def shrink(x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        if len(sizes) not in _AVERAGES:
            raise UserError(f"examples are (C, *sizes) with one to three sizes, not {tuple(x.shape[1:])}")
        if any(size % factor for size in sizes):
            raise UserError(f"examples of {' x '.join(map(str, sizes))} cannot be shrunk by {factor}")
        return _AVERAGES[len(sizes)](x, factor)

    return LinearOperator(shrink)


@checked
def blurred(std: float) -> LinearOperator:
    """Return a Gaussian filter of this standard deviation in pixels; pixels beyond the border are those at it.

    It runs along all axes of examples `(B, C, *sizes)`, one after the other.

    Raises:
        UserError: `std` is not positive, or enormous.
    """
    if not 0 < std <= LARGEST_BLUR:
        raise UserError(f"the standard deviation of a blur must lie between 0 and {LARGEST_BLUR:g}, not {std:g}")
    reach = math.ceil(3 * std)

    def blur(x: Tensor) -> Tensor:
        if x.ndim < 3:
            raise UserError(f"examples are (C, *sizes), not {tuple(x.shape[1:])}")
        offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
        weights = torch.softmax(-0.5 * (offsets / std) ** 2, dim=0)
        for axis in range(2, x.ndim):
            size = x.shape[axis]
            places = torch.arange(size, device=x.device)
            shifted = [x.index_select(axis, (places + int(k)).clamp(0, size - 1)) for k in range(-reach, reach + 1)]
            x = sum((w * part for w, part in zip(weights, shifted, strict=True)), torch.zeros_like(x))
        return x

    return LinearOperator(blur)


def linearised(operator: Operator, x: Tensor) -> tuple[Tensor, LinearOperator]:
    """Return `A(x)`, `(B, *observed)`, and `A'`, the derivative at states `x` `(B, *dims)`: `A` itself if linear."""
    if isinstance(operator, LinearOperator):
        return operator(x), operator
    return operator(x), LinearOperator(lambda v: torch.func.jvp(operator, (x,), (v,))[1])


def check_linear(what: str, operator: Operator) -> LinearOperator:
    """Return the operator, which is linear; raise UserError if it is not said to be."""
    if not isinstance(operator, LinearOperator):
        raise UserError(
            f"{what} needs a LinearOperator, not just any function: say LinearOperator(function) if it is linear, or "
            "take DPS, MMPS or TDS"
        )
    return operator


def conjugate_gradients(apply: Callable[[Tensor], Tensor], y: Tensor, iterations: int = _MAX_ITERATIONS) -> Tensor:
    """Solve `apply(v) = y` for each example, for a positive operator; examples that are done wait.

    They are done at a small residual, or after so many iterations. Where there is no solution, since part of `y` cannot
    be observed, iterates come near and then go astray: the nearest is returned.
    """
    target = dot(y, y) * (_ROUNDINGS * torch.finfo(y.dtype).eps) ** 2
    v, residual, direction = torch.zeros_like(y), y, y
    size = dot(residual, residual)
    nearest, least = v, size
    for _ in range(iterations):
        running = size > target
        if not bool(running.any()):
            break
        image = apply(direction)
        curvature = dot(direction, image)
        # No curvature is left where y has a part that cannot be observed.
        running = running & (curvature > 0)
        length = torch.where(running, size / curvature, 0.0)
        v, residual = v + length * direction, residual - length * image
        previous, size = size, dot(residual, residual)
        nearest, least = torch.where(size < least, v, nearest), torch.minimum(size, least)
        direction = residual + torch.where(running, size / previous, 0.0) * direction
    return nearest
