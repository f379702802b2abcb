"""What networks that are told of classes start with, and that they learn classes from there at once."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.noise import BatchNoise
from score_sde.data import Batches, Bins, Dataset
from score_sde.data.conditions import of_classes
from score_sde.experiment import build
from score_sde.experiment.objectives import make_objective
from score_sde.models import Given
from score_sde.training.objectives import noise_losses


def model_of(name: str, **values) -> Any:
    config = importlib.import_module(f"score_sde.configs.vp.{name}").get_config()
    config.model.update(values)
    return build.make_model(config, build.make_dataset(config))


def test_a_class_without_training_examples_is_named_where_networks_are_told_classes():
    config = importlib.import_module("score_sde.configs.vp.digits").get_config()
    pictures, classes = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 2, 2])
    data = Dataset("photos", pictures, pictures[:1], Bins(17), train_classes=classes, test_classes=torch.tensor([1]))
    build.check_classes(config, data)
    config.model.class_conditional = True
    with pytest.raises(UserError, match="photos has no training example of class 1: add some, take a smaller"):
        build.check_classes(config, data)
    build.check_classes(config, dataclasses.replace(data, test_classes=torch.tensor([2])))


def digest(weights: dict[str, Tensor]) -> str:
    """Return the hash of the names that weights once had, and of their values."""
    names = [re.sub(r"condition\.vectors\.\w+", "class_vectors", f"conditioned.{name}") for name in weights]
    values = [value.numpy().tobytes() for value in weights.values()]
    content = b"".join(name.encode() + value for name, value in zip(names, values, strict=True))
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "expected"), [("digits", "041e99ebe243e17a"), ("digits_velocity", "1a8f361d88a64082")]
)
def test_initial_weights_without_classes_are_those_they_always_were(name, expected):
    """Distortion is told by vectors of zero, which take as many random numbers as drawn ones."""
    model = model_of(name)
    assert digest(model.state_dict()) == expected
    assert not model.network.embedding.condition.vectors["distorted"].weight.any()


def test_initial_weights_with_classes_alone_are_those_they_always_were():
    config = importlib.import_module("score_sde.configs.vp.digits_classes").get_config()
    config.data.distortion = 0.0
    assert digest(build.make_model(config, build.make_dataset(config)).state_dict()) == "731f48a1985e1914"


def test_vectors_start_apart_by_class_and_at_zero_for_distortion():
    model = model_of("digits_classes", channels=128, channel_multipliers=(1,), num_blocks=1)
    vectors = model.network.embedding.condition.vectors["class"].weight.detach()
    assert vectors.shape == (11, 512)
    assert not vectors[10:].any()
    assert model.network.embedding.condition.vectors["distorted"].weight.shape == (2, 512)
    assert not model.network.embedding.condition.vectors["distorted"].weight.any()
    # Of 512 draws from N(0, 1/4) each: in its units, second moments of 1, mixed ones of 0, within 5 standard errors.
    moments = vectors[:10] @ vectors[:10].T / (512 * 0.5**2)
    standard_errors = ((1 + torch.eye(10)) / 512).sqrt()
    assert float(((moments - torch.eye(10)) / standard_errors).abs().max()) < 5


def ring() -> Dataset:
    """Five classes, each a Gaussian on a circle in the plane."""
    classes = torch.arange(1000) % 5
    angles = 2 * math.pi * classes / 5
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    points = torch.stack([angles.cos(), angles.sin()], dim=1) + 0.2 * noise
    return Dataset("ring", points, points[:0], train_classes=classes)


def rows() -> Dataset:
    """Four classes of noisy pictures, each with another row bright."""
    classes = torch.arange(1000) % 4
    pictures = torch.randint(2, (1000, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pictures[torch.arange(1000), 0, classes] = 7
    return Dataset("rows", pictures, pictures[:0], Bins(8), train_classes=classes)


@pytest.mark.parametrize(
    ("name", "make_data", "changes", "batch_size", "least"),
    [
        ("eight_gaussians", ring, {"width": 64}, 64, 2.0),
        ("digits_velocity", rows, {"channels": 8, "num_blocks": 1, "attention_resolutions": ()}, 32, 1.015),
    ],
    ids=["mlp", "u-net"],
)
def test_classes_are_learnt_from_the_first_steps_on(name, make_data, changes, batch_size, least):
    """After 60 steps the wrong class costs loss. (With vectors that start at zero: less than 0.3 % of it.)"""
    config, dataset = importlib.import_module(f"score_sde.configs.vp.{name}").get_config(), make_data()
    config.data.distortion = 0.0
    config.model.update(class_conditional=True, **changes)
    model: Any = build.make_model(config, dataset)
    objective = make_objective(config, model.sde)
    batches = Batches(dataset, batch_size, seed=0, labelled=True, label_dropout=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        batch = next(batches)
        optimizer.zero_grad()
        objective(model, batch, BatchNoise(batch_size, generator)).values.mean().backward()
        optimizer.step()

    x_0, classes = dataset.encode(dataset.train[:200], config.seed), dataset.train_classes[:200]
    noise = torch.randn(x_0.shape, generator=generator)
    t = model.sde.time_at_log_snr(torch.zeros(200, dtype=torch.float64))  # as much noise as signal
    with torch.no_grad():
        right, wrong = (
            noise_losses(Given(model, of_classes(numbers)), x_0, noise, t).mean()
            for numbers in (classes, (classes + 1) % dataset.num_classes)
        )
    assert float(wrong / right) > least
