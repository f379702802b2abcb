"""From the keys for variances to models, and what does not go together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.data import Dataset
from score_sde.data.units import Bins
from score_sde.experiment import build, checks, configuration
from score_sde.experiment.objectives import make_objective
from score_sde.experiment.variances import VARIANCES, bound_with, variance_of
from score_sde.models import GaussianMixture, ModelWrapper
from score_sde.models.analytic_variance import FixedVariance, JacobianVariance, measure_variance
from score_sde.models.learned_variance import LearnedVariance
from score_sde.sde import VPSDE
from score_sde.training.hybrid import HybridObjective, LossAwareRung


def experiment(validation: int = 20) -> Any:
    """Pictures of 2 x 2 pixels, and a mixture that has nothing to do with them."""
    pictures = torch.randint(8, (60, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    dataset = Dataset("pictures", pictures[20:], pictures[:0], Bins(8), validation=pictures[:validation])
    model = GaussianMixture(VPSDE(), torch.ones(2), torch.tensor([[0.3] * 4, [-0.3] * 4]), torch.eye(4).expand(2, 4, 4))
    training = SimpleNamespace(label_dropout=0.1)
    return SimpleNamespace(config=SimpleNamespace(seed=3, training=training), dataset=dataset, model=model)


@pytest.mark.usefixtures("on_cpu")
def test_each_name_is_the_variance_it_says() -> None:
    made, x, t = experiment(), torch.rand(3, 1, 2, 2, dtype=torch.float64), torch.tensor(0.3)
    model = made.model
    x_0 = made.dataset.encode(made.dataset.validation, 3)
    expected = {
        "fixed": FixedVariance(model, 0.0),
        "fixed_large": FixedVariance(model, 1.0),
        "errors": measure_variance(model, x_0, seed=3),
        "errors_each": measure_variance(model, x_0, each=True, seed=3),
        "jacobian": JacobianVariance(model, seed=3),
        "jacobian_each": JacobianVariance(model, each=True, seed=3),
    }
    assert set(expected) == set(VARIANCES) - {"model"}
    for name, other in expected.items():
        found = variance_of(made, name)(model)
        torch.testing.assert_close(found.posterior(x, t), other.posterior(x, t), rtol=0, atol=0)
    assert variance_of(made, "model")(model) is model
    # Measured on the experiment's own model, and had by one that is made of it.
    led = ModelWrapper(model)
    assert variance_of(made, "errors")(led).model is led
    # Without held-out examples, on those of training.
    trained_on = made.dataset.encode(made.dataset.train, 3)
    found = variance_of(experiment(validation=0), "errors")(model).posterior(x, t).both[1]
    torch.testing.assert_close(found, measure_variance(model, trained_on, seed=3).posterior(x, t).both[1])
    bound: Any = lambda model, *rest: (model, rest)  # noqa: E731
    given, rest = bound_with(variance_of(made, "fixed"), bound)(model, 1, 2, [3])  # type: ignore[arg-type, misc]
    assert isinstance(given, FixedVariance)
    assert rest == (1, 2, [3])


def test_without_examples_there_is_nothing_to_measure_on() -> None:
    made = experiment(validation=0)
    made.dataset = Dataset("pictures", made.dataset.train[:0], made.dataset.test, Bins(8))
    with pytest.raises(UserError, match="measured on whole examples, which are not at hand"):
        variance_of(made, "errors")


def test_the_configuration_for_digits_learns_a_variance() -> None:
    config = configuration.load_file("configs/vp/digits_iddpm.py")
    config.model.update(channels=4, num_blocks=1)
    checks.check(config, "train")
    pictures = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    model = build.make_model(config, Dataset("pictures", pictures, pictures, Bins(17)))
    assert isinstance(model, LearnedVariance)
    assert model.network(torch.zeros(1, 1, 8, 8), torch.zeros(1)).shape == (1, 2, 8, 8)
    objective = make_objective(config, model.sde)
    assert isinstance(objective, HybridObjective)
    assert objective.vlb_weight == 0.001
    config.training.update(times="loss_aware", vlb_weight=0.5)
    objective = make_objective(config, model.sde)
    assert isinstance(objective, HybridObjective)
    assert isinstance(objective.times, LossAwareRung)
    assert objective.vlb_weight == 0.5


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"variance": "fixed"}, "--config.model.variance=learned and --config.training.objective=hybrid"),
        ("training", {"objective": "discrete"}, "--config.model.variance=learned and"),
        ("training", {"times": "edm"}, "has training.times=uniform or loss_aware"),
        ("training", {"reduce_mean": False}, "--config.training.reduce_mean=True"),
        ("sde", {"name": "vp"}, "is for ladders: --config.sde.name=cosine"),
    ],
)
def test_what_does_not_go_together_is_said(section: str, values: dict[str, object], message: str) -> None:
    config = configuration.load_file("configs/vp/digits_iddpm.py")
    config[section].update(values)
    with pytest.raises(UserError, match=message):
        checks.check(config, "train")


@pytest.mark.parametrize(
    ("values", "message"),
    [({"prediction": "levels"}, "predictions of noise and the like"), ({"flow_map": True}, "no flow map")],
)
def test_models_of_which_no_variance_is_learned_are_refused(values: dict[str, object], message: str) -> None:
    config = configuration.load_file("configs/vp/digits_iddpm.py")
    config.model.update(values)
    pictures = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=message):
        build.make_model(config, Dataset("pictures", pictures, pictures, Bins(17)))


@pytest.mark.parametrize(("mode", "solver"), [("sample", "default"), ("compare", "pc"), ("tune", "pc")])
def test_a_variance_of_steps_is_refused_where_there_are_none(mode: str, solver: str) -> None:
    config = configuration.load_file("configs/vp/digits.py")
    config.sampling.update(variance="fixed_large", solver=solver)
    with pytest.raises(UserError, match=r"sampling.variance=fixed_large is for --mode sample by steps with noise"):
        checks.check(config, mode)
    config.sampling.update(solver="pc", num_steps=3)
    checks.check(config, "sample")
