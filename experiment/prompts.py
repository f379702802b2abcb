"""Prompts: what samples are asked to be in words, of models that are told captions."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.data import Dataset
from score_sde.data.captions import CAPTION
from score_sde.data.prompts import Prompts
from score_sde.experiment.condition_values import condition_of

_OF_A_FILE = ".txt"


def prompted(config: ConfigDict, dataset: Dataset, count: int) -> Condition | None:
    """Return the condition of `count` samples that the section `sampling` asks for in words; None if it does not.

    Prompts of a file, a line each, are taken in turn.

    Raises:
        UserError: the model is told no captions, the file cannot be read, or prompts do not divide `count`.
    """
    prompt = config.sampling.prompt
    if prompt is None:
        return None
    with naming("sampling.prompt"):
        prompts = _lines(prompt) if prompt.endswith(_OF_A_FILE) else [prompt]
        if count % len(prompts):
            raise UserError(f"{len(prompts)} prompts cannot be shared evenly by {count} samples")
        return _told(config, dataset, prompts * (count // len(prompts)))


def number_of_prompts(config: ConfigDict) -> int:
    """Return how many prompts the section `sampling` has; 0 if it asks for nothing in words.

    Raises:
        UserError: their file cannot be read.
    """
    prompt = config.sampling.prompt
    if prompt is None:
        return 0
    with naming("sampling.prompt"):
        return len(_lines(prompt)) if prompt.endswith(_OF_A_FILE) else 1


def led_away_from(config: ConfigDict, dataset: Dataset, count: int) -> Condition | None:
    """Return the condition, in words, that `count` samples are led away from; None for nothing.

    Raises:
        UserError: the model is told no captions.
    """
    negative = config.sampling.negative_prompt
    if negative is None:
        return None
    with naming("sampling.negative_prompt"):
        if config.sampling.guidance == 1:
            raise UserError("guidance leads away from it, and sampling.guidance=1 is none: take more, such as 2")
        return _told(config, dataset, [negative] * count)


def _told(config: ConfigDict, dataset: Dataset, prompts: list[str]) -> Condition:
    if CAPTION not in dataset.condition_units:
        raise UserError(f"this model is told no captions, as one of configs/vp/glyphs.py is; {dataset.name} has none")
    if isinstance(dataset.condition_units[CAPTION], Prompts):
        return heard(dataset, prompts)
    return condition_of(config, dataset, {CAPTION: prompts}, len(prompts))[0]


def heard(dataset: Dataset, prompts: Sequence[str]) -> Condition:
    """Return what a pipeline hears of prompts, one row each, and say what it does not hear.

    Raises:
        UserError: it hears no words, or these are none.
    """
    units = dataset.condition_units.get(CAPTION)
    if not isinstance(units, Prompts):
        raise UserError("this pipeline hears no prompts: leave them out")
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError("a prompt is a text, or one for each sample")
    for prompt in dict.fromkeys(prompts):
        for line in units.complaints(prompt):
            distributed.say(f"{prompt!r}: {line}")
    return Condition(units.read(prompts))


def _lines(path: str) -> list[str]:
    try:
        text = at_home(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: prompts are a text, or a file of them, a line each ({error})") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} has no prompts: write a line for each")
    return lines
