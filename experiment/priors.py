r"""A prior draws the embeddings that a decoder is told: unCLIP (Ramesh et al. 2022, arXiv:2204.06125).

    p(picture | caption) = ∫ p(picture | z) p(z | caption) dz

`z` is the embedding of the picture (`experiment.embeddings`). What a prior draws lies near the sphere of embeddings,
and is brought to it.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.data.dataset import described
from score_sde.data.embeddings import EMBEDDING
from score_sde.experiment import configuration, load, other_run, runs
from score_sde.experiment.experiment import Experiment

# Embedding `i` is drawn with a seed so much further on, beyond all others: its noise is not to be the picture's.
_FURTHER = 2**32


def prior_of(experiment: Experiment) -> Experiment | None:
    """Return the experiment by which the embeddings that samples are told are drawn; None if no prior is named.

    It is asked for as many samples, with the prompt of the section `sampling`; else it is as it was trained, and
    without guidance where there is nothing to guide to.

    Raises:
        UserError: there is no such run, or it is no prior, or one of other embeddings, or a model is told none.
    """
    config, dataset, place = experiment.config, experiment.dataset, experiment.config.sampling.prior
    if place is None:
        return None
    with naming("sampling.prior"):
        if EMBEDDING not in dataset.condition_units:
            raise UserError("this model is told no embeddings: take one of configs/unclip/decoder.py")
        if config.sampling.condition is not None:
            raise UserError("embeddings are drawn, and what is conditioned on given: leave out sampling.condition")
        path = other_run.newest(place)
        chosen, found = runs.configuration_to_use(None, at_home(place), path, [])
        if found is None or found.data is None or dataset.embedded_by != found.data.get("embedded_by"):
            raise UserError(
                f"{path} is not of the embeddings that this model was trained with: train both with one run"
            )
        if found.data["shape"] != list(dataset.condition_units[EMBEDDING].shape):
            raise UserError(f"{path} is no prior: train one, with --config configs/unclip/prior.py")
        asked = {"num_samples": config.sampling.num_samples, "prompt": config.sampling.prompt}
        if config.sampling.prompt is None and chosen.sampling.labels is None:
            asked |= {"guidance": 1.0, "negative_prompt": None}
        chosen = copy.deepcopy(chosen)
        configuration.from_dict({f"sampling.{key}": value for key, value in asked.items()}, str(path), chosen)
        chosen.seed = config.seed + _FURTHER
        data = described(found.data, chosen.data.low, chosen.data.high, chosen.data.uniform_dequantisation)
        return load.ready(chosen, found, data, at_home(place))


def drawn_by_prior(experiment: Experiment, x: Tensor, prior: Experiment) -> Condition:
    """Return the condition of samples whose embeddings a prior drew, `(N, d)` in its model units."""
    embeddings = F.normalize(prior.dataset.units.decode(x), dim=1)
    return Condition(experiment.dataset.told({EMBEDDING: embeddings}))
