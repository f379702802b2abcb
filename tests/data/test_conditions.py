"""What a network is told: classes and distortion, hidden as often as asked."""

from __future__ import annotations

import math

import torch

from score_sde.data import Batches, Bins, Standardised, load_dataset
from score_sde.data.conditions import (
    ConditionUnits,
    condition_units,
    conditions_of,
    of_classes,
    with_distortion,
    with_hidden,
)
from score_sde.data.dataset import Dataset


def test_names_and_numbers_of_values():
    assert conditions_of() == {}
    assert conditions_of(3) == {"class": 3}
    assert conditions_of(3, True) == {"class": 3, "distorted": 1}
    assert conditions_of(0, True) == {"distorted": 1}
    assert of_classes(None) is None
    assert with_distortion(None, None) is None
    assert with_hidden(None, lambda: torch.zeros(1, dtype=torch.bool)) is None


def numbered() -> Dataset:
    """Return data in which each example's pixels are its number, and its class is that number modulo 5."""
    count = 200
    pixels = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Dataset("numbered", pixels, pixels[:0], Bins(256), train_classes=torch.arange(count) % 5)


def test_batches_have_the_classes_of_their_examples():
    dataset = numbered()
    batch = next(Batches(dataset, 64, seed=3, labelled=True))
    assert batch.condition is not None
    assert torch.equal(batch.condition.values["class"], dataset.units.decode(batch.x_0)[:, 0, 0, 0].long() % 5)
    assert not batch.condition.hidden_rows
    assert next(Batches(dataset, 64, seed=3)).condition is None


def test_classes_are_hidden_as_often_as_asked():
    dataset, dropout, count = numbered(), 0.3, 50
    batches = Batches(dataset, 64, seed=4, labelled=True, label_dropout=dropout)
    plain = Batches(dataset, 64, seed=4)
    hidden = 0
    for _ in range(count):
        batch = next(batches)
        assert batch.condition is not None
        # Examples and their noise are the same, whether they are labelled or not.
        assert torch.equal(batch.x_0, next(plain).x_0)
        assert torch.equal(batch.condition.values["class"], dataset.units.decode(batch.x_0)[:, 0, 0, 0].long() % 5)
        hidden += int(batch.condition.hidden_rows["class"].sum())
    total = 64 * count
    assert abs(hidden / total - dropout) < 4 * math.sqrt(dropout * (1 - dropout) / total)


def test_distortion_and_classes_are_told_independently():
    dataset = load_dataset("digits")
    batch = next(Batches(dataset, 400, seed=5, distortion=0.4, labelled=True, label_dropout=0.2))
    assert batch.condition is not None
    assert not batch.condition.values["distorted"].any()
    hidden, plain = batch.condition.hidden_rows["class"], batch.condition.hidden_rows["distorted"]
    shares = torch.bincount(2 * hidden + plain, minlength=4) / 400
    expected = torch.tensor([0.8 * 0.4, 0.8 * 0.6, 0.2 * 0.4, 0.2 * 0.6])
    assert float(((shares - expected) / (expected * (1 - expected) / 400).sqrt()).abs().max()) < 4


def test_number_of_classes():
    assert load_dataset("digits").num_classes == 10
    assert load_dataset("two_moons").num_classes == 0
    assert (
        Dataset(
            "named",
            torch.zeros(2, 1),
            torch.zeros(0, 1),
            train_classes=torch.tensor([0, 0]),
            class_names=("a", "b", "c"),
        ).num_classes
        == 3
    )


def test_numbers_are_told_in_their_units_and_brought_to_a_size():
    low = torch.rand(50, 2, 4, 6, dtype=torch.float64) * torch.tensor([3.0, 0.1]).reshape(2, 1, 1) + 7
    units = condition_units("low", low, (1, 2, 3))
    mean, std = low.mean((0, 2, 3), keepdim=True)[0], low.std((0, 2, 3), correction=0, keepdim=True)[0]
    standard = (low - mean) / std
    torch.testing.assert_close(units.encode(low, (1, 4, 6)).double(), standard, rtol=1e-6, atol=1e-6)
    # No axis grows: means over areas.
    areas = standard.reshape(50, 2, 2, 2, 3, 2).mean((3, 5))
    torch.testing.assert_close(units.encode(low, (1, 2, 3)).double(), areas, rtol=1e-5, atol=1e-6)
    # Linear interpolation keeps what is linear, away from the ends.
    ramp = torch.arange(4.0).reshape(1, 1, 4)
    wide = ConditionUnits((1, 4), Standardised(torch.zeros(1, 1), torch.ones(1, 1))).encode(ramp, (3, 8))
    torch.testing.assert_close(wide[0, 0, 1:-1], torch.arange(0.25, 3, 0.5))
    # Beside vectors they become vectors.
    assert units.told_shape((5,)) == (48,)
    torch.testing.assert_close(units.encode(low, (5,)).double(), standard.flatten(1), rtol=1e-6, atol=1e-6)
    assert torch.equal(ConditionUnits.described(units.describe()).encode(low, (5,)), units.encode(low, (5,)))
    # What is constant says nothing.
    constant = condition_units("one", torch.full((9, 1), 4.0), (5,))
    assert not constant.encode(torch.full((2, 1), 4.0), (5,)).any()


def test_several_conditions_are_hidden_together_and_each_by_itself():
    count, p = 4000, 0.2
    x = torch.arange(float(count))[:, None]
    arrays = {"a": x, "b": torch.stack([x[:, 0], -x[:, 0]], 1)}
    units = {name: condition_units(name, array, (1,)) for name, array in arrays.items()}
    dataset = Dataset("numbered", x, x[:0], conditions={"train": arrays}, condition_units=units)
    batch = next(Batches(dataset, count, seed=1, label_dropout=p, names=("a", "b")))
    assert batch.condition is not None
    torch.testing.assert_close(batch.condition.values["a"], units["a"].encode(batch.x_0, (1,)))
    torch.testing.assert_close(batch.condition.values["b"][:, 1], -batch.condition.values["a"][:, 0])
    hidden = [batch.condition.hidden_rows[name] for name in ("a", "b")]
    both, one = p + (1 - p) * p**2, p + (1 - p) * p
    for found, share in ((hidden[0] & hidden[1], both), (hidden[0], one), (hidden[1], one)):
        assert abs(found.double().mean() - share) < 4 * math.sqrt(share * (1 - share) / count)
    assert torch.equal(batch.x_0, next(Batches(dataset, count, seed=1)).x_0)
