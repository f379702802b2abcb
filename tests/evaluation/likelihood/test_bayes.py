"""The classifier by Bayes' rule, on two Gaussians; and densities given the class, on a model that knows them."""

from __future__ import annotations

import csv
import json
import math

import torch
from torch import Tensor
from torch.distributions import Normal

from score_sde.common.condition import Condition
from score_sde.data import Standardised
from score_sde.evaluation.likelihood.bayes import Classified, log_class_shares, write_classified
from score_sde.evaluation.likelihood.dequantisation import WithoutLevels
from score_sde.evaluation.likelihood.measurement import Measurement
from score_sde.models import GaussianMixture, Given, rows_of
from score_sde.sde import VPSDE

FLOAT = torch.float64
MEANS, STD, PRIOR = torch.tensor([-1.0, 1.0], dtype=FLOAT), 0.8, torch.tensor([0.75, 0.25], dtype=FLOAT)


def test_bayes_rule(tmp_path):
    x = torch.linspace(-2, 2, 41, dtype=FLOAT)
    log_prob = Normal(MEANS, STD).log_prob(x[:, None])
    classes = (x > 0).long()
    classified = Classified(log_prob, PRIOR.log(), classes, ("low", "high"), dimension=1, levels=None)
    # The posterior is a logistic function, which is one half where the log-ratio of the priors is made up for.
    logistic = torch.sigmoid(2 * x / STD**2 + math.log(1 / 3))
    torch.testing.assert_close(classified.log_posterior[:, 1].exp(), logistic)
    border = STD**2 * math.log(3) / 2
    assert torch.equal(classified.predicted, (x > border).long())
    summary = classified.summary()
    assert summary["accuracy"] == float(((x > border) == (x > 0)).double().mean())
    density = (PRIOR * log_prob.exp()).sum(1)
    assert math.isclose(summary["sum_over_classes"]["bits_per_dim"], -float(density.log2().mean()))
    own = log_prob[torch.arange(41), classes]
    assert math.isclose(summary["given_class"]["bits_per_dim"], -float(own.mean()) / math.log(2))

    paths = write_classified(classified, {"split": "test"}, tmp_path, "test_classes")
    assert json.loads(paths[0].read_text())["accuracy"] == summary["accuracy"]
    with open(paths[1]) as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [("low", "high")[k] for k in classified.predicted.tolist()]
    assert [row["class"] for row in rows] == ["low"] * 21 + ["high"] * 20
    assert float(rows[3]["log_prob_high"]) == float(log_prob[3, 1])


def test_shares_of_classes():
    shares = log_class_shares(torch.tensor([0, 0, 2]), 4).exp()
    torch.testing.assert_close(shares, torch.tensor([2, 0, 1, 0], dtype=FLOAT) / 3)


class Components:
    """Two Gaussians in the plane as a model of two classes."""

    def __init__(self) -> None:
        self.sde = VPSDE()
        corners = torch.tensor([[[-0.5, 0.0]], [[0.5, 0.3]]], dtype=FLOAT)
        covariance = 0.2 * torch.eye(2, dtype=FLOAT)[None]
        self.parts = [GaussianMixture(self.sde, torch.ones(1), mean, covariance) for mean in corners]

    def score(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return torch.stack([part.score(x, t) for part in self.parts])[condition.values["class"], torch.arange(len(x))]

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return torch.stack([part.denoise(x, t) for part in self.parts])[condition.values["class"], torch.arange(len(x))]


def test_densities_given_the_class():
    model = Components()
    x, classes = torch.tensor([[0.1, 0.2], [0.4, -0.3], [-0.6, 0.1]], dtype=FLOAT), torch.tensor([1, 0, 0])
    measurement = Measurement(
        Given(model, Condition({"class": classes})), WithoutLevels(Standardised()), {"divergence": "exact"}
    )
    measured = measurement(x, [0, 1, 2])
    t = torch.tensor(model.sde.t_min, dtype=FLOAT)
    expected = torch.stack([model.parts[k].log_prob(row[None], t)[0] for k, row in zip(classes, x, strict=True)])
    # The prior is not quite that of the classes.
    torch.testing.assert_close(measured.log_prob[:, 0], expected, rtol=0, atol=0.02)
    alone = rows_of(measurement, slice(1, 2))(x[1:2], [1])
    torch.testing.assert_close(alone.log_prob, measured.log_prob[1:2], rtol=0, atol=1e-4)
    again = measurement.check(x, [0, 1, 2], measured.log_prob[:, 0])
    torch.testing.assert_close(again.tight, measured.log_prob[:, 0], rtol=0, atol=1e-3)
