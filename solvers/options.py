"""Checks on options, so that each mistake gives one clear line before anything is done."""

from __future__ import annotations

from score_sde.common.errors import UserError

# More steps, corrections or probes than anyone waits for.
MOST_STEPS = 1_000_000
# Higher ones amplify errors, and the more so the more steps there are: with 50 steps of order 10, samples of a mixture
# of Gaussians are off by 1000.
MAX_ORDER = 6


def check_at_least(what: str, value: float, least: float) -> None:
    """Raise `UserError` unless `value >= least`."""
    if not value >= least:
        raise UserError(f"{what} must be at least {least:g}, not {_shown(value)}")


def check_positive(what: str, value: float) -> None:
    """Raise `UserError` unless `value > 0`."""
    if not value > 0:
        raise UserError(f"{what} must be positive, not {_shown(value)}")


def check_tolerance(what: str, value: float) -> None:
    """Raise `UserError` unless `0 < value <= 1`: states of size 1 have no larger errors."""
    check_positive(what, value)
    check_between(what, value, 0, 1)


def check_between(what: str, value: float, least: float, most: float) -> None:
    """Raise `UserError` unless `least <= value <= most`."""
    check_at_least(what, value, least)
    if not value <= most:
        raise UserError(f"{what} must be at most {most:g}, not {_shown(value)}")


def _shown(value: float) -> str:
    # A whole number may be too large for float64.
    return f"{value:g}" if abs(value) < 1e300 else "one beyond all bounds"
