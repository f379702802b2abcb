"""Models that ask another model: score controls, a model with its condition, one whose calls are watched."""

from __future__ import annotations

import copy
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from score_sde.common.condition import Rows
from score_sde.common.posterior import Posterior
from score_sde.common.score import no_score
from score_sde.sde import SDE

_Whole = TypeVar("_Whole")
_Wrapper = TypeVar("_Wrapper", bound="ModelWrapper")


class ModelWrapper:
    """A wrapper asks `model`, and is a model again; a subclass says what it changes.

    A condition or an observation, one row an example, is bound to all of them once; `rows_of(model, rows)` is then
    the model of a batch of them. A subclass that holds more than a model that has rows takes them in `rows`.

    Args:
        model: the model that is asked, of any kind.
    """

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    @property
    def sde(self) -> SDE:
        """The forward process is that of the model that is asked."""
        return self.model.sde

    @property
    def no_density(self) -> str:
        """The reason why there is no log-likelihood is the asked model's; it is empty if there is one."""
        return no_density(self.model)

    @property
    def no_score(self) -> str:
        """The reason why there is no score is the asked model's; it is empty if there is one."""
        return no_score(self.model)

    @property
    def modelled(self) -> Tensor | None:
        """The numbers that the density is of are those of the asked model; None for all (see `models.part`)."""
        return getattr(self.model, "modelled", None)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `∇ log p_t(x)`; shape of `x`."""
        return self.model.score(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `E[x_0 | x_t = x]`; shape of `x`."""
        return self.model.denoise(x, t)

    def rows(self: _Wrapper, rows: Rows) -> _Wrapper:
        """Return this model for some of the examples that it is bound to."""
        part = copy.copy(self)
        part.model = rows_of(self.model, rows)
        return part


class StepsAsModel(ModelWrapper):
    """A wrapper of which a reverse step is as sure as the asked model: it has the same variance of `x_0 | x_t`."""

    @property
    def steps_by_posterior(self) -> bool:
        """Whether steps have the variance of the posterior is for the model to say."""
        return getattr(self.model, "steps_by_posterior", False)

    def posterior(self, x: Tensor, t: Tensor) -> Posterior:
        """Return mean and variance of `x_0 | x_t = x`; each of the shape of `x`."""
        return self.model.posterior(x, t)


@runtime_checkable
class HasRows(Protocol):
    """Something that is bound to examples, one row each, can be had for some of them."""

    def rows(self, rows: Rows) -> Any:
        """Return what is bound to these examples alone."""


def rows_of(whole: _Whole, rows: Rows) -> _Whole:
    """Return the model of these rows of a batch: a wrapper hands it down; a plain model is the same for every row."""
    return whole.rows(rows) if isinstance(whole, HasRows) else whole


def no_density(model: object) -> str:
    """Return why a model has no log-likelihood; empty if it has one."""
    return getattr(model, "no_density", "")
