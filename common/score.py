r"""Models that are a flow and have no score.

A network that is trained on pairs of data and noise learns `D = E[x_0 | x_t]` and `eps_hat = E[eps | x_t]`, and with
them the flow of the process. Where the noise of a pair is independent of its data, `-eps_hat / sigma` is the score `∇
log p_t` (Tweedie's formula). Where the two were coupled (`training.couplings`), it is not: for one-dimensional data
`N(0, s^2)` that optimal transport couples, `eps = x_0 / s`,

    x_t = (alpha s + sigma) eps,     -eps_hat / sigma = -x / (sigma (alpha s + sigma)),
                                            ∇ log p_t = -x / (alpha s + sigma)^2

The flow, and the density that it carries, are those of the coupled marginals `p_t` all the same; what needs a score
refuses such a model, which says so by its attribute `no_score`, the reason.
"""

from __future__ import annotations

from score_sde.common.errors import UserError


class NoScoreError(UserError):
    """A model is a flow and has no score, which was needed."""


def no_score(model: object) -> str:
    """Return why a model is a flow and has no score; empty if it has one."""
    return getattr(model, "no_score", "")


def check_score(model: object, what: str) -> None:
    """Raise `NoScoreError` if a model has no score, which `what` needs."""
    reason = no_score(model)
    if reason:
        raise NoScoreError(
            f"{what} needs a score, and this model is a flow that has none: {reason}; deterministic solvers, such as "
            "default, heun or ode, and the likelihood serve it"
        )
