r"""Numbers without levels: what a density needs of them, found in one pass over however many there are.

Numbers `x[n, c, …]` are kept as they are, in their own precision: column `c` of vectors, or channel `c` of series,
fields and volumes, is later standardised by mean and standard deviation of the training part (see `data.units`), in
float64. So any scale will do, but a column must have finite numbers and a spread, and the step of its dtype, at the
size of its numbers, must lie well below its standard deviation.

Mean `m` and sum `q` of squared deviations of two chunks of `a` and `b` numbers are put together as (Chan, Golub &
LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115)

    m = m_a + (m_b - m_a) b / (a + b),     q = q_a + q_b + (m_b - m_a)^2 a b / (a + b)

A number that is NaN was not observed, where that is allowed; all else is then said of the numbers that were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.words import listed

# The least number of a dtype's steps in a standard deviation.
_LEAST_STEPS = 100
# Numbers of a larger step may be the same by rounding alone.
_COARSE = 0.01
# The least share of a standard deviation in which half of the numbers may lie: models see float32, of 1.2e-7 beside 1.
_LEAST_MIDDLE = 1e-6
# The farthest that a number may lie from the mean, in standard deviations, so that float32 holds its square.
_FARTHEST = 1e15
# The most numbers of which quartiles are taken.
_NUM_SORTED = 2**18
# Pictures of 256 levels become such floats: a scale and a shift that turn them into whole numbers again.
_OF_LEVELS = {"1/255": (255.0, 0.0), "2/255": (127.5, 127.5)}


def held(dtype: np.dtype) -> np.dtype:
    """Return the dtype that numbers are kept in: uint8 levels and float32 as they are, others without loss."""
    if dtype == np.uint8:
        return np.dtype(np.uint8)
    single = np.issubdtype(dtype, np.floating) and dtype.itemsize <= 4
    return np.dtype(np.float32 if single or (dtype.kind in "iu" and dtype.itemsize <= 2) else np.float64)


class Spread:
    """A spread is what is known of each column or channel of some examples, once all chunks were added.

    Args:
        where: where the examples are, for complaints.
        dtype: the dtype that they were stored in.
        shape: the shape of an example.
        columns: what columns are called; none, if they have numbers only.
        missing: whether numbers may be missing.
    """

    def __init__(
        self,
        where: str,
        dtype: np.dtype,
        shape: tuple[int, ...],
        columns: Sequence[str] = (),
        missing: bool = False,
    ) -> None:
        self.where = where
        self.dtype = dtype
        self.what = "column" if len(shape) == 1 else "channel"
        self.named = bool(columns)
        self.names = list(columns) or [str(number) for number in range(shape[0])]
        count = shape[0]
        self.missing, self.num_missing, self.total = missing, 0, 0
        self.count = np.zeros(count, dtype=np.int64)
        self.mean, self.deviations = np.zeros(count), np.zeros(count)
        self.low, self.high = np.full(count, np.inf), np.full(count, -np.inf)
        self.whole = np.ones(count, dtype=bool)
        self.middle = np.full(count, np.nan)
        self.of_levels = set(_OF_LEVELS)

    def add(self, chunk: np.ndarray, rows: Sequence[int]) -> None:
        """Add examples `(n, C, …)`, the `rows` of which are for complaints.

        Raises:
            UserError: a number is infinite, or missing where none may be; the line names row and column.
        """
        if np.issubdtype(self.dtype, np.floating) and not (finite := np.isfinite(chunk)).all():
            self._check_missing(chunk, finite, rows)
        exact = chunk.astype(np.float64)
        known = ~np.isnan(exact)
        if not self.total:
            self.middle = _interquartile_range(exact)
        over = (0, *range(2, exact.ndim))
        many = known.sum(over)
        self.num_missing += int(exact.size - many.sum())
        self.total += exact.size
        seen = np.maximum(many, 1)
        # Numbers too large for float64's squares have an infinite deviation.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(known, exact, 0).sum(over) / seen
            centred = np.where(known, exact - mean.reshape(-1, *[1] * (exact.ndim - 2)), 0)
            further, total = mean - self.mean, np.maximum(self.count + many, 1)
            self.deviations += (centred**2).sum(over) + further**2 * (self.count * many / total)
            self.mean += further * (many / total)
        self.count = self.count + many
        self.low = np.minimum(self.low, np.where(known, exact, np.inf).min(over))
        self.high = np.maximum(self.high, np.where(known, exact, -np.inf).max(over))
        if self.whole.any():
            self.whole &= ((exact == np.floor(exact)) | ~known).all(over)
        exact = exact[known]
        for name in list(self.of_levels):
            scale, shift = _OF_LEVELS[name]
            numbers = scale * exact + shift
            if numbers.size and (
                numbers.min() < -0.5 or numbers.max() > 255.5 or (abs(numbers - np.rint(numbers)) > 1e-3).any()
            ):
                self.of_levels.remove(name)

    def _check_missing(self, chunk: np.ndarray, finite: np.ndarray, rows: Sequence[int]) -> None:
        """See that numbers are missing, and not infinite, where that is allowed, and that no example lacks all.

        Raises:
            UserError: that is not so; the line names row and column.
        """
        unknown = np.isnan(chunk)
        wrong = ~finite & ~unknown if self.missing else ~finite
        if wrong.any():
            row, column = np.argwhere(wrong)[0][:2]
            if self.named and unknown[row, column].any():
                raise UserError(
                    f"{self.where}: {self.what} {self.names[column]} has no value in row {rows[row]}: leave out the "
                    "row, or allow it, missing=True"
                )
            raise UserError(
                f"{self.where} has numbers that are not finite, first in row {rows[row]}, {self.what} "
                f"{self.names[column]}: leave it out{', or allow it, missing=True' * bool(unknown.any())}"
            )
        nothing = unknown.reshape(len(chunk), -1).all(1)
        if nothing.any():
            raise UserError(f"{self.where} has no value at all in row {rows[int(nothing.argmax())]}: leave it out")

    def check(self) -> None:
        """See that each column has a spread that its dtype resolves.

        Raises:
            UserError: a column is constant, or its numbers are too close together; the line names it.
        """
        kind = self.dtype if np.issubdtype(self.dtype, np.floating) else held(self.dtype)
        unseen = [self.names[c] for c in np.flatnonzero(self.count == 0)]
        if unseen:
            raise UserError(f"{self.where}: {self.what} {unseen[0]} has no value in any training example: leave it out")
        constant = np.flatnonzero(self.low == self.high)
        if len(constant):
            names = [self.names[c] for c in constant]
            which = f"{self.what} {names[0]} is {self.low[constant[0]]:.5g} in every training example, so it has"
            if len(constant) > 1:
                which = f"{self.what}s {listed(names)} are each the same in every training example, so they have"
            steps = np.spacing(abs(self.low[constant]).astype(kind))
            them = "it" if len(constant) == 1 else "them"
            lost = f", or save {them} in float64, as {kind.name} may not tell such numbers apart"
            raise UserError(f"{self.where}: {which} no density: leave {them} out{lost * bool(max(steps) > _COARSE)}")
        with np.errstate(over="ignore", invalid="ignore"):
            std = np.sqrt(self.deviations / self.count)
            step = np.spacing((abs(self.mean) + std).astype(kind)).astype(np.float64)
        for c, name in enumerate(self.names):
            complaint = (
                f"{self.where}: {self.what} {name} has mean {self.mean[c]:.5g} and standard deviation {std[c]:.4g}"
            )
            if not np.isfinite(std[c]):
                raise UserError(f"{complaint}, as float64 cannot hold the squares of its numbers: scale them down")
            if std[c] < _LEAST_STEPS * step[c]:
                raise UserError(
                    f"{complaint}, which {kind.name} cannot tell apart: save it in float64, or with its mean taken off"
                )
            if 0 < self.middle[c] < _LEAST_MIDDLE * std[c]:
                raise UserError(
                    f"{complaint}, but half of its numbers lie within {self.middle[c]:.4g}, which cannot be told apart "
                    "beside the others: leave these out, or take logarithms"
                )

    def check_beside(self, trained: Spread) -> None:
        """See that these numbers can be held in the units that the training part decides.

        Raises:
            UserError: a column has numbers too far from the training part's; the line names it.
        """
        if not self.total:
            return
        farthest = np.maximum(abs(self.low - trained.mean), abs(self.high - trained.mean))
        farthest = np.where(self.count > 0, farthest, 0)
        beyond = np.flatnonzero(farthest > _FARTHEST * np.sqrt(trained.deviations / trained.count))
        if len(beyond):
            c = beyond[0]
            raise UserError(
                f"{self.where}: {self.what} {self.names[c]} has numbers from {self.low[c]:.4g} to {self.high[c]:.4g} "
                f"that are not trained on, too far from the mean of those that are ({trained.mean[c]:.4g}): omit them"
            )

    def notes(self) -> list[str]:
        """Return what the user should know: what is missing, and which numbers are discrete: these have no density."""
        return [*self._missing(), *self._discrete()]

    def _missing(self) -> list[str]:
        if not self.num_missing:
            return []
        return [
            f"{self.where}: {self.num_missing / self.total:.1%} of the numbers of training examples are missing (NaN): "
            "they are not observed, and left out of the loss"
        ]

    def _discrete(self) -> list[str]:
        if self.of_levels and not self.whole.all():
            return [
                f"{self.where} has multiples of {min(self.of_levels)} only, as pictures of 256 levels have: discrete "
                "numbers have no density; save the levels as uint8"
            ]
        whole = [self.names[c] for c in np.flatnonzero(self.whole)]
        if not whole:
            return []
        return [
            f"{self.where} has whole numbers only in {self.what} {listed(whole)}: discrete numbers have no density; "
            "add uniform noise in [0, 1), or leave them out"
        ]


def _interquartile_range(exact: np.ndarray) -> np.ndarray:
    """Return the distance of the quartiles of each column or channel of examples `(n, C, …)`, or of some of them."""
    some = exact[:: max(1, exact.size // _NUM_SORTED)]
    if np.isnan(some).any():
        columns = (column[~np.isnan(column)] for column in np.moveaxis(some, 1, 0))
        return np.array([np.subtract(*np.percentile(c, [75, 25])) if len(c) else np.nan for c in columns])
    low, high = np.percentile(np.moveaxis(some, 1, 0).reshape(some.shape[1], -1), [25, 75], axis=1)
    return high - low
