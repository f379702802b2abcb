"""Conditions that are arrays, from every door: exact densities, units, rows, what lies beside, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.experiment.training import _preview
from score_sde.models import Given, ScoreModel
from score_sde.sde import VPSDE
from score_sde.training.objectives import get_objective
from tests.modes.test_main import run as run_main

# x | c ~ N(c A + b, diag(DEVIATION^2)), with c far from mean 0 and deviation 1.
A = np.array([[2.0, 1.0], [0.0, 30.0]])
B = np.array([7.0, -3.0])
DEVIATION = np.array([0.5, 2.0])
T_MIN = 1e-5
KEPT = {"training.sample_every": 0, "training.evaluate_every": 0, "data.test_share": 0.0}
EXACT = {
    **KEPT,
    "training.num_steps": 1,
    "training.batch_size": 8,
    "model.prediction": "noise",
    "model.noise_label": "rho",
    "model.scale_input": False,
}
NARROW = {**KEPT, "model.width": 8, "model.num_blocks": 1, "training.num_steps": 2, "training.batch_size": 16}
SMALL = {
    **NARROW,
    "model.channels": 4,
    "model.channel_multipliers": (1, 1),
    "model.num_blocks": 1,
    "sampling.num_steps": 3,
}


def pairs(count: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    c = generator.normal(size=(count, 2)) * [3.0, 0.1] + [5.0, -2.0]
    return c @ A + B + DEVIATION * generator.normal(size=(count, 2)), c


def log_density(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    residual = (x - c @ A - B) / DEVIATION
    return (-(residual**2) / 2 - np.log(DEVIATION) - math.log(2 * math.pi) / 2).sum(1)


class Exact(nn.Module):
    """A network of one's own that is the exact noise of `x | c`, from standardised `c`; what is hidden counts as 0."""

    mean: Tensor
    slope: Tensor
    variance: Tensor

    def __init__(self, x: np.ndarray, c: np.ndarray) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        scale = x.std(0)
        mean = (c.mean(0) @ A + B - x.mean(0)) / scale
        for name, value in {
            "mean": mean,
            "slope": np.diag(c.std(0)) @ A / scale,
            "variance": (DEVIATION / scale) ** 2,
        }.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: Tensor, rho: Tensor, condition: Condition | None = None) -> Tensor:
        c = torch.zeros_like(x)
        if condition is not None:
            [(name, c)] = condition.values.items()
            if name in condition.hidden_rows:
                c = torch.where(condition.hidden_rows[name][:, None], 0, c)
        alpha = (1 + rho.double() ** 2).rsqrt()[:, None]
        sigma = alpha * rho.double()[:, None]
        mean = self.mean + c.double() @ self.slope
        noise = sigma * (x.double() - alpha * mean) / (alpha**2 * self.variance + sigma**2)
        return (noise + 0 * self.unused).to(x)


@pytest.fixture(scope="module")
def exact() -> Any:
    x, c = pairs()
    return score_sde.fit(x, condition=c, network=Exact(x, c), settings=EXACT)


def flow_density(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the density of the flow that ends in the standard normal prior, which is not quite `x | c` at T."""
    known, _ = pairs()
    sde, scale = VPSDE(), known.std(0)
    mean, variance = (c @ A + B - known.mean(0)) / scale, (DEVIATION / scale) ** 2
    first, last = (sde.at(torch.tensor(t, dtype=torch.float64)) for t in (T_MIN, sde.T))
    before, after = ((at.alpha**2).item() * variance + (at.sigma**2).item() for at in (first, last))
    stretched = np.sqrt(after / before)
    x_T = last.alpha.item() * mean + stretched * ((x - known.mean(0)) / scale - first.alpha.item() * mean)
    return (-(x_T**2) / 2 - math.log(2 * math.pi) / 2 + np.log(stretched) - np.log(scale)).sum(1)


def test_density_given_numbers_is_the_closed_form_in_data_units(exact) -> None:
    x, c = pairs(20, seed=1)
    options = {"divergence": "exact", "rtol": 1e-6, "atol": 1e-6, "t_min": T_MIN}
    given = exact.log_prob(x, condition=c, **options)
    np.testing.assert_allclose(given, flow_density(x, c), atol=5e-4)
    np.testing.assert_allclose(given, log_density(x, c), atol=0.03)
    # One row for all is that row for each.
    one = exact.log_prob(x[:3], condition=c[3], **options)
    np.testing.assert_allclose(one, flow_density(x[:3], c[[3, 3, 3]]), rtol=1e-4, atol=5e-4)
    by_name = exact.log_prob(x, condition={"condition": torch.tensor(c)}, **options)
    np.testing.assert_array_equal(by_name, given)


def test_previews_are_drawn_given_the_conditions_of_held_out_examples() -> None:
    """Of the exact network what is left, once the mean given each condition is taken away, is the noise around it."""
    x, c = pairs()
    run = score_sde.fit(x, condition=c, network=Exact(x, c), settings={**EXACT, "data.test_share": 0.1})
    preview = _preview(run.config, run.dataset)
    assert preview is not None
    drawn = preview(run.model).samples
    known = run.dataset.conditions["test"]["condition"].numpy()[np.arange(len(drawn)) % len(run.dataset.test)]
    residual = (drawn - known @ A - B) / DEVIATION
    np.testing.assert_allclose(residual.mean(0), 0, atol=4 / math.sqrt(len(drawn)))
    np.testing.assert_allclose(residual.std(0), 1, rtol=0.15)


def test_samples_given_numbers_have_their_mean_and_deviation(exact) -> None:
    _, c = pairs(3, seed=2)
    many = exact.sample(2000, condition=c[0], num_steps=40, solver="heun")
    np.testing.assert_allclose(many.mean(0), c[0] @ A + B, atol=4 * DEVIATION.max() / math.sqrt(2000))
    np.testing.assert_allclose(many.std(0), DEVIATION, rtol=0.06)
    # Rows are those of the samples, whatever the batch.
    three = exact.sample(condition=c, seed=5)
    alone = np.concatenate([exact.sample(1, condition=c[k], seed=5 + k) for k in range(3)])
    np.testing.assert_allclose(three, alone, rtol=1e-4)
    # Guidance leads from p(x | c hidden), here that of c = 0 in its units, away: noise is linear in the mean.
    led = exact.sample(2000, condition=c[0], guidance=2.0, num_steps=40, solver="heun")
    middle = pairs()[1].mean(0) @ A + B
    np.testing.assert_allclose(led.mean(0), 2 * (c[0] @ A + B) - middle, rtol=0.02, atol=0.2)


def test_minimum_of_the_objective_is_the_closed_form() -> None:
    """With the exact noise the loss at t is `alpha^2 v / (alpha^2 v + sigma^2)`, for `v` the variance of `x | c`."""
    x, c = pairs(8000)
    model = ScoreModel(Exact(x, c), VPSDE(), "noise", "rho", scale_input=False)
    dataset = score_sde.fit(x, condition=c, network=Exact(x, c), settings=EXACT).dataset
    told = dataset.condition_of("train")
    assert told is not None
    objective = get_objective(model.sde, weighting="sigma2", times="uniform", t_min=1e-3)
    batch = Batch(dataset.encode(dataset.train, 0), told)
    loss = objective(model, batch, BatchNoise(len(x), torch.Generator().manual_seed(0))).values.mean()
    here = model.sde.at(torch.linspace(1e-3, 1, 4001, dtype=torch.float64)[:, None])
    variance = torch.tensor((DEVIATION / x.std(0)) ** 2)
    errors = here.alpha**2 * variance / (here.alpha**2 * variance + here.sigma**2)
    assert loss.item() == pytest.approx(errors.mean().item(), rel=0.03)
    # What is hidden is not heard.
    hidden = told.hidden("condition", torch.arange(len(x)) % 2 == 0)
    t = torch.tensor(0.5)
    scores = [Given(model, each).score(batch.x_0, t) for each in (told, hidden, None)]
    assert torch.equal(scores[1][1::2], scores[0][1::2])
    assert torch.equal(scores[1][::2], scores[2][::2])


def test_an_mlp_learns_a_density_given_numbers() -> None:
    x, c = pairs()
    settings = {**KEPT, "model.width": 64, "model.num_blocks": 2, "training.learning_rate": 4e-3}
    run = score_sde.fit(x, condition=c, num_steps=300, settings=settings)
    x, c = pairs(100, seed=1)
    error = log_density(x, c) - run.log_prob(x, condition=c, divergence="exact", rtol=1e-3, atol=1e-3)
    assert abs(error.mean()) < 0.15  # nats; without the condition 2.3 are lost
    assert log_density(x, c).mean() - run.log_prob(x).mean() > 1.0


def test_what_lies_beside_is_brought_to_the_size_and_told_as_before(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    low = generator.normal(3.0, 2.0, (40, 1, 4, 4))
    x = low.repeat(2, 2).repeat(2, 3) + generator.normal(size=(40, 1, 8, 8))
    theta, labels = generator.normal(size=(40, 3)), np.arange(40) % 2
    condition = {"low": low, "theta": theta, "class": labels}
    run = score_sde.fit(x, condition=condition, workdir=tmp_path / "run", settings=SMALL)
    assert run.config.model.network == "unet"
    assert run.config.model.class_conditional
    again = score_sde.load(tmp_path / "run")
    given = {"low": low[:2], "theta": theta[0], "class": [1, 0]}
    samples = again.sample(condition=given)
    np.testing.assert_array_equal(samples, run.sample(2, condition=given))
    # By hand: standardised by mean and deviation of all low fields, then interpolated.
    standard = torch.tensor((low[:2] - low.mean()) / low.std())
    beside = torch.nn.functional.interpolate(standard, (8, 8), mode="bilinear").float()
    vector = torch.tensor((theta[:1] - theta.mean(0)) / theta.std(0)).float().expand(2, 3)
    told = Condition({"low": beside, "theta": vector, "class": torch.tensor([1, 0])})
    units, t = again._experiment.dataset.units, torch.tensor(0.3)
    states = units.encode(torch.tensor(x[:2])).to(distributed.device())
    asked, _ = again._asked(given, 2)
    assert asked is not None
    found, expected = (Given(again.model, c.to(distributed.device())).score(states, t) for c in (asked, told))
    torch.testing.assert_close(found, expected)
    # The command line, with a file.
    np.savez(tmp_path / "asked.npz", condition_low=low[:2], theta=theta[0], labels=np.array([1, 0]))
    flags = ["--config.sampling.num_samples=4", f"--config.sampling.condition={tmp_path / 'asked.npz'}"]
    assert run_main("--mode=sample", "--workdir", tmp_path / "run", *flags) == 0
    written = np.load(tmp_path / "run" / "samples" / "default.npz")
    twice = {"low": low[[0, 1, 0, 1]], "theta": theta[0], "class": [1, 0, 1, 0]}
    np.testing.assert_array_equal(written["samples"], again.sample(condition=twice, batch_size=64))
    np.testing.assert_array_equal(written["labels"], [1, 0, 1, 0])


def test_arrays_of_a_file_and_columns_of_a_table_are_conditions(tmp_path: Path) -> None:
    x, c = pairs(60)
    np.savez(
        tmp_path / "data.npz",
        x=x,
        condition=c,
        x_test=x[:7] + 1,
        condition_test=c[:7] + 1,
        theta=c[:, 0],
        theta_test=c[:7, 1],
    )
    path = str(tmp_path / "data.npz")
    plain = score_sde.load_dataset(path=path)
    assert list(plain.condition_units) == ["condition"]
    np.testing.assert_array_equal(plain.conditions["test"]["condition"].numpy(), c[:7] + 1)
    asked = score_sde.load_dataset(path=path, condition="theta")
    assert set(asked.condition_units) == {"condition", "theta"}
    np.testing.assert_array_equal(asked.conditions["test"]["theta"][:, 0].numpy(), c[:7, 1])
    names = ["a", "b", "c", "d"]
    lines = [",".join(names), *(",".join(map(repr, row)) for row in np.hstack([x, c]).tolist())]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    pytest.importorskip("pandas")
    table = score_sde.load_dataset(path=str(tmp_path / "data.csv"), condition="d,b", test_share=0)
    np.testing.assert_array_equal(table.train.numpy(), np.stack([x[:, 0], c[:, 0]], 1))
    np.testing.assert_array_equal(table.conditions["train"]["condition"].numpy(), np.stack([c[:, 1], x[:, 1]], 1))
    with pytest.raises(UserError, match=r"no condition called 'thita' \(did you mean 'theta'\?\)"):
        score_sde.load_dataset(path=path, condition="thita")


def test_likelihood_of_own_conditions_is_that_of_python(tmp_path: Path) -> None:
    x, c = pairs(60)
    np.savez(tmp_path / "data.npz", x=x, condition=c)
    folder = tmp_path / "run"
    run = score_sde.fit(tmp_path / "data.npz", workdir=folder, settings={**NARROW, "data.test_share": 0.2})
    flags = ["--config.likelihood.given=own", "--config.likelihood.num_checks=1"]
    assert run_main("--mode=likelihood", "--workdir", folder, *flags) == 0
    summary = json.loads((folder / "likelihood" / "test_given_class.json").read_text())
    test, told = run.dataset.test.numpy(), run.dataset.conditions["test"]["condition"].numpy()
    assert summary["bits_per_dim"] == pytest.approx(run.bits_per_dim(test, condition=told).mean(), rel=1e-6)


def test_what_cannot_be_is_refused_in_one_line(exact, tmp_path: Path) -> None:
    x, c = pairs(30)
    broken = c.copy()
    broken[4, 1] = np.nan
    low = np.zeros((30, 1, 4))
    two = score_sde.fit(
        x, condition={"first": c, "low": low + x[:, :1, None]}, settings={**NARROW, "training.label_dropout": 0.0}
    )
    cases = [
        (lambda: exact.sample(2, condition=c[:3]), "3 rows of 'condition' for 2 examples: give one for all"),
        (
            lambda: exact.sample(2, condition=c[:2, :1]),
            r"'condition' has shape \(2,\), or \(N, …\) for several, not \(2, 1\)",
        ),
        (lambda: exact.sample(2, condition=broken[4]), "'condition' has numbers that are not finite, first in row 0"),
        (
            lambda: exact.sample(2, condition={"condition ": c[0]}),
            r"this model has no condition called 'condition ' \(did you mean",
        ),
        (lambda: exact.sample(2, condition={"class": 1}), "this model has no condition called 'class'"),
        (lambda: two.sample(2, condition=c[0]), "knows several conditions, first, low: say which"),
        (lambda: two.sample(2, condition={"first": c[0]}), "never hidden .*: tell it of low, too"),
        (lambda: two.log_prob(x[:2]), "never hidden .*: tell it of first, low, too"),
        (lambda: score_sde.fit(x, condition=broken), "numbers that are not finite, first in row 4"),
        (lambda: score_sde.fit(x, condition=c[:7]), "has 7 rows for 30 examples"),
        (lambda: score_sde.fit(x, condition={"a.b": c}), "called by letters, digits and _, unlike 'a.b'"),
        (lambda: score_sde.fit(x, condition={"note": ["a"] * 30}), "<U1 values: a condition is made of real numbers"),
        (
            lambda: score_sde.fit(low + x[:, :1, None], condition={"f": np.zeros((30, 1, 4, 4))}),
            "cannot lie beside examples of 1 x 4",
        ),
        (lambda: exact.sample(4, condition=c[:4], solver="tuned"), "tuned is learned for classes"),
    ]
    for ask, message in cases:
        with pytest.raises(UserError, match=message):
            ask()


def test_pictures_of_the_same_names_in_another_folder_are_a_condition(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for folder, size, suffix in (("photos", 8, ".png"), ("sketches", 4, ".bmp")):
        (tmp_path / folder).mkdir()
        for number in range(12):
            levels = generator.integers(0, 200, (size, size), dtype=np.uint8)
            levels[0, 0] = number
            Image.fromarray(levels).save(tmp_path / folder / f"{number}{suffix}")
    options: dict[str, Any] = {"path": str(tmp_path / "photos"), "num_channels": 1, "folder": str(tmp_path / "kept")}
    dataset = score_sde.load_dataset(**options, condition=str(tmp_path / "sketches"), test_share=0.3)
    for part in ("train", "test"):
        told = dataset.conditions[part]["condition"]
        assert told.shape[1:] == (1, 4, 4)
        assert torch.equal(told[:, 0, 0, 0], getattr(dataset, part)[:, 0, 0, 0])
    (tmp_path / "sketches" / "7.bmp").unlink()
    with pytest.raises(UserError, match="sketches has no picture called 7"):
        score_sde.load_dataset(**options, condition=str(tmp_path / "sketches"))


def test_a_run_does_not_go_on_with_other_conditions(tmp_path: Path) -> None:
    x, c = pairs(20)
    longer = {**NARROW, "training.num_steps": 9}
    score_sde.fit(x, condition=c, workdir=tmp_path, settings=NARROW)
    newest = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    moved = c.copy()
    moved[:, 0] += 1
    with pytest.raises(UserError, match="training examples have another condition than the run was begun with"):
        score_sde.fit(x, condition=moved, workdir=tmp_path, settings=longer)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == newest
    score_sde.fit(x, condition=c, workdir=tmp_path, settings=longer)
    assert (tmp_path / "checkpoints" / "step_0000009.pt").exists()


def test_new_pictures_come_after_those_that_a_network_knows(tmp_path):
    """What is fine-tuned hears the old one as before; in another order it would be taken for the new one."""
    generator = np.random.default_rng(0)
    x, old, new = (generator.normal(size=(40, channels, 8)).astype(np.float32) for channels in (2, 1, 1))
    settings = {"model.channels": 8, "model.channel_multipliers": (1,), "model.num_blocks": 1}
    settings |= {"training.schedule": "constant", "training.sample_every": 0, "training.batch_size": 8}
    options: dict[str, Any] = {"num_steps": 1, "settings": settings}
    base = score_sde.fit(x, condition={"old": old}, workdir=tmp_path / "base", **options)
    options["settings"] = settings | {"training.start_from": tmp_path / "base", "training.learning_rate": 1e-12}
    with pytest.raises(
        UserError, match="is told old, and this network new, old, in this order: new pictures must come"
    ):
        score_sde.fit(x, condition={"new": new, "old": old}, **options)
    tuned = score_sde.fit(x, condition={"old": old, "new": new}, **options)
    asked: dict[str, Any] = {"seed": 1, "num_steps": 2, "solver": "ddim"}
    told = {"old": old[:2], "new": new[:2]}
    np.testing.assert_allclose(
        tuned.sample(condition=told, **asked), base.sample(condition=old[:2], **asked), rtol=1e-4, atol=1e-4
    )


def test_a_model_beside_this_one_sees_the_same_numbers(tmp_path):
    """Of data of another scale it would be asked about other states: a reference, a classifier, and a condition's."""
    generator = np.random.default_rng(0)
    x, c, labels = generator.normal(size=(60, 1, 8, 8)), generator.normal(size=(60, 2)), ["a", "b"] * 30
    tiny = {"model.channels": 8, "model.channel_multipliers": (1,), "model.num_blocks": 1, "training.batch_size": 8}
    tiny |= {"training.sample_every": 0, "training.evaluate_every": 0, "data.test_share": 0.0, "data.augment": ""}

    def fitted(name: str, x: Any, c: Any, config: str, **more: Any) -> Any:
        told = {"class": labels, "c": c}
        settings = {**tiny, **more}
        return score_sde.fit(x, condition=told, workdir=tmp_path / name, config=config, num_steps=1, settings=settings)

    here = fitted("here", x, c, "vp/fields")
    fitted("there", 2 * x + 1, c, "vp/fields")
    fitted("told", x, 3 * c, "vp/fields")
    classifier = {"training.measure_every": 0, "data.distortion": 0.0, "model.class_conditional": False}
    with pytest.raises(UserError, match="this is a classifier: give it to a model"):
        fitted("classifier", 2 * x, c, "vp/digits_classifier", **classifier)
    asked: dict[str, Any] = {"condition": {"class": "a", "c": c[0]}, "num_steps": 2, "guidance": 2.0}
    for key, name, what in (
        ("reference", "there", r"examples in units of other data, of mean \S+ and deviation \S+, and not \S+ and \S+"),
        ("reference", "told", "c in units of other data"),
        ("classifier", "classifier", "examples in units of other data"),
    ):
        with pytest.raises(UserError, match=f"{name}.* sees {what}"):
            here.sample(2, **asked, **{key: str(tmp_path / name)})
    plain = here.sample(2, **{**asked, "guidance": 1.0})
    np.testing.assert_allclose(here.sample(2, **asked, reference=str(tmp_path / "here")), plain, rtol=1e-4, atol=1e-4)


def test_pictures_keep_their_order_whatever_their_names(tmp_path):
    """Which channel is whose is known to a run that goes on, and to both files of a checkpoint."""
    generator = np.random.default_rng(0)
    x, zeta, alpha = (generator.normal(size=(40, channels, 8)).astype(np.float32) for channels in (2, 1, 1))
    settings = {"model.channels": 8, "model.channel_multipliers": (1,), "model.num_blocks": 1}
    settings |= {"training.schedule": "constant", "training.sample_every": 0, "training.batch_size": 8}

    def fitted(name: str, num_steps: int) -> Any:
        told = {"zeta": zeta, "alpha": alpha}
        return score_sde.fit(x, condition=told, workdir=tmp_path / name, num_steps=num_steps, settings=settings)

    fitted("resumed", 1)
    resumed, whole = (fitted(name, 2).model.state_dict() for name in ("resumed", "whole"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    asked: dict[str, Any] = {"condition": {"zeta": zeta[:2], "alpha": alpha[:2]}, "seed": 1, "num_steps": 2}
    files = [tmp_path / "whole" / "checkpoints" / f"step_0000002.{suffix}" for suffix in ("pt", "safetensors")]
    first, second = (score_sde.load(path).sample(**asked) for path in files)
    assert np.array_equal(first, second)
