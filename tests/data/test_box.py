"""Boxes: the log-determinant against a numerical Jacobian, what is uniform, edges, files, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.data.units import Standardised, describe_units, units_described

LOW, HIGH = [-1.0, 10.0, 1e5], [2.0, 10.5, 1e6]


def uniform(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    u = torch.rand(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.tensor(LOW) + u * (torch.tensor(HIGH) - torch.tensor(LOW))).to(dtype)


def dataset(examples: torch.Tensor, low=LOW, high=HIGH):
    from score_sde.data import arrays_dataset

    return arrays_dataset(examples, box_low=low, box_high=high, test_share=0)


def test_log_determinant_is_that_of_the_numerical_jacobian() -> None:
    units = dataset(uniform(500) ** 1.0).units
    torch.set_default_dtype(torch.float64)
    try:
        y = uniform(6)
        for row, found in zip(y, units.log_scales(y), strict=True):
            step = 1e-5 * (torch.tensor(HIGH) - torch.tensor(LOW))
            columns = [
                (units.encode((row + step[k] * unit)[None]) - units.encode((row - step[k] * unit)[None]))[0]
                / (2 * step[k])
                for k, unit in enumerate(torch.eye(3))
            ]
            assert found.item() == pytest.approx(torch.stack(columns).det().abs().log().item(), rel=1e-7)
        torch.testing.assert_close(units.decode(units.encode(y)), y, rtol=1e-12, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_is_uniform_becomes_a_standard_normal_with_its_density() -> None:
    units = dataset(uniform(20_000)).units
    x = units.encode(uniform(2000)).double()
    normal = (-(x**2) / 2 - math.log(2 * math.pi) / 2).sum(1) + units.log_scales(uniform(2000))
    volume = math.log(math.prod(b - a for a, b in zip(LOW, HIGH, strict=True)))
    # Mean and deviation are estimated from 20,000 numbers.
    assert normal.mean().item() == pytest.approx(-volume, abs=0.01)
    mean, variance = units.moments(uniform(20_000))
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(variance, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_numbers_lie_inside_and_outside_there_is_no_density(dtype: torch.dtype) -> None:
    low, high = [0.1, 0.0, -0.3], [0.7, 1.0, 0.1]
    width = torch.tensor(high, dtype=torch.float64) - torch.tensor(low, dtype=torch.float64)
    inside = (torch.tensor(low, dtype=torch.float64) + width * torch.linspace(0.01, 0.99, 99).double()[:, None]).to(
        dtype
    )
    units = dataset(inside, low, high).units
    y = units.decode(torch.tensor([[-1e3] * 3, [1e3] * 3, [0.0] * 3]))
    assert y.dtype == dtype
    exact = y.double().numpy()
    assert ((exact >= low) & (exact <= high)).all()
    assert bool(units.box.holds(y).all())
    assert bool(units.encode(y).isfinite().all())
    assert bool(units.log_scales(y).isfinite().all())
    outside = torch.tensor([[0.4, 1.0001, 0.0], [0.0999, 0.5, 0.0]], dtype=dtype)
    assert units.log_scales(outside).tolist() == [-math.inf, -math.inf]
    assert bool(units.encode(outside).isfinite().all())


def test_a_box_is_in_the_description() -> None:
    units = dataset(uniform(50)).units
    again = units_described(json.loads(json.dumps(describe_units(units))))
    assert torch.equal(again.encode(uniform(5)), units.encode(uniform(5)))
    assert torch.equal(again.log_scales(uniform(5)), units.log_scales(uniform(5)))


def test_fit_keeps_samples_and_densities_in_the_box(tmp_path) -> None:
    settings = {"model.width": 8, "model.num_blocks": 1, "training.batch_size": 16, "data.test_share": 0.0}
    y = uniform(200).numpy()
    run = score_sde.fit(y, box=(LOW, np.array(HIGH)), num_steps=2, workdir=tmp_path / "run", settings=settings)
    again = score_sde.load(tmp_path / "run")
    samples = again.sample(200, num_steps=5)
    np.testing.assert_array_equal(samples, run.sample(200, num_steps=5))
    assert ((samples >= LOW) & (samples <= HIGH)).all()
    asked = np.stack([y[0], y[0] + [3.0, 0, 0], y[1]])
    found = again.log_prob(asked, divergence="exact")
    assert np.isneginf(found).tolist() == [False, True, False]
    # In data units: that of model units, and log |dx / dy| of each example.
    units = run.dataset.units
    assert isinstance(units, Standardised)
    encoded = units.encode(torch.tensor(asked[::2])).to(distributed.device())
    inner = score_sde.log_likelihood(run.model, encoded, divergence="exact").log_prob.cpu()
    np.testing.assert_allclose(found[::2], inner + units.log_scales(torch.tensor(asked[::2])), rtol=1e-3)
    # A tensor that wants gradients has the density with its determinant, too.
    wanted = torch.tensor(asked[:1], requires_grad=True)
    loose: dict[str, Any] = {"divergence": "exact", "rtol": 1e-3, "atol": 1e-3}
    by_gradient = again.log_prob(wanted, **loose)
    np.testing.assert_allclose(by_gradient.detach(), again.log_prob(asked[:1], **loose), atol=1e-2)
    by_gradient.sum().backward()
    assert wanted.grad is not None
    step = np.array([1e-2, 0, 0])
    slope = (again.log_prob(asked[:1] + step, **loose) - again.log_prob(asked[:1] - step, **loose)) / 2e-2
    np.testing.assert_allclose(wanted.grad[:, 0], slope, atol=0.05)


def test_wrong_boxes_are_refused() -> None:
    y = uniform(20)
    with pytest.raises(UserError, match="outside the box, first number 0"):
        dataset(y, LOW, [-0.5, 10.5, 1e6])
    with pytest.raises(UserError, match="has 3 lower and 3 upper ends"):
        dataset(y, [0.0, 1.0], HIGH)
    with pytest.raises(UserError, match="lie below its upper ones"):
        dataset(y, HIGH, LOW)
    with pytest.raises(UserError, match="for vectors"):
        dataset(torch.rand(20, 1, 8), [0.0], [1.0])
    with pytest.raises(UserError, match=r"a box is \(low, high\)"):
        score_sde.fit(y, box=("a", 1.0))
    with pytest.raises(UserError, match="has 3 lower and 3 upper ends, or one, not 0 and 1"):
        score_sde.fit(y, box=([], 1.0))


def test_what_was_not_observed_has_no_scale_and_lies_inside() -> None:
    units = dataset(uniform(500)).units
    y = uniform(2)
    whole = units.log_scales(y)
    y[1, 2] = math.nan
    alone = dataset(uniform(500)[:, 2:], LOW[2:], HIGH[2:]).units
    assert units.log_scales(y)[0] == whole[0]
    assert (whole - units.log_scales(y))[1].item() == pytest.approx(
        alone.log_scales(uniform(2)[1:, 2:]).item(), rel=1e-9
    )
