"""What samples and answers are asked to be, whichever way the section `sampling` says it."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.common.condition import Condition, joined
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.data import Dataset
from score_sde.data.conditions import of_classes
from score_sde.experiment.condition_values import condition_of_file
from score_sde.experiment.conditions import sample_labels
from score_sde.experiment.prompts import prompted


def asked_of(config: ConfigDict, dataset: Dataset, count: int) -> Condition | None:
    """Return what `count` samples are asked to be, by `labels`, `condition` and `prompt`; None if they may be anything.

    Raises:
        UserError: the model knows no such condition, or what is asked for cannot be shared evenly by so many.
    """
    if config.sampling.prior is not None:
        raise UserError(
            "sampling.prior draws embeddings for --mode sample alone: elsewhere give some, sampling.condition"
        )
    asked = joined(of_classes(sample_labels(config, dataset, count)), prompted(config, dataset, count))
    if config.sampling.condition is None:
        return asked
    with naming("sampling.condition"):
        path = at_home(config.sampling.condition)
        return joined(condition_of_file(config, dataset, path, count), asked)


def beside_given(config: ConfigDict, dataset: Dataset, given: Condition) -> Condition:
    """Return a condition that was given, with what the section `sampling` asks for besides, on the CPU.

    Raises:
        UserError: something is asked for twice, or the model knows no such condition.
    """
    if config.sampling.prior is not None:
        raise UserError("sampling.prior draws what samples are asked to be: leave out it, or the condition")
    given, more = given.to("cpu"), asked_of(config, dataset, len(given))
    twice = [] if more is None else sorted(set(more.values) & set(given.values))
    if twice:
        raise UserError(f"{', '.join(twice)} is asked for twice: by the condition, and by labels, condition or prompt")
    together = joined(given, more)
    assert together is not None
    return together
