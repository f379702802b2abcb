"""Couplings: which noise they give to which data, and what regression makes of the pairs."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from score_sde import GaussianMixture, RectifiedFlow, get_solver
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.data import Batch
from score_sde.training.couplings import Reflow, optimal_transport


def drawn(count: int, *dims: int, seed: int = 0, std: float = 1.0) -> torch.Tensor:
    """Return normal numbers `(count, *dims)`, float64."""
    return std * torch.randn(count, *dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_sum_of_squared_distances_is_the_least_of_all_orders():
    x, noise = drawn(6, 1, 2), drawn(6, 1, 2, seed=1)
    _, given = optimal_transport(Batch(x), noise)
    least = min(float((x - noise[list(order)]).square().sum()) for order in permutations(range(6)))
    assert float((x - given).square().sum()) == pytest.approx(least, rel=1e-12)
    assert torch.equal(given.flatten().sort().values, noise.flatten().sort().values)


def test_noise_changes_places_among_examples_alike_only():
    x, noise = drawn(40, 2), drawn(40, 2, seed=1)
    classes, hidden = torch.arange(40) % 3, torch.arange(40) < 20
    told = Condition({"class": classes, "distorted": torch.zeros(40, dtype=torch.long)}).hidden("class", hidden)
    _, given = optimal_transport(Batch(x, told), noise)
    groups = [hidden, *(~hidden & (classes == k) for k in range(3))]
    for rows in groups:
        alone = optimal_transport(Batch(x[rows]), noise[rows])[1]
        assert torch.equal(given[rows], alone)
    assert not torch.equal(given, noise)


def test_what_cannot_be_paired_is_refused():
    told = Condition({"vector": drawn(4, 3)})
    with pytest.raises(UserError, match="of 'vector' it is told numbers of each"):
        optimal_transport(Batch(drawn(4, 2), told), drawn(4, 2))
    with pytest.raises(UserError, match="some of these lack numbers"):
        optimal_transport(Batch(drawn(4, 2), None, torch.ones(4, 2, dtype=torch.bool)), drawn(4, 2))


def test_what_is_learnt_from_transported_pairs_is_the_closed_form_and_no_score():
    s, t = 0.5, 0.5
    x_0, eps = drawn(512, 1, std=s), drawn(512, 1, seed=1)
    x_0, eps = s * (x_0 - x_0.mean()) / x_0.std(), (eps - eps.mean()) / eps.std()
    slopes = []
    for data, noise in ((x_0, eps), optimal_transport(Batch(x_0), eps)):
        x_t = (1 - t) * data + t * noise
        slopes.append(float((noise * x_t).sum() / x_t.square().sum()) / -t)
    independent, transported = slopes
    # The score of independent pairs, whose p_t is N(0, (1 - t)^2 s^2 + t^2) …
    assert independent == pytest.approx(-1 / ((1 - t) ** 2 * s**2 + t**2), abs=0.07)
    # … and of transported ones, whose p_t is N(0, ((1 - t) s + t)^2), the flow and not the score, which is -1.78.
    assert transported == pytest.approx(-1 / (t * ((1 - t) * s + t)), abs=0.01)


def test_reflow_pairs_noise_with_where_the_teacher_takes_it():
    sde = RectifiedFlow()
    teacher = GaussianMixture(sde, torch.ones(1), torch.zeros(1, 2), 0.25 * torch.eye(2)[None]).double()
    noise = drawn(16, 2)
    data, kept = Reflow(lambda condition: teacher, get_solver("unipc", num_steps=60))(Batch(drawn(16, 2)), noise)
    assert torch.equal(kept, noise)
    # The flow of N(0, s^2) from N(0, 1) multiplies by s.
    torch.testing.assert_close(data, 0.5 * noise, rtol=1e-4, atol=0)
