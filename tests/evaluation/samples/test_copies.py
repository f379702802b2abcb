"""Copies are told from fresh draws, by a number whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from score_sde.common.errors import UserError
from score_sde.data import Bins, Dataset
from score_sde.evaluation.samples.copies import compare_distances, find_copies, write_copies
from tests.reading import image


def normal(count: int, seed: int, dimension: int = 4) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


DATA = Dataset("points", normal(400, 0), normal(300, 1))


def test_fresh_draws_are_as_far_as_test_examples_and_the_error_is_the_right_one():
    """A is 1/2 on average, given the training examples, and scatters as its standard error and `z` say."""
    found = []
    for seed in range(100):
        dataset = Dataset("points", normal(200, 0, 2), normal(60, 2 * seed + 1, 2))
        copies = find_copies(normal(80, 2 * seed + 2, 2), dataset)
        found.append(((copies.value - 0.5) / copies.standard_error, copies.z))
    scores = np.array(found)
    assert np.abs(scores.mean(0)).max() < 3 / math.sqrt(100)
    np.testing.assert_allclose(scores.std(0), 1, atol=3 / math.sqrt(200))


def test_training_examples_with_a_little_noise_are_found():
    noise = 1e-5 * normal(100, 3)
    copies = find_copies(DATA.train[50:150] + noise, DATA)
    assert (copies.value, copies.standard_error) == (0, 0)
    assert copies.z < -14
    assert copies.of_samples.rows.tolist() == list(range(50, 150))
    difference = ((DATA.train[50:150] + noise).double() - DATA.train[50:150].double()).norm(dim=1)
    np.testing.assert_allclose(copies.of_samples.distances, difference, rtol=1e-9)


def test_where_a_half_are_copies_the_probability_is_a_quarter():
    copies = find_copies(torch.cat([DATA.train[:200], normal(200, 5)]), DATA)
    assert copies.value == pytest.approx(0.25, abs=3 * copies.standard_error)
    assert copies.standard_error < 0.03
    assert find_copies(normal(50, 5) + 100, DATA).value == 1


def test_the_number_is_mann_and_whitneys_and_its_error_delongs():
    """A second implementation of U, with ties; and DeLong's variance by its definition, over all pairs."""
    generator = np.random.default_rng(0)
    samples, test = generator.integers(0, 12, 30) / 2, generator.integers(0, 9, 20) / 2
    value, error, _ = compare_distances(samples, test)
    assert value == pytest.approx(mannwhitneyu(samples, test).statistic / 600, rel=1e-12)
    kernel = (samples[:, None] > test) + 0.5 * (samples[:, None] == test)
    assert error**2 == pytest.approx(kernel.mean(1).var(ddof=1) / 30 + kernel.mean(0).var(ddof=1) / 20, rel=1e-12)


def test_copies_of_images_are_found_mirrored_too_and_shown_beside_what_they_copy(tmp_path):
    pictures = torch.randint(0, 16, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = Dataset("pictures", pictures[:40], pictures[40:], Bins(16))
    x = data.encode(pictures[:12], seed=0).flip(-1)
    assert find_copies(x, data).value > 0.2
    copies = find_copies(x, data, mirrored=True)
    assert copies.value == 0
    assert copies.of_samples.rows.tolist() == list(range(12))
    assert (copies.of_samples.distances == 0).all()
    numbers, picture = write_copies(copies, x, data, tmp_path, "ddim", {"seed": 0})
    written = json.loads(numbers.read_text())
    assert (written["farther_than_test"], written["identical"], written["num_samples"]) == (0, 12, 12)
    # Eight rows of a sample and its training example, six times enlarged; and beside them those of test examples.
    shown = image(picture)
    side = 6 * 19
    assert shown.shape == (6 * 73, 2 * side + 16, 3)
    first, copied = (shown[6 : 6 + 48 : 6, left : left + 48 : 6, 0] for left in (6, 6 + 54))
    np.testing.assert_array_equal(first, copied[:, ::-1])
    np.testing.assert_array_equal(first, 17 * pictures[0, 0].flip(-1))


@pytest.mark.parametrize("shape", [(1, 16), (1, 4, 4, 4), (3,)])
def test_other_kinds_have_a_picture_of_pairs_or_distances(tmp_path, shape):
    examples = normal(70, 0, math.prod(shape)).reshape(-1, *shape)
    data = Dataset("examples", examples[:40], examples[40:])
    copies = find_copies(examples[:9], data)
    assert copies.of_samples.rows.tolist() == list(range(9))
    assert image(write_copies(copies, examples[:9], data, tmp_path, "pc", {})[1]).std() > 10


def test_too_few_test_examples_are_a_user_error():
    with pytest.raises(UserError, match="beside 10 test examples or more, but points has 3, and 400 training"):
        find_copies(DATA.test, Dataset("points", DATA.train, DATA.test[:3]))
