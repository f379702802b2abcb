"""What guidance gives, and what it costs: `python -m benchmarks.guidance`.

Samples of the digits' classes, as many of each as there are test examples, from the class-conditional network of a
working folder, led away from itself without a class (classifier-free guidance, with APG and rescaled too), or from a
weaker network (auto-guidance), and from an unconditional one with a classifier of noisy digits (classifier guidance).
What has no folder is left out. Printed for each scale: how many are recognised as their class by a support vector
machine that was trained on the training images and saw no model; how far samples of a class are from each other, as a
part of that distance in the test examples; and the distances to the test examples of `evaluation.samples.distances`.

    python main.py --mode train --config configs/vp/digits_classes.py
    python main.py --mode train --config configs/vp/digits_classifier.py
    python main.py --mode train --config configs/vp/digits_classes.py --workdir runs/vp_digits_weak \\
        --config.model.channels=8 --config.model.num_blocks=1 --config.training.num_steps=600 \\
        --config.training.ema_decay=0.98
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.svm import SVC
from torch import Tensor

from benchmarks.trained import trained_network
from score_sde.common.condition import Condition
from score_sde.control import ClassifierGuidance, Guided
from score_sde.data import Dataset
from score_sde.evaluation.samples.distances import DATA_DISTANCES, DataDistances
from score_sde.experiment import runs
from score_sde.models import Given, NoisyClassifier
from score_sde.models.noisy_classifier import ClassProbability
from score_sde.solvers import Model, get_solver

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
INTERVAL = (0.3, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/vp_digits_classes"))
    parser.add_argument("--unconditional", type=Path, default=Path("runs/digits"))
    parser.add_argument("--classifier", type=Path, default=Path("runs/vp_digits_classifier"))
    parser.add_argument("--weak", type=Path, default=Path("runs/vp_digits_weak"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    model, dataset, config, _ = trained_network(arguments.workdir)
    assert dataset.test_classes is not None
    classes = dataset.test_classes
    condition = Condition({"class": classes})
    given = Given(model, condition)

    kinds: dict[str, Callable[[float], Model]] = {
        "classifier-free": lambda scale: Guided(given, model, scale),
        f"classifier-free, rho in {INTERVAL}": lambda scale: Guided(given, model, scale, INTERVAL),
        "classifier-free, APG": lambda scale: Guided(given, model, scale, parallel=0.0),
        "classifier-free, rescaled by 0.7": lambda scale: Guided(given, model, scale, rescale=0.7),
    }
    if arguments.weak.exists():
        weak = Given(trained_network(arguments.weak).model, condition)
        kinds["auto-guidance"] = lambda scale: Guided(given, weak, scale)
    if arguments.unconditional.exists() and arguments.classifier.exists():
        plain = trained_network(arguments.unconditional).model
        log_prob = ClassProbability(noisy_classifier(arguments.classifier, dataset), classes)
        kinds["classifier"] = lambda scale: ClassifierGuidance(plain, log_prob, scale)
    solver = get_solver("default", num_steps=20, data_std=config.sampling.data_std)
    judge, distances = Judge(dataset), DataDistances(dataset)
    print(f"the judge recognises {judge.accuracy(dataset.test, classes):.4f} of the test examples\n")
    print("| guidance | scale | recognised | spread within a class | " + " | ".join(DATA_DISTANCES) + " |")
    print("|---|---|---|---|" + "---|" * len(DATA_DISTANCES))
    for name, guided in kinds.items():
        for scale in SCALES:
            rows = []
            for seed in range(arguments.seeds):
                seeds = range(seed * len(classes), (seed + 1) * len(classes))
                x_T = model.sde.prior_sample((len(classes), *dataset.shape), seeds=seeds)
                x = solver(guided(scale), x_T, seeds=seeds).x
                levels = dataset.units.decode(x)
                spread = spread_within(levels, classes) / spread_within(dataset.test, classes)
                rows.append([judge.accuracy(levels, classes), spread, *distances(x).values()])
            means = " | ".join(f"{value:.4f}" for value in np.mean(rows, axis=0))
            print(f"| {name} | {scale:g} | {means} |", flush=True)


class Judge:
    """A support vector machine judges pixels."""

    def __init__(self, dataset: Dataset) -> None:
        self._machine = SVC(gamma=0.001, C=10).fit(dataset.train.flatten(1).numpy(), dataset.train_classes)

    def accuracy(self, levels: Tensor, wanted: Tensor) -> float:
        """Return the part of images of levels `(N, 1, 8, 8)` that the judge takes for their class."""
        return float(self._machine.score(levels.flatten(1).numpy(), wanted.numpy()))


def spread_within(levels: Tensor, wanted: Tensor) -> float:
    """Return the root mean square distance between images of the same class, over all classes."""
    parts = [levels[wanted == k].flatten(1).double() for k in wanted.unique()]
    return math.sqrt(float(np.mean([2 * part.var(0).sum().item() for part in parts])))


def noisy_classifier(workdir: Path, dataset: Dataset) -> NoisyClassifier:
    """Read the newest classifier of a working folder."""
    config, found = runs.configuration_to_use(None, workdir, None, [])
    assert found is not None
    model = found.make_model(config, dataset)
    assert isinstance(model, NoisyClassifier)
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
