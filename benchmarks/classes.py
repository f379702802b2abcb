"""How well a network knows classes after few steps: `python -m benchmarks.classes PATH`, pictures with classes.

PATH may be that of MNIST's test file, whose pictures are brought to 16 x 16; 1,000 steps. Told for each seed: how many
samples are recognised as the class that was asked for, by a support vector machine that was trained on the training
images and saw no model; how many of the first test examples Bayes' rule gives their class, by `log p(x | y)` of all
classes; and the seconds that it took.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.svm import SVC

import score_sde
from score_sde.experiment.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=100, help="test examples for Bayes' rule; 0: leave it out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the configuration")
    arguments = parser.parse_args()
    settings = {
        "data.image_size": arguments.size,
        "data.augment": "",
        "model.class_conditional": True,
        "model.channels": 16,
        "model.num_blocks": 1,
        "model.dropout": 0.0,
        "training.num_steps": 1000,
        "training.batch_size": 32,
        "training.learning_rate": 4e-3,
        # More noise than configs/vp/own.py has.
        "training.edm_mean": -0.5,
        "training.edm_std": 1.4,
        "training.checkpoint_every": 0,
        "training.sample_every": 0,
    }
    settings |= dict(pair.split("=", 1) for pair in arguments.set)
    judge = None
    for seed in arguments.seeds:
        started = time.time()
        run = score_sde.fit(arguments.path, settings=settings | {"seed": seed})
        seconds = time.time() - started
        data = run.dataset
        judge = judge or SVC(C=10).fit(data.train.flatten(1).numpy() / data.levels, data.train_classes)
        asked = np.arange(20 * data.num_classes) % data.num_classes
        drawn = run.sample(len(asked), condition=[data.class_names[k] for k in asked], batch_size=100)
        recognised = judge.score(drawn.reshape(len(drawn), -1) / data.levels, asked)
        real = judge.score(data.test.flatten(1).numpy() / data.levels, data.test_classes)
        bayes = by_bayes(run, arguments.examples) if arguments.examples else float("nan")
        print(
            f"seed {seed}: {recognised:.3f} of {len(asked)} samples recognised (test examples {real:.3f}), "
            f"{bayes:.3f} of {arguments.examples} classified by Bayes' rule; {seconds:.0f} s of training, "
            f"{time.time() - started - seconds:.0f} s of measuring",
            flush=True,
        )


def by_bayes(run: Run, count: int) -> float:
    """Return the part of the first test examples whose class is the most probable one, where all are as frequent."""
    data = run.dataset
    assert data.test_classes is not None
    x = data.test[:count]
    log_prob = [run.log_prob(x, condition=name, method="adams", num_steps=12) for name in data.class_names]
    return float((np.stack(log_prob).argmax(0) == data.test_classes[:count].numpy()).mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
