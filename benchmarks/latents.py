"""Latent against pixel diffusion of glyphs at 32 x 32, after equal seconds of training, the autoencoder's included.

    python -m benchmarks.latents --seconds 400 --seeds 0 1 2 --workdir runs/latents

trains three runs a seed, `autoencoder` and `latent` (configs/autoencoders/), and `pixel` (configs/vp/glyphs.py at 32),
of so many seconds each way, of the processor with one thread, or of a GPU; what is there already is not trained again.
Then, of `--samples` samples with captions of the training part and guidance 2, and of 400 or fewer with those of
held-out compositions, the mean over seeds, with the least and the largest:

    two-sample test    accuracy of a classifier that tells samples of training captions from the pictures of these
                       captions by random features (`evaluation.samples.features`); 0.5 where it cannot
    retrieval          the nearest of all renderings is that of the caption
    arithmetic         multiplications of a sample, in billions, decoding included

and of the autoencoder, on held-out compositions, how far reconstructions are off, in levels (root mean square).
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import score_sde
from benchmarks.glyphs import chosen
from score_sde.common import distributed
from score_sde.data.captions import CAPTION
from score_sde.data.words import Part
from score_sde.evaluation.samples.distances import classifier_two_sample_test
from score_sde.evaluation.samples.features import random_features
from score_sde.experiment import load
from score_sde.experiment.run import Run
from score_sde.experiment.training import train
from score_sde.training import checkpoint

# The part of the seconds that the autoencoder has.
SHARE = 1 / 3
GUIDANCE, NUM_STEPS = 2.0, 10
_NUM_HELD_OUT = 400
_AT_ONCE = {"sampling.batch_size": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/latents"))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, count = arguments.workdir, arguments.samples
    found = [of_seed(seed, arguments.seconds, folder / str(seed), count) for seed in arguments.seeds]
    print("\n| model | two-sample test | retrieval, seen | retrieval, held out | arithmetic, 10^9 | seconds a sample |")
    print("|---|---|---|---|---|---|")
    for name in ("latent", "pixel"):
        values = np.array([each[name] for each in found])
        print(f"| {name} | {' | '.join(spread(column) for column in values.T)} |", flush=True)
    errors = np.array([each["autoencoder"] for each in found])
    print(f"\nReconstructions of held-out compositions are off by {spread(errors)} levels.")


def of_seed(seed: int, seconds: float, folder: Path, count: int) -> dict[str, list[float]]:
    """Train the three runs of a seed, and return what is measured of each, by name."""
    autoencoder = {"data.autoencoder": str(folder / "autoencoder")}
    jobs: dict[str, tuple[str, float, dict[str, Any]]] = {
        "autoencoder": ("autoencoders/glyphs", SHARE * seconds, {}),
        "latent": ("autoencoders/latent_glyphs", (1 - SHARE) * seconds, autoencoder),
        "pixel": ("vp/glyphs", seconds, {"data.image_size": 32}),
    }
    for name, (config, share, settings) in jobs.items():
        train_for(config, share, folder / name, settings | {"seed": seed})
    latent, pixel = (score_sde.load(folder / name, settings=_AT_ONCE) for name in ("latent", "pixel"))
    found = {"latent": measured(latent, count), "pixel": measured(pixel, count), "autoencoder": [off_by(latent)]}
    print(f"seed {seed}: {found}", flush=True)
    return found


def off_by(run: Run) -> float:
    """Return how far reconstructions of held-out examples are off by the autoencoder of a run, in levels."""
    examples = run.dataset.test
    found = run.dataset.units.decode(run.dataset.units.encode(examples))
    return (found.double() - examples.double()).square().mean().sqrt().item()


def spread(values: np.ndarray) -> str:
    """Return mean, least and largest of values of several seeds as the cell of a table."""
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def train_for(config: str, seconds: float, folder: Path, settings: dict[str, Any]) -> None:
    """Train a run for about so many seconds, unless it is there."""
    if checkpoint.latest(folder / "checkpoints") is not None and (folder / "metrics.png").exists():
        return
    every = ("log", "evaluate", "measure", "sample", "checkpoint")
    quiet = {f"training.{name}_every": 0 for name in every}
    with tempfile.TemporaryDirectory() as temporary:

        def seconds_of(count: int) -> float:
            """Train so many steps, and return the seconds."""
            overrides = [(key, str(value)) for key, value in (settings | quiet | {"training.num_steps": count}).items()]
            experiment = load.to_train(config, Path(temporary, str(next(numbers))), overrides)
            begun = _clock()
            train(experiment)
            return _clock() - begun

        numbers = itertools.count()
        # The first run imports and warms up; then so many steps that what comes before them is little of the time.
        seconds_of(2)
        least, timed = seconds_of(2), 8
        while (taken := seconds_of(2 + timed)) < 4 * least:
            timed *= 2
    steps = math.ceil(seconds * timed / (taken - least))
    few = {"training.evaluate_every": 0, "training.sample_every": 0, "training.num_steps": steps}
    overrides = [(key, str(value)) for key, value in (settings | few).items()]
    experiment = load.to_train(config, folder, overrides)
    begun = _clock()
    train(experiment)
    print(f"{folder}: {steps} steps in {_clock() - begun:.0f} s", flush=True)


def measured(run: Run, count: int) -> list[float]:
    """Return a run's measures, in the order of the table."""
    renderings = torch.cat([chosen(run, part, 10**9)[0] for part in ("train", "test")])
    shares = []
    parts: tuple[tuple[Part, int], ...] = (("train", count), ("test", min(count, _NUM_HELD_OUT)))
    for part, number in parts:
        pictures, captions = chosen(run, part, number)
        begun = _clock()
        samples = _samples(run, captions)
        if part == "train":
            seconds = (_clock() - begun) / len(captions)
            features = random_features(renderings.double())
            test = classifier_two_sample_test(features(samples.double()), features(pictures.double()))
        nearest = torch.cdist(_rows(samples), _rows(renderings)).argmin(1)
        shares.append((renderings[nearest] == pictures).flatten(1).all(1).double().mean().item())
    giga = arithmetic(run, captions[0]) / 1e9
    return [test.value, *shares, giga, seconds]


def arithmetic(run: Run, caption: str) -> float:
    """Return the multiplications of one sample, decoding included."""
    with FlopCounterMode(display=False) as counter:
        _samples(run, [caption])
    return counter.get_total_flops() / 2


def _clock() -> float:
    """Return seconds of the processor, or, where a GPU computes, seconds as they pass."""
    return time.perf_counter() if distributed.device().type == "cuda" else time.process_time()


def _samples(run: Run, captions: list[str]) -> Tensor:
    options: dict[str, Any] = {"guidance": GUIDANCE, "num_steps": NUM_STEPS, "seed": 0}
    return torch.from_numpy(np.asarray(run.sample(condition={CAPTION: captions}, **options)))


def _rows(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).float() / 255


if __name__ == "__main__":
    main()
