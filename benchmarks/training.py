"""What training costs beside the network: `python -m benchmarks.training`.

For each shape (`digits`, the default job; `cifar10`, DDPM++ of the CIFAR-10 configurations on random pictures), printed
are images per second

    plain loop    the network, the objective, clipping and the optimiser, on batches that lie ready: no data, moving
                  average, log or checkpoint
    trainer       `training.trainer.Trainer` as `--mode train` runs it, logging every 100 steps; but for what it does
                  once, at the end

which take turns for `--rounds` rounds of `--steps` steps; the overhead is the median over rounds of the ratio of their
times. Then what its parts take alone, in percent of a step: making a batch, the moving average, clipping; and the
images per second that batches could be made at. On a GPU, also eager against compiled, and the share of peak.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import median

import torch
from ml_collections import ConfigDict

from score_sde.common import distributed
from score_sde.common.noise import BatchNoise
from score_sde.data import Batches, Bins, Dataset
from score_sde.experiment import build, configuration
from score_sde.experiment.objectives import make_objective
from score_sde.training.logs import Log
from score_sde.training.loss_by_noise import LossByNoise
from score_sde.training.optimization import make_optimizer
from score_sde.training.precision import image_layout, training_precision
from score_sde.training.trainer import Trainer

_WARM_UP = 3
_NUM_READY = 100


def digits_shape() -> tuple[ConfigDict, Dataset]:
    """Return configuration and data of the default job, the digits."""
    config = configuration.load_file("configs/vp/digits.py")
    return config, build.make_dataset(config)


def cifar10_shape(channels: int, batch_size: int) -> tuple[ConfigDict, Dataset]:
    """Return configuration and data of CIFAR-10's DDPM++, on pictures that are noise."""
    config = configuration.load_file("configs/vp/cifar10_ddpmpp_continuous.py")
    config.model.channels = channels
    config.training.batch_size = batch_size
    pictures = torch.randint(256, (2000, 3, 32, 32), dtype=torch.uint8)
    return config, Dataset("random pictures", pictures, pictures[:0], Bins(256))


class Contest:
    """A trainer and a plain loop compete on the same network, each doing some steps at a time."""

    def __init__(self, config: ConfigDict, dataset: Dataset, folder: Path) -> None:
        config.training.update(checkpoint_every=0, evaluate_every=0, sample_every=0, log_every=100, num_steps=10**9)
        # One learning rate for both: in a warm-up weights hardly move, and the optimiser's numbers are so small that
        # they slow it down.
        config.training.update(warmup_steps=0, schedule="constant")
        self.config, device = config, distributed.device()
        self.precision = training_precision(config.training.precision, device)
        layout = image_layout(self.precision, device, config.training.channels_last)
        self.batches = Batches(dataset, config.training.batch_size, 0, None, config.data.distortion, device=device)
        model = build.make_model(config, dataset).to(memory_format=layout)  # type: ignore[call-overload]
        self.objective = make_objective(config, model.sde)
        if config.training.compile:
            model.network.compile()
        means = LossByNoise(model.sde, config.training.t_min)
        self.trainer = Trainer(model, self.objective, self.batches, None, config, folder, means=means)
        self.model = build.make_model(config, dataset).to(device, memory_format=layout)  # type: ignore[call-overload]
        self.parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.parameters, config.training)
        self.ready = cycle([next(self.batches) for _ in range(_NUM_READY)])
        self.model.train()
        if config.training.compile:
            self.model.network.compile()

    def plain(self, steps: int) -> None:
        """Do steps of the plain loop."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            batch = next(self.ready)
            reduced = self.precision != torch.float32
            with torch.autocast(batch.x_0.device.type, self.precision if reduced else None, enabled=reduced):
                loss = self.objective(self.model, batch, BatchNoise(len(batch))).values.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.training.max_grad_norm)
            self.optimizer.step()

    def train(self, steps: int) -> None:
        """Do steps of the trainer, without what it does once, at the end: a checkpoint and a picture of the curves."""
        self.trainer._config.num_steps = self.trainer.step + steps
        self.trainer._save = lambda due: None  # type: ignore[method-assign]
        Log._draw_curves = lambda self: None  # type: ignore[method-assign]
        self.trainer.train()

    def parts(self) -> dict[str, float]:
        """Return the seconds that parts of a trainer's step take alone."""
        return {
            "batch": seconds(lambda: next(self.batches)),
            "moving average": seconds(lambda: self.trainer.ema.update(self.trainer.model)),
            "gradient's norm": seconds(lambda: torch.nn.utils.get_total_norm([p.grad for p in self.parameters])),
        }


def seconds(work: Callable[[], object], repeats: int = 30) -> float:
    """Return the median time of some work."""
    taken = []
    for _ in range(repeats):
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - started)
    return median(taken)


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="digits,cifar10")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--channels", type=int, default=64, help="of cifar10; the configurations have 128")
    parser.add_argument("--batch", type=int, default=8, help="of cifar10; the configurations have 128")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()

    print(f"{distributed.device()}, {torch.get_num_threads()} threads, medians of {arguments.rounds} rounds of "
          f"{arguments.steps} steps\n")  # fmt: skip
    print(
        "| shape | plain loop, images/s | trainer, images/s | overhead | batch | average | norm "
        "| batches alone, images/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for shape in arguments.shapes.split(","):
        config, dataset = digits_shape() if shape == "digits" else cifar10_shape(arguments.channels, arguments.batch)
        config.training.compile = arguments.compile
        size = config.training.batch_size
        with tempfile.TemporaryDirectory() as folder:
            contest = Contest(config, dataset, Path(folder))
            times: dict[str, list[float]] = {"plain": [], "trainer": []}
            contest.plain(_WARM_UP)
            contest.train(_WARM_UP)
            for _ in range(arguments.rounds):
                for name, loop in (("plain", contest.plain), ("trainer", contest.train)):
                    times[name].append(seconds(lambda loop=loop: loop(arguments.steps), 1) / arguments.steps)  # type: ignore[misc]
            ratios = [ours / plain for ours, plain in zip(times["trainer"], times["plain"], strict=True)]
            parts = contest.parts()
        step = median(times["trainer"])
        shares = " | ".join(f"{100 * value / step:.1f}%" for value in parts.values())
        print(
            f"| {shape}, {size} | {size / median(times['plain']):.1f} | {size / step:.1f} | "
            f"{100 * (median(ratios) - 1):+.1f}% | {shares} | {size / parts['batch']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
