"""Operators against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.control import LinearOperator, Masked, blurred, grey, shrunk
from score_sde.control.inverse_problems import box_mask, random_mask

FLOAT = torch.float64
SHAPE = (3, 4, 6)
KEEP = torch.rand(1, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.4
MIXING = torch.randn(7, 72, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
OPERATORS: dict[str, LinearOperator] = {
    "masked": Masked(KEEP),
    "grey": grey(),
    "shrunk": shrunk(2),
    "blurred": blurred(0.6),
    "any": LinearOperator(lambda x: x.flatten(1) @ MIXING.T),
}


def matrix(operator: LinearOperator) -> Tensor:
    """The operator's own matrix, a column for each pixel."""
    return operator(torch.eye(72, dtype=FLOAT).reshape(72, *SHAPE)).flatten(1).T


def states(count: int, seed: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def test_operators_are_what_they_say():
    x = states(2)
    assert torch.equal(OPERATORS["masked"](x), x * KEEP)
    torch.testing.assert_close(OPERATORS["grey"](x), x.sum(1, keepdim=True) / 3)
    squares = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(OPERATORS["shrunk"](x), squares)
    # A constant stays, and the filter's weights, over an inner pixel, are those of a Gaussian.
    torch.testing.assert_close(OPERATORS["blurred"](torch.ones_like(x)), torch.ones_like(x))
    point = torch.zeros(1, 1, 9, 9, dtype=FLOAT)
    point[..., 4, 4] = 1
    row = blurred(0.6)(point)[0, 0, 4]
    torch.testing.assert_close(row[5] / row[4], torch.exp(torch.tensor(-0.5 / 0.36, dtype=FLOAT)))
    torch.testing.assert_close(row[6] / row[4], torch.exp(torch.tensor(-2 / 0.36, dtype=FLOAT)))


def test_operators_along_one_and_three_axes():
    """Of one place along an axis they are those of pictures; means are of stretches and cubes."""
    generator = torch.Generator().manual_seed(4)
    series, volumes = (torch.randn(size, generator=generator, dtype=FLOAT) for size in ((2, 3, 6), (2, 1, 4, 2, 6)))
    torch.testing.assert_close(shrunk(3)(series), series.unflatten(2, (2, 3)).mean(3))
    cubes = volumes.unflatten(4, (3, 2)).unflatten(3, (1, 2)).unflatten(2, (2, 2)).mean((3, 5, 7))
    torch.testing.assert_close(shrunk(2)(volumes), cubes)
    blur = OPERATORS["blurred"]
    torch.testing.assert_close(blur(series), blur(series[:, :, None])[:, :, 0])
    # Along depth and height, and then along the width.
    slices = torch.stack([blur(volumes[..., k]) for k in range(6)], -1)
    torch.testing.assert_close(blur(volumes), blur(slices.flatten(1, 3)).reshape(volumes.shape))


def test_masks_along_one_to_three_axes():
    for sizes in ((8,), (8, 6), (4, 8, 6)):
        starts, lengths = (0.5, 0.0, 0.25)[: len(sizes)], (0.25, 0.5, 0.5)[: len(sizes)]
        keep = box_mask(sizes, starts + lengths)
        places = torch.nonzero(~keep[0, 0])
        ends = [(round(a * n), round((a + b) * n) - 1) for a, b, n in zip(starts, lengths, sizes, strict=True)]
        assert list(zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True)) == ends
        assert len(places) == math.prod(last - first + 1 for first, last in ends)
        axes = len(sizes)
        assert torch.equal(box_mask(sizes, (0.25, 0.5)), box_mask(sizes, (0.25,) * axes + (0.5,) * axes))
        assert int((~random_mask(sizes, 0.25, 3)).sum()) == math.prod(sizes) // 4
        assert random_mask(sizes, 0.25, 3).shape == (1, 1, *sizes)
    with pytest.raises(UserError, match=r"a box is \(start, length\) in parts of the example, such as 0.25,0.5, not"):
        box_mask((8,), (0.25, 0.25, 0.5, 0.5))
    with pytest.raises(UserError, match=r"a box is \(front, top, left, depth, height, width\)"):
        box_mask((8, 8, 8), (0.6, 0.5))
    with pytest.raises(UserError, match="one to three axes, not 4"):
        box_mask((8, 8, 8, 8), (0.25, 0.5))


@pytest.mark.parametrize("name", OPERATORS)
def test_transposes_and_inverses(name):
    operator = OPERATORS[name]
    A = matrix(operator)
    x = states(2)
    y = operator(states(2, seed=3))
    torch.testing.assert_close(operator(x).flatten(1), x.flatten(1) @ A.T)
    torch.testing.assert_close(operator.transpose(y, x).flatten(1), y.flatten(1) @ A)
    diagonal, spread = torch.tensor([0.3, 0.0], dtype=FLOAT), torch.tensor([0.7, 1.5], dtype=FLOAT)
    solved = operator.solve(y, x, diagonal, spread)
    for i in range(2):
        expected = torch.linalg.pinv(diagonal[i] * torch.eye(len(A)) + spread[i] * A @ A.T) @ y[i].flatten()
        # The blur's A A^T has a condition of 1e5.
        torch.testing.assert_close(solved[i].flatten(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(operator(operator.pseudo_inverse(y, x)), y, rtol=0, atol=1e-8)
    projected = operator.project(x, y)
    torch.testing.assert_close(operator(projected), y, rtol=0, atol=1e-8)
    # The nearest such state: what was changed lies in the range of the transpose.
    change = (projected - x).flatten(1)
    torch.testing.assert_close(change @ torch.linalg.pinv(A) @ A, change, rtol=0, atol=1e-8)


def test_solving_does_not_depend_on_batch_mates():
    operator, x = OPERATORS["blurred"], states(3)
    y = operator(states(3, seed=4))
    ones = torch.ones(3, dtype=FLOAT)
    together = operator.solve(y, x, 0.01 * ones, ones)
    alone = operator.solve(y[1:2], x[1:2], 0.01 * ones[1:2], ones[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-13)


def test_masked_pixels_are_kept_to_the_last_bit():
    x, y = states(2).float(), states(2, seed=5).float()
    projected = Masked(KEEP).project(x, Masked(KEEP)(y))
    keep = KEEP.expand(2, *SHAPE)
    assert torch.equal(projected[keep], y[keep])
    assert torch.equal(projected[~keep], x[~keep])


@pytest.mark.parametrize("name", ["masked", "any"])
def test_what_cannot_be_observed_does_no_harm(name):
    """Without noise; of a masked picture, hidden pixels are no observation; nor is what no picture gives."""
    singular = LinearOperator(lambda x: x.flatten(1) @ MIXING.T @ MIXING)
    operator = OPERATORS["masked"] if name == "masked" else singular
    x, zero, one = states(2), torch.zeros(2, dtype=FLOAT), torch.ones(2, dtype=FLOAT)
    y = states(2, seed=6) if name == "masked" else states(2, seed=6).flatten(1)
    solved = operator.solve(y, x, zero, one)
    assert bool(solved.isfinite().all())
    if name == "masked":
        torch.testing.assert_close(solved, torch.where(KEEP, y, 0.0))
    # Hardly anything that no picture gives: the pseudo-inverse of the rest.
    seen = operator(states(2, seed=7))
    back = operator.pseudo_inverse(seen + 1e-12 * y, x).flatten(1)
    expected = seen.flatten(1) @ torch.linalg.pinv(matrix(operator), rtol=1e-9).T
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-7)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="4 x 6 cannot be shrunk by 3"):
        shrunk(3)(states(1))
    with pytest.raises(UserError, match="blur must lie between 0 and 100, not 0"):
        blurred(0.0)
    for operator in (shrunk(2), blurred(0.6)):
        with pytest.raises(UserError, match=r"\(C, \*sizes\)"):
            operator(states(1).flatten(1))
