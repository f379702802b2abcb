"""How well a network knows classes after few steps: `python -m benchmarks.classes PATH`, pictures with classes.

PATH may be that of MNIST's test file, whose pictures are brought to 16 x 16; 1,000 steps. Told for each seed: how many
samples are recognised as the class that was asked for, by a support vector machine that was trained on the training
images and saw no model; how many of the first test examples Bayes' rule gives their class, where all are as frequent,
by two measures of `log p(x | y)` of all classes; and the seconds that it took. The measures are

    flow     that of the probability flow, dequantisation and probes the same for all classes
    bound    log p(x | y) >= constant - 1/2 ∫ E ||eps_hat(x_t, y) - eps||^2 dlambda,   lambda the log-SNR,

whose integral is over all of the process, by `--draws` strata with one lambda and one eps each, the same for classes
(as Li et al. 2023, arXiv:2303.16203, who weigh times otherwise).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC

import score_sde
from score_sde.common.condition import Condition
from score_sde.experiment.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=100, help="test examples for Bayes' rule; 0: leave it out")
    parser.add_argument("--draws", type=int, default=128, help="strata of the bound")
    parser.add_argument("--probes", type=int, default=1, help="of the flow's divergence")
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
        # More noise than configs/vp/own.py has, and less, for densities; the class is never hidden.
        "training.edm_mean": -0.8,
        "training.edm_std": 1.8,
        "training.label_dropout": 0.0,
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
        found = {}
        if arguments.examples:
            found = {"flow": by_flow(run, arguments.examples, arguments.probes)}
            found["bound"] = by_bound(run, arguments.examples, arguments.draws)
        bayes = ", ".join(f"{part:.3f} ({name})" for name, part in found.items())
        print(
            f"seed {seed}: {recognised:.3f} of {len(asked)} samples recognised (test examples {real:.3f}), "
            f"of {arguments.examples} classified by Bayes' rule: {bayes}; {seconds:.0f} s of training, "
            f"{time.time() - started - seconds:.0f} s of measuring",
            flush=True,
        )


def by_flow(run: Run, count: int, num_probes: int) -> float:
    """Return the part of the first test examples whose class has the largest density of the probability flow."""
    x, names = run.dataset.test[:count], run.dataset.class_names
    options: dict[str, Any] = {"method": "adams", "num_steps": 12, "num_probes": num_probes}
    return _right(run, [run.log_prob(x, condition=name, **options) for name in names])


@torch.no_grad()
def by_bound(run: Run, count: int, draws: int) -> float:
    """Return the part of the first test examples whose class has the largest bound on the density."""
    data, model = run.dataset, run.model
    x, sde = data.encode(data.test[:count], seed=0), model.sde
    count, generator = len(x), torch.Generator().manual_seed(0)
    ends = sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
    squares = torch.zeros(data.num_classes, count, dtype=torch.float64)
    for stratum in range(draws):
        place = (stratum + torch.rand(count, generator=generator, dtype=torch.float64)) / draws
        t, noise = sde.time_at_log_snr(torch.lerp(ends[0], ends[1], place)), torch.randn(x.shape, generator=generator)
        for k in range(data.num_classes):
            error = model.noise_error(x, noise, t, Condition({"class": torch.full((count,), k)}))
            squares[k] += error.double().square().flatten(1).sum(1)
    return _right(run, list((-squares).numpy()))


def _right(run: Run, by_class: list[np.ndarray]) -> float:
    assert run.dataset.test_classes is not None
    chosen = np.stack(by_class).argmax(0)
    return float((chosen == run.dataset.test_classes[: len(chosen)].numpy()).mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
