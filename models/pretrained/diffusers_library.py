"""The library diffusers itself, kept quiet, and what every reader of its files needs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from score_sde.common.errors import UserError


def library() -> ModuleType:
    """Import the library, without its progress bars and its notices of retried downloads, and return it.

    Raises:
        UserError: the library is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers
    except ImportError as error:
        raise UserError(
            f"reading and writing pipelines needs the package diffusers ({error}): pip install 'diffusers>=0.30'"
        ) from error
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return diffusers


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the libraries print about themselves off stderr."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in ("diffusers", "huggingface_hub", "transformers")]
    levels, bars = [logger.level for logger in loggers], not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        disable_progress_bars()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                enable_progress_bars()


def public(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that the library keeps for itself, by which it may leave others out."""
    return {key: value for key, value in settings.items() if not key.startswith("_")}
