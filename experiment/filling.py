"""Examples with what is hidden of them drawn given the rest, from Python: `run.fill`.

A model that is told of parts draws it itself, and a mixture exactly; another one by ΠGDM, with the solver of edits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition, joined
from score_sde.common.errors import UserError
from score_sde.common.part import Part
from score_sde.control import EachMasked, Observation, PiGDM
from score_sde.data import Dataset
from score_sde.data.latent_units import Latents
from score_sde.experiment import conditions, sampling
from score_sde.experiment.arrays import as_array, as_examples
from score_sde.experiment.asked import asked_of, beside_given
from score_sde.experiment.condition_values import check_heard
from score_sde.experiment.controls import controls_of
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.inpainting import model_of_part
from score_sde.experiment.low_resolution import with_noise_of_samples, without_the_rest
from score_sde.experiment.parts import is_told_of_parts
from score_sde.experiment.prompts import led_away_from
from score_sde.models import GaussianMixture
from score_sde.solvers import Model


def read_known(dataset: Dataset, x: Any, given: Any) -> tuple[Tensor, Tensor, bool]:
    """Return examples `(N, *shape)`, which of their numbers are known, bool, and whether `x` was one example by itself.

    Args:
        dataset: what examples are like.
        x: examples; what is not known of them may be NaN.
        given: which numbers are known, truths of the shape of `x`, or of one example; what is not NaN, if None.

    Raises:
        UserError: they are not of the shape of the data, nothing is hidden of an example, or what is known is NaN.
    """
    if isinstance(dataset.units, Latents):
        raise UserError("what is known is numbers of examples, and this model is of latents: take a model of pixels")
    array = as_array(x)
    gone = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
    if dataset.levels is not None:
        array = np.where(gone, 0, array)
    examples, alone = as_examples(dataset, array, gaps=True)
    observed = ~as_examples(dataset, gone.astype(np.uint8))[0].bool()
    known = observed
    if given is not None:
        truths = as_array(given)
        if truths.dtype != bool:
            raise UserError(f"given says which numbers are known: truths, not {truths.dtype}")
        known = as_examples(dataset, truths.astype(np.uint8))[0].bool()
        if len(known) not in (1, len(examples)):
            raise UserError(f"given has {len(known)} rows for {len(examples)} examples: one for each, or one for all")
        known = known.expand_as(examples)
    for wrong, complaint in (
        (known & ~observed, "example {} lacks a number that is to be given"),
        (known.flatten(1).all(1, keepdim=True), "nothing is missing of example {}: say what is known by given=…"),
    ):
        if bool(wrong.any()):
            raise UserError(complaint.format(int(wrong.flatten(1).any(1).nonzero()[0])))
    return examples, known, alone


def fill(experiment: Experiment, examples: Tensor, known: Tensor, condition: Condition | None) -> Tensor:
    """Return examples with what is not known of them drawn, `(K, N, *shape)`; what is known is as it was.

    Args:
        experiment: the model, and how samples are drawn, `K N` of them.
        examples: the examples `(N, *shape)`, in data units.
        known: which of their numbers are known, bool, `(N, *shape)`.
        condition: what each is asked to be; as the section `sampling` has it, if None.

    Raises:
        UserError: the model knows no such condition, or guidance leads nowhere.
    """
    config, dataset = experiment.config, experiment.dataset
    count = config.sampling.num_samples
    rows = torch.arange(count) % len(examples)
    many, keep = examples[rows], known[rows]
    given = None if condition is None else condition.to("cpu")[rows]
    asked = asked_of(config, dataset, count) if given is None else beside_given(config, dataset, given)
    asked = with_noise_of_samples(config, dataset, asked, sampling.seeds_of(config))
    check_heard(config, dataset, asked, controls_of(experiment.model))
    part = Part(torch.where(keep, dataset.units.encode(many), 0), keep, ~keep)
    drawn = sampling.sample_of(experiment, _model_of(experiment, part, asked)).samples.x
    filled = torch.where(keep, many, dataset.units.decode(drawn))
    return filled.unflatten(0, (count // len(examples), len(examples)))


def draws_itself(experiment: Experiment) -> bool:
    """Return whether the model draws what is hidden itself."""
    return is_told_of_parts(experiment.config) or isinstance(experiment.model, GaussianMixture)


def _model_of(experiment: Experiment, part: Part, asked: Condition | None) -> Model:
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    guides = conditions.find_guides(config, dataset, model.sde)
    away = joined(led_away_from(config, dataset, len(part)), without_the_rest(config, asked))
    if draws_itself(experiment):
        return model_of_part(config, model, part, asked, guides, away)
    guided, part = conditions.make_guidance(config, model, asked, guides, away), part.to(distributed.device())
    data_std = config.sampling.data_std or config.model.data_std
    return PiGDM(guided, Observation(EachMasked(part.given), part.values), data_std=data_std)
