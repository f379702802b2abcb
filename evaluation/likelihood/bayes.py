r"""The classifier that a class-conditional model of data makes, by Bayes' rule.

    p(y | x) = p(x | y) p(y) / sum_k p(x | k) p(k)

with the classes' shares of the training examples for `p(y)`. The same sum is a density `p(x)`, with bits/dim of its
own.

likelihood/<split>_classes.json, .csv:  accuracy and bits/dim;  log p(x | y) of all classes, one row an example, with
                                        classes by their names
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from score_sde.common.files import write_atomically
from score_sde.evaluation.likelihood.bits_per_dim import mean_and_error, unit_of
from score_sde.evaluation.provenance import replacing


class Classified(NamedTuple):
    """`N` examples were classified into `K` classes; tensors are float64.

    Attributes:
        log_prob: `log p(x | y)`, less that of dequantisation noise, `(N, K)`, in nats.
        log_prior: `log p(y)`, `(K,)`.
        classes: the true classes, `(N,)`.
        names: names of the classes, in their order.
        dimension: numbers in an example.
        levels: number of levels of the examples; None for numbers without any.
    """

    log_prob: Tensor
    log_prior: Tensor
    classes: Tensor
    names: tuple[str, ...]
    dimension: int
    levels: int | None

    @property
    def log_posterior(self) -> Tensor:
        """The posterior is `log p(y | x)`, `(N, K)`."""
        return torch.log_softmax(self.log_prob + self.log_prior, dim=1)

    @property
    def predicted(self) -> Tensor:
        """The predicted class of each example is the most probable one, `(N,)`."""
        return self.log_posterior.argmax(1)

    def summary(self) -> dict[str, Any]:
        """Return accuracy; bits/dim given the class, and of the sum over classes; a class's bits, given the example."""
        to_bits = -1 / (self.dimension * math.log(2))
        own = self.log_prob.gather(1, self.classes[:, None])[:, 0]
        surprise = -self.log_posterior.gather(1, self.classes[:, None])[:, 0] / math.log(2)
        return {
            **mean_and_error("accuracy", (self.predicted == self.classes).double()),
            "num_examples": len(self.classes),
            "given_class": mean_and_error("bits_per_dim", own * to_bits),
            "sum_over_classes": mean_and_error(
                "bits_per_dim", torch.logsumexp(self.log_prob + self.log_prior, 1) * to_bits
            ),
            "class_given_example": mean_and_error("bits", surprise),
        }

    def describe(self) -> list[str]:
        """Return the summary as lines for people."""
        found = self.summary()
        unit = unit_of(self.levels)
        given, total = (
            f"{found[name]['bits_per_dim'] * unit.per_bit:.4f}" for name in ("given_class", "sum_over_classes")
        )
        units = unit.name + " in data units" * (self.levels is None)
        return [
            f"accuracy of the classifier by Bayes' rule: {found['accuracy']:.4f} of {len(self.classes)} examples",
            f"{given} {units} given the class, {total} by the sum over classes",
        ]


def log_class_shares(numbers: Tensor, count: int) -> Tensor:
    """Return `log p(y)` `(count,)`, float64, from the class numbers `(N,)` of training examples."""
    return (torch.bincount(numbers, minlength=count).double() / len(numbers)).log()


def write_classified(classified: Classified, about: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write the summary, with what there is to say `about` it, and the table; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / f"{name}.json", folder / f"{name}.csv"]
    with replacing(paths[0], about.get("settings", {})), write_atomically(paths[0]) as temporary:
        summary = {**about, "class_names": classified.names, **classified.summary()}
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    called = ([classified.names[k] for k in numbers.tolist()] for numbers in (classified.classes, classified.predicted))
    columns = [range(len(classified.classes)), *called]
    with write_atomically(paths[1]) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["example", "class", "predicted", *(f"log_prob_{name}" for name in classified.names)])
        writer.writerows([*row, *values] for *row, values in zip(*columns, classified.log_prob.tolist(), strict=True))
    return paths
