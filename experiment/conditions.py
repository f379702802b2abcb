"""What samples are asked to be, and guidance to it, as the section `sampling` has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from ml_collections import ConfigDict
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, choose, naming
from score_sde.control import ClassifierGuidance, Guided
from score_sde.data import Dataset
from score_sde.experiment import build, checkpoints, configuration, networks, other_run
from score_sde.models import GaussianMixture, Given, NoisyClassifier
from score_sde.models.noisy_classifier import ClassProbability
from score_sde.sde import SDE
from score_sde.solvers import Model


def sample_labels(config: ConfigDict, dataset: Dataset, count: int) -> Tensor | None:
    """Return the classes that the section `sampling` asks samples to have, `(count,)`, int64; None if any will do.

    Where fewer than `count` are named, they are taken in turn.

    Raises:
        UserError: there are no classes, or none of this name or number, or `count` is no multiple of theirs.
    """
    text = config.sampling.labels
    if text is None:
        return None
    with naming("sampling.labels"):
        chosen = class_numbers(dataset, [item.strip(" '\"") for item in text.strip("()[] ").split(",")])
    if count % len(chosen):
        raise UserError(f"sampling.labels has {len(chosen)} classes, which cannot be shared evenly by {count} samples")
    return chosen.repeat(count // len(chosen))


def class_numbers(dataset: Dataset, names: Iterable[object]) -> Tensor:
    """Return the numbers of classes, `(N,)`, int64, by their names, or, where no name is a number, their places.

    Raises:
        UserError: there are no classes, or none of this name or number.
    """
    if not dataset.num_classes:
        raise UserError(f"{dataset.name} has no classes: ask for none")
    numbers = {name: k for k, name in enumerate(dataset.class_names)}
    if not any(name.isdecimal() for name in numbers):
        # No class is called by a number, so that a number can only mean a place in their order.
        numbers |= {str(k): k for k in range(dataset.num_classes)}
    return torch.tensor([choose(f"class of {dataset.name}", str(name), numbers) for name in names])


class Guides(NamedTuple):
    """What the section `sampling` names to guide a model with, beside itself.

    Attributes:
        classifier: a classifier that guides towards the condition.
        reference: what the model is led away from, given the condition if it knows it.
    """

    classifier: NoisyClassifier | None = None
    reference: Callable[[Condition | None], Model] | None = None


def find_guides(config: ConfigDict, dataset: Dataset, sde: SDE) -> Guides:
    """Load what the section `sampling` names to guide a model of these data and this process with.

    Raises:
        UserError: there is no such model, or it is for other data or another process, or there are two.
    """
    guides = Guides(find_classifier(config, dataset), find_reference(config, dataset, sde))
    if guides.classifier is not None and guides.reference is not None:
        raise UserError("guidance is by sampling.classifier or by sampling.reference: leave out one")
    return guides


def make_guidance(
    config: ConfigDict,
    model: build.AnyModel,
    condition: Condition | None,
    guides: Guides,
    away: Condition | None = None,
    of_steps: Callable[[Any], Any] = lambda model: model,
) -> Model:
    """Make the model of all samples, guided as the section `sampling` has it; `models.rows_of` gives that of a batch.

    Args:
        config: the configuration.
        model: the score model.
        condition: what samples are asked to be; None if they may be anything.
        guides: what guides; without them the model itself does, by what it is without the condition …
        away: … or with another one, of as many samples, which samples are led away from.
        of_steps: gives the steps of a model a variance, which guidance leaves as it is.

    Raises:
        UserError: there is nothing to guide to, or nothing to guide with.
    """
    sampling, (classifier, reference) = config.sampling, guides
    remedies = {
        "guidance_interval": sampling.guidance_interval,
        "guidance_rescale": sampling.guidance_rescale,
        "guidance_parallel": 1 - sampling.guidance_parallel,
        "guidance_largest": sampling.guidance_largest,
    }
    if away is not None and (classifier is not None or reference is not None):
        raise UserError(
            "samples are led by one of sampling.negative_prompt, sampling.reference and sampling.classifier: leave out "
            "the others"
        )
    if condition is None and reference is None:
        if classifier is not None:
            raise UserError("sampling.classifier guides to a class: --config.sampling.labels=…")
        if sampling.guidance != 1:
            raise UserError(
                "guidance needs something to guide to: --config.sampling.labels, sampling.prompt or sampling.condition"
                "; for samples of anything give --config.sampling.guidance=1"
            )
        return of_steps(model)
    condition = None if condition is None else condition.to(distributed.device())
    if classifier is not None:
        if condition is None or "class" not in condition.values:
            raise UserError("sampling.classifier guides to a class: --config.sampling.labels=…")
        for name, value in remedies.items():
            if value:
                raise UserError(f"sampling.{name} is for guidance without a classifier")
        # A model that knows no p(x) is led to the class that it is told already (Dhariwal & Nichol 2021, table 4).
        knows_all = config.training.label_dropout > 0 or not is_class_conditional(config)
        rest = condition.hidden("class") if len(condition.values) > 1 else None
        led: Model = Given(model, rest if knows_all else condition)
        return ClassifierGuidance(
            of_steps(led), ClassProbability(classifier, condition.values["class"]), sampling.guidance
        )
    interval = sampling.guidance_interval or (0.0, math.inf)
    if len(interval) != 2:
        raise UserError(f"sampling.guidance_interval takes two noise levels, not {len(interval)}")
    given: Model = model
    if condition is not None:
        if isinstance(model, GaussianMixture) or ("class" in condition.values and not is_class_conditional(config)):
            raise UserError(
                "this model knows no classes: train one with --config.model.class_conditional=True, or give "
                "--config.sampling.classifier"
            )
        given = Given(model, condition)
    away_from: Model = model if away is None else Given(model, away.to(distributed.device()))
    if reference is not None:
        away_from = reference(condition)
    largest = math.inf if sampling.guidance_largest is None else sampling.guidance_largest
    remedy = {"rescale": sampling.guidance_rescale, "parallel": sampling.guidance_parallel, "largest": largest}
    return Guided(of_steps(given), away_from, sampling.guidance, interval, **remedy)


def is_class_conditional(config: ConfigDict) -> bool:
    """Return whether the model knows `p(x | y)`."""
    return config.model.class_conditional and config.model.network != "mixture"


def find_classifier(config: ConfigDict, dataset: Dataset) -> NoisyClassifier | None:
    """Load the classifier that the section `sampling` names, for this dataset; None if none is named.

    Raises:
        UserError: there is no classifier there, or it is for other data or another process.
    """
    if config.sampling.classifier is None:
        return None
    with naming("sampling.classifier"):
        found = checkpoints.find(other_run.newest(config.sampling.classifier))
    classifier = found.make_model(_configuration_of_classifier(found, config), dataset)
    if not isinstance(classifier, NoisyClassifier):
        raise _no_classifier(found)
    if found.data is not None:
        dataset.check_units(found.data, str(found.path))
    return classifier.to(distributed.device()).eval().requires_grad_(False)


def _configuration_of_classifier(found: checkpoints.Found, config: ConfigDict) -> ConfigDict:
    """Return the configuration that a classifier was trained with; of a published one, that of the model it guides.

    Raises:
        UserError: it is for other data or another process, or is no classifier.
    """
    if found.config is None:
        return config
    trained_with = configuration.from_dict(found.config, str(found.path))
    if trained_with.model.network not in networks.CLASSIFIERS:
        raise _no_classifier(found)
    decisive = ("data.dataset", "data.path", "data.low", "data.high", "data.image_size", "data.image_width")
    for key in configuration.differences(config, trained_with, ("data", "sde")):
        if key in decisive or key.startswith("sde."):
            raise UserError(f"the classifier {found.path} is for another {key}: train one for this model")
    return trained_with


def _no_classifier(found: checkpoints.Found) -> UserError:
    return UserError(f"{found.path} is no classifier; train one as with configs/vp/digits_classifier.py")


def find_reference(config: ConfigDict, dataset: Dataset, sde: SDE) -> Callable[[Condition | None], Model] | None:
    """Load the model that samples are led away from, as the section `sampling` names it; None if none is named.

    Raises:
        UserError: there is no such run, or it is of other data or another process.
    """
    if config.sampling.reference is None:
        return None
    with naming("sampling.reference"):
        model, trained_with = other_run.load(config.sampling.reference, "a reference", config, dataset, sde)
    if is_class_conditional(trained_with):
        return partial(Given, model)
    return lambda condition: model
