"""A few-step model is trained from a run, kept, sampled and measured as any other; what does not fit is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import Guided
from score_sde.experiment.run import Run
from score_sde.experiment.teacher import RunAsTeacher
from score_sde.models import FlowMap, Given
from tests.modes.test_main import run

SMALL = {
    "model.width": 8,
    "model.num_blocks": 1,
    "training.num_steps": 3,
    "training.batch_size": 16,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
}
FEW_STEP = {"model.flow_map": True, "training.objective": "lagrangian"}
X = np.random.default_rng(0).normal(3, 2, (60, 2))
CLASSES = ["a", "b"] * 30


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return score_sde.fit(X, condition=CLASSES, workdir=tmp_path_factory.mktemp("teacher"), settings=SMALL)


def fit(teacher: Run, settings: dict[str, Any], folder: Path | None = None) -> Run:
    settings = {**SMALL, **FEW_STEP, "training.teacher": teacher.folder, **settings}
    return score_sde.fit(X, condition=CLASSES, workdir=folder, settings=settings)


def test_it_is_trained_kept_and_used(teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fit(teacher, {}, tmp_path / "few")
    assert "training begins with the weights of" in capsys.readouterr().err
    samples = found.sample(5, condition="a", solver="consistency", num_steps=2, seed=1)
    again = score_sde.load(tmp_path / "few")
    assert isinstance(again.model, FlowMap)
    for name, weight in found.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    np.testing.assert_array_equal(again.sample(5, condition="a", solver="consistency", num_steps=2, seed=1), samples)
    # Two jumps by hand: those of the model under the class.
    sde, model = (
        again.model.sde,
        Given(again.model, Condition({"class": torch.zeros(5, dtype=torch.long)}).to(distributed.device())),
    )
    x_T = sde.prior_sample((5, 2), seeds=range(1, 6), device=distributed.device())
    x = model.jump(x_T, torch.tensor(1.0), torch.tensor(0.4))
    x = model.jump(x, torch.tensor(0.4), torch.tensor(0.0))
    listed = again.sample(5, condition="a", solver="consistency", grid="1,0.4", seed=1)
    np.testing.assert_allclose(listed, found.dataset.units.decode(x.cpu()).numpy(), rtol=1e-5)
    # It has the score of its flow, and is nearly its teacher still.
    few, many = (one.sample(5, condition="a", solver="ddim", num_steps=5, seed=1) for one in (again, teacher))
    np.testing.assert_allclose(few, many, rtol=0.05, atol=0.05)
    assert np.abs(again.log_prob(X[:3], condition="a") - teacher.log_prob(X[:3], condition="a")).max() < 0.1
    assert run("--mode", "sample", "--workdir", tmp_path / "few", "--config.sampling.solver=consistency") == 0


def test_it_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(teacher: Run, tmp_path: Path) -> None:
    constant = {"training.schedule": "constant", "training.num_steps": 4}
    whole = fit(teacher, constant, tmp_path / "whole")
    fit(teacher, {**constant, "training.num_steps": 2}, tmp_path / "parts")
    parts = fit(teacher, constant, tmp_path / "parts")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, parts.model.state_dict()[name])


def test_without_a_teacher_and_from_another_network(teacher: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert np.isfinite(fit(teacher, {"training.teacher": "none"}).sample(3, solver="consistency")).all()
    capsys.readouterr()
    fit(teacher, {"model.width": 4})
    assert "training begins anew, not with the weights of the teacher" in capsys.readouterr().err


def test_a_guided_teacher_is_led_away_from_the_hidden_class(teacher: Run) -> None:
    condition = Condition({"class": torch.tensor([0, 1, 1])}).hidden("class", torch.tensor([False, False, True]))
    condition = condition.to(distributed.device())
    x, t = torch.ones(3, 2, device=distributed.device()), torch.tensor(0.5)
    guided = RunAsTeacher(teacher.model, 3.0)(condition).denoise(x, t)
    reference = teacher.model.denoise(x, t)
    expected = reference + 3 * (teacher.model.denoise(x, t, condition) - reference)
    torch.testing.assert_close(guided, expected)
    torch.testing.assert_close(guided[2], reference[2])
    assert isinstance(RunAsTeacher(teacher.model, 3.0)(condition), Guided)
    assert fit(teacher, {"training.guidance": 3.0}).config.training.guidance == 3


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"model.flow_map": False}, "a few-step model has a network that is told two times"),
        ({"training.objective": "continuous"}, "a few-step model has a network that is told two times"),
        ({"training.teacher": "nowhere.pt"}, "training.teacher: there is no checkpoint nowhere.pt"),
        ({"training.teacher": "none", "training.guidance": 2.0}, "that of a teacher which knows classes"),
        ({"sde.beta_max": 15.0}, "was trained with another process: give the same section sde"),
        ({"model.network": "classifier"}, "a classifier has no flow"),
    ],
    ids=str,
)
def test_refused(teacher: Run, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        fit(teacher, settings)


def test_a_teacher_alone_is_refused(teacher: Run) -> None:
    settings = {**SMALL, "training.teacher": teacher.folder}
    with pytest.raises(UserError, match=r"training.teacher and training.guidance are for few-step models"):
        score_sde.fit(X, settings=settings)
