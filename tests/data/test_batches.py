"""Endless batches: every example once an epoch, and exact resumption."""

from __future__ import annotations

import torch

from score_sde.data import Batches, Bins, Dataset, get_augmentation, load_dataset


def numbers(count: int) -> Dataset:
    """Vectors of one number, 0 … count - 1."""
    examples = torch.arange(float(count)).reshape(-1, 1)
    return Dataset("numbers", examples, examples)


def test_each_epoch_visits_every_example_once() -> None:
    batches = Batches(numbers(10), batch_size=4, seed=0)
    drawn = torch.cat([next(batches).x_0 for _ in range(15)]).flatten()
    epochs = drawn.reshape(6, 10)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(10.0).expand(6, 10))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6


def test_a_batch_may_be_larger_than_the_data() -> None:
    drawn = next(Batches(numbers(3), batch_size=9, seed=0)).x_0.flatten().reshape(3, 3)
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(3.0).expand(3, 3))


def test_orders_are_uniform() -> None:
    """The first example of an epoch is each of four equally often, within 4 standard errors."""
    batches = Batches(numbers(4), batch_size=4, seed=3)
    first = torch.stack([next(batches).x_0[0, 0] for _ in range(2000)])
    assert ((torch.bincount(first.long()) / 2000 - 0.25).abs() < 4 * (0.1875 / 2000) ** 0.5).all()


def test_resumption_is_exact() -> None:
    """Augmentation and dequantisation included, from a step in the middle of an epoch."""
    dataset, augment = load_dataset("digits"), get_augmentation("flip,shift")
    batches = Batches(dataset, 100, seed=5, augment=augment)
    for _ in range(17):
        next(batches)
    resumed = Batches(dataset, 100, seed=5, augment=augment)
    resumed.step = batches.step
    for _ in range(3):
        assert torch.equal(next(batches).x_0, next(resumed).x_0)


def test_levels_as_they_are() -> None:
    """Without uniform noise: one value a level, and the same examples in the same order."""
    dataset = load_dataset("digits")
    points = load_dataset("digits", uniform_dequantisation=False)
    drawn, noisy = (next(Batches(data, 50, seed=5)).x_0 for data in (points, dataset))
    levels = dataset.units.decode(noisy)
    torch.testing.assert_close(drawn, -1 + levels / 8)


def test_the_seed_matters() -> None:
    dataset = load_dataset("digits")
    assert not torch.equal(next(Batches(dataset, 8, seed=0)).x_0, next(Batches(dataset, 8, seed=1)).x_0)


def test_dequantisation_is_fresh() -> None:
    """The same level gets another noise each time it is drawn."""
    dataset = Dataset("one", torch.full((1, 1), 3, dtype=torch.uint8), torch.empty(0), units=Bins(17))
    batches = Batches(dataset, 1, seed=0)
    x = torch.cat([next(batches).x_0 for _ in range(50)])
    assert len(x.unique()) == 50
    assert (dataset.units.decode(x) == 3).all()


def test_distorted_pictures_are_labelled_and_the_others_are_as_they_were() -> None:
    dataset = load_dataset("digits", uniform_dequantisation=False)
    count = len(dataset.train)
    plain = next(Batches(dataset, count, seed=4)).x_0
    batch = next(Batches(dataset, count, seed=4, distortion=0.3))
    x_0, condition = batch.x_0, batch.condition
    assert condition is not None
    assert not condition.values["distorted"].any()
    same, hidden = (x_0 == plain).flatten(1).all(1), condition.hidden_rows["distorted"]
    assert torch.equal(same, hidden)
    assert abs(float((~hidden).double().mean()) - 0.3) < 4 * (0.21 / count) ** 0.5
