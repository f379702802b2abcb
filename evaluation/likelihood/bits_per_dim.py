r"""From log-densities to bits per dimension, with the errors that they have.

Levels have probabilities, of which the density of dequantised levels gives a bound (see
`evaluation.likelihood.dequantisation`):

    -log2 P(k) / d <= E[log q(x | k) - log p(x)] / (d log 2)

Numbers without levels have densities of their own, in the units of the data: `log q` is the logarithm of their scale,
and bits/dim may be negative. They are quoted in nats per dimension, too. Where not all were observed, `d` counts those
that were, example by example.

The standard error is that of the mean over examples. Its sources, as standard deviations of one number:

    examples   of an example's expected bits/dim, between examples
    draws      between draws of the dequantisation noise, where there is any
    probes     between probes of the divergence

The last two are means of squared differences between examples measured twice; the first is what remains. Examples
solved again, tightly, tell what error the solver makes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from score_sde.evaluation.likelihood.dequantisation import bound_of_draws
from score_sde.evaluation.likelihood.measurement import Checked


class Likelihoods(NamedTuple):
    """Likelihoods hold what was measured of `N` examples; tensors are float64.

    Attributes:
        log_prob: log-density of each draw in model units, `(N, K)`, in nats.
        log_q: log-density of each draw's noise, `(N, K)`, in nats; without levels, minus the log-scale of their units.
        bounds: three terms of each bound, by its name, `(N, 3)`, in nats.
        latents: where first draws end at `T`, `(N, *dims)`; float32.
        nfe: network calls of a solution; a mean over batches.
        seconds: time of all batches together, those of an earlier run that were found included.
        numbers: how many numbers of each example were observed, `(N,)`; None for all.
        dimension: how many numbers an example has; as many as its latents, if left out.
    """

    log_prob: Tensor
    log_q: Tensor
    bounds: dict[str, Tensor]
    latents: Tensor
    nfe: float
    seconds: float
    numbers: Tensor | None = None
    dimension: int | None = None

    @property
    def bits_per_dim(self) -> Tensor:
        """The bits/dim of each example are the mean over its draws, `(N,)`."""
        return self.to_bits((self.log_prob - self.log_q).mean(1))

    def to_bits(self, log_prob: Tensor) -> Tensor:
        """Return bits per dimension, of those that were observed, from nats of the first examples, `(n,)`."""
        whole = self.latents[0].numel() if self.dimension is None else self.dimension
        dimension = whole if self.numbers is None else self.numbers[: len(log_prob)]
        return -log_prob / (dimension * math.log(2))


class Unit(NamedTuple):
    """A unit in which likelihoods are told to people has a name, and so many of it are a bit/dim."""

    name: str
    per_bit: float


BITS, NATS = Unit("bits/dim", 1.0), Unit("nats/dim", math.log(2))


def unit_of(levels: int | None) -> Unit:
    """Return the unit for data of so many levels: bits/dim; of numbers without levels, which have densities, nats."""
    return NATS if levels is None else BITS


def summarise(likelihoods: Likelihoods, checked: Checked | None, exact: bool, noisy: bool = True) -> dict[str, Any]:
    """Return plain numbers for a report.

    Args:
        likelihoods: what was measured.
        checked: the examples measured again, if any were.
        exact: whether divergences are exact; several draws are then also averaged inside the logarithm.
        noisy: whether examples are levels, to which noise was added.
    """
    bits = likelihoods.bits_per_dim
    summary: dict[str, Any] = {
        **mean_and_error("bits_per_dim", bits),
        "nats_per_dim": bits.mean().item() * math.log(2),
        "log_prob": (likelihoods.log_prob - likelihoods.log_q).mean().item(),
        "num_examples": len(bits),
        "nfe": likelihoods.nfe,
        "seconds": likelihoods.seconds,
    }
    log_weights = likelihoods.log_prob - likelihoods.log_q
    if exact and log_weights.shape[1] > 1:
        weighted = likelihoods.to_bits(bound_of_draws(log_weights))
        summary["importance_weighted"] = mean_and_error("bits_per_dim", weighted)
    summary["bounds"] = {
        name: mean_and_error("bits_per_dim", likelihoods.to_bits(-terms.sum(1)))
        | {
            what: likelihoods.to_bits(-terms[:, term]).mean().item()
            for term, what in enumerate(("prior", "diffusion", "reconstruction"))
        }
        for name, terms in likelihoods.bounds.items()
    }
    if checked is not None and len(bits) > 1:
        summary |= _sources(likelihoods, Checked(*(likelihoods.to_bits(value) for value in checked)), noisy)
    return summary


def mean_and_error(name: str, values: Tensor) -> dict[str, float | None]:
    """Return the mean of `values` `(N,)`, called `name`, and its standard error."""
    error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return {name: values.mean().item(), "standard_error": error}


def _sources(likelihoods: Likelihoods, checked: Checked, noisy: bool) -> dict[str, Any]:
    """Return deviations by their source, and the solver's error, from examples measured again, in bits/dim."""
    of_probes = (checked.first - checked.other_probes).square().mean().item() / 2
    of_draws = 0.0
    if noisy:
        of_draws = max(0.0, (checked.other_probes - checked.other_draw).square().mean().item() / 2 - of_probes)
    num_draws = likelihoods.log_prob.shape[1]
    of_examples = max(0.0, likelihoods.bits_per_dim.var().item() - (of_draws + of_probes) / num_draws)
    error = checked.first - checked.tight
    return {
        "standard_deviations": {
            "examples": math.sqrt(of_examples),
            **({"draws": math.sqrt(of_draws)} if noisy else {}),
            "probes": math.sqrt(of_probes),
        },
        "solver_error": {
            **mean_and_error("mean", error),
            "mean_absolute": error.abs().mean().item(),
            "num_examples": len(error),
        },
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """Return a summary as lines for people: of levels in bits/dim, of other numbers in nats/dim."""
    what = f"{summary['num_examples']} {summary['split']} examples"
    how = f"{summary['nfe']:.0f} network calls, {summary['seconds']:.1f} s"
    lines = [f"{value_in_words(summary)} of {what}; {how}"]
    unit = unit_of(summary["levels"])
    if "kind" in summary:
        lines.append(f"this is a {summary['kind']}; latents have log-density {summary['log_prob_of_latents']:.2f} nats")
    if "importance_weighted" in summary:
        lines.append(f"{number(summary['importance_weighted'])} with {summary['num_draws']} draws importance-weighted")
    bounds = [f"{name} {number(bound, unit)}" for name, bound in summary["bounds"].items()]
    if bounds:
        lines.append(f"bounds for the reverse SDE: {', '.join(bounds)}")
    if "held_out_error" in summary:
        held_out, scale = summary["held_out_error"], unit.per_bit / math.log(2)
        lines.append(
            f"tuned steps: an example is off by {held_out['mean_absolute'] * scale:.4f}, at most "
            f"{held_out['largest'] * scale:.4f}, and the mean by {held_out['bias'] * scale:+.4f} ± "
            f"{held_out['bias_error'] * scale:.4f} {unit.name} "
            f"(of {held_out['num_examples']} training examples held out)"
        )
    if "solver_error" in summary:
        deviations = [
            f"{source} {value * unit.per_bit:.3f}" for source, value in summary["standard_deviations"].items()
        ]
        error, count = summary["solver_error"], summary["solver_error"]["num_examples"]
        lines.append(
            f"deviations by source: {', '.join(deviations)}; the solver's own error is "
            f"{error['mean'] * unit.per_bit:+.4f}{_plus_minus(error, unit)} (of {count} example{'s' * (count > 1)})"
        )
    return lines


def value_in_words(summary: dict[str, Any]) -> str:
    """Return a summary's likelihood with its error and its units."""
    value, unit = f"{number(summary)} bits/dim", unit_of(summary["levels"])
    return value if summary["levels"] is not None else f"{number(summary, unit)} {unit.name} in data units ({value})"


def number(value: dict[str, Any], unit: Unit = BITS) -> str:
    """Return the entry `bits_per_dim` with its standard error, in a unit."""
    return f"{value['bits_per_dim'] * unit.per_bit:.4f}{_plus_minus(value, unit)}"


def _plus_minus(value: dict[str, Any], unit: Unit) -> str:
    """Return the standard error in words; one example has none."""
    error = value["standard_error"]
    return "" if error is None else f" ± {error * unit.per_bit:.4f}"
