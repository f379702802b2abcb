"""Training: steps of an optimiser on batches, with what a long run needs around them.

The randomness of a step (its batch, its noise, its dropout) is a function of the seed and the step's number alone. So a
checkpoint holds no generator's state, and a run that was killed and resumed is the run that was not, bit for bit.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor
from tqdm import tqdm

import distributed
from data import Batches
from errors import Stopped, UserError
from models import EMA, LevelModel, ScoreModel
from training import checkpoint
from training.interruption import note_signals
from training.logs import Log
from training.optimization import learning_rate, make_optimizer
from training.precision import training_precision

TrainedModel = ScoreModel | LevelModel

# Called as objective(model, x_0, generator, classes), with data `(B, *dims)` in model units; returns losses `(B,)`.
Objective = Callable[[TrainedModel, Tensor, torch.Generator, Tensor | None], Tensor]

# The held-out loss is the mean over this many draws of noise, the same each time.
_HELD_OUT_REPEATS = 4
_PURPOSES = {"training": 0, "held-out": 1}


class Trainer:
    """Trains a score model, and its moving average, in a folder that holds `checkpoints/` and `logs/`.

    Begins where the newest checkpoint of the folder ends, if there is one.

    Args:
        model: trained in place.
        objective: the loss; see `Objective`.
        batches: training batches; divided among processes, if there are several.
        held_out: held-out examples `(N, *dims)` in model units; N may be 0.
        config: the whole configuration; `training` and `seed` are used, all of it is kept in checkpoints.
        folder: of the run.
        draw: draws samples from a model for the log, to be looked at (see `Log.samples`); none are drawn if left out.

    Attributes:
        step: training steps done.
        model: the model being trained.
        ema: its moving average.
    """

    def __init__(
        self,
        model: TrainedModel,
        objective: Objective,
        batches: Batches,
        held_out: Tensor,
        config: ConfigDict,
        folder: Path,
        draw: Callable[[TrainedModel], np.ndarray] | None = None,
    ) -> None:
        if config.training.batch_size % distributed.world_size():
            raise UserError(
                f"training.batch_size={config.training.batch_size} cannot be divided among "
                f"{distributed.world_size()} processes"
            )
        self.step = 0
        self.model = model.to(distributed.device())
        self.ema = EMA(self.model, config.training.ema_decay)
        self.optimizer = make_optimizer(self.model.parameters(), config.training)
        self._objective = objective
        self._batches = batches
        self._held_out = held_out.to(distributed.device())
        self._whole_config = config
        self._config = config.training
        self._precision = training_precision(self._config.precision, distributed.device())
        self._folder = folder
        self._checkpoints = folder / "checkpoints"
        self._draw = draw
        newest = checkpoint.latest(self._checkpoints)
        if newest is not None:
            self._restore(checkpoint.load(newest), str(newest))
        self._learning_rate = learning_rate(self.step, self._config)

    def run(self) -> None:
        """Train until `training.num_steps` steps are done.

        Raises:
            UserError: the loss is not finite, or a file cannot be written.
            Stopped: a signal (Ctrl-C, SIGTERM) came; a checkpoint has been saved.
        """
        if self._config.compile:
            self.model.network.compile()
        self.model.train()
        log = Log(self._folder / "logs", self.step) if distributed.rank() == 0 else None
        try:
            with note_signals() as received, self._progress_bar() as bar:
                self._loop(log, received, bar)
        finally:
            if log is not None:
                log.close()

    def held_out_loss(self) -> float:
        """Mean loss of the moving average over the held-out examples, on noise that is the same each time."""
        total, generator = 0.0, self._generator("held-out", 0)
        with torch.no_grad(), self._autocast():
            for _ in range(_HELD_OUT_REPEATS):
                for x_0 in self._held_out.split(self._config.batch_size):
                    total += self._objective(self.ema.model, x_0, generator, None).double().sum().item()
        return total / (_HELD_OUT_REPEATS * len(self._held_out))

    def _evaluate(self, log: Log, loss: float) -> str:
        if len(self._held_out) == 0:
            return f"loss {loss:.4f}"
        held_out = self.held_out_loss()
        log.scalars(self.step, {"held_out_loss": held_out})
        return f"loss {loss:.4f}, held-out loss {held_out:.4f}"

    def _loop(self, log: Log | None, received: list[int], bar: tqdm) -> None:
        config = self._config
        losses: list[float] = []
        seconds = 0.0
        while self.step < config.num_steps:
            started = time.perf_counter()
            loss, stop = self._train_step(received)
            seconds += time.perf_counter() - started
            losses.append(loss)
            bar.update()
            if self._due(config.log_every) and log is not None:
                speed, mean_loss = len(losses) * config.batch_size / seconds, float(np.mean(losses))
                bar.set_postfix_str(f"loss {mean_loss:.4f}, {speed:.0f} {self._unit}/s")
                values = {"loss": mean_loss, f"{self._unit}_per_second": speed, "learning_rate": self._learning_rate}
                log.scalars(self.step, values)
                losses, seconds = [], 0.0
            if self._due(config.evaluate_every) and log is not None:
                bar.write(f"step {self.step}: {self._evaluate(log, loss)}")
            if self._due(config.sample_every) and log is not None and self._draw is not None:
                log.samples(self.step, self._draw(self.ema.model))
            if self._due(config.checkpoint_every) or stop or self.step == config.num_steps:
                self._save(log)
            if stop and self.step < config.num_steps:
                raise Stopped(
                    f"stopped after step {self.step}, which is saved; to go on: "
                    f"python main.py --mode train --workdir {self._folder}",
                    received[0] if received else signal.SIGTERM,
                )

    def _train_step(self, received: list[int]) -> tuple[float, bool]:
        """One step; returns its loss, and whether any of the processes has `received` a signal."""
        self._batches.step = self.step
        batch = next(self._batches)
        x_0 = self._own(batch.x_0)
        classes = None if batch.classes is None else self._own(batch.classes)
        self._learning_rate = learning_rate(self.step, self._config)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate
        self.optimizer.zero_grad()
        generator = self._generator("training", self.step)
        with self._autocast():
            loss = self._objective(self.model, x_0, generator, classes).mean()
        loss.backward()
        distributed.average_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm or math.inf)
        report = torch.stack([loss.detach(), norm, torch.full_like(norm, len(received))])
        loss_value, norm_value, stopping = distributed.mean(report).tolist()
        for name, value in {"loss": loss_value, "gradient": norm_value}.items():
            if not math.isfinite(value):
                raise UserError(self._divergence(name, value))
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        return loss_value, stopping > 0

    def _own(self, batch: Tensor) -> Tensor:
        """This process's part of a batch, on its device."""
        return batch[distributed.rank() :: distributed.world_size()].to(distributed.device())

    def _save(self, log: Log | None) -> None:
        if log is not None:
            log.flush()
            state = {
                "config": self._whole_config.to_dict(),
                "step": self.step,
                "network": self.model.network.state_dict(),
                "ema": self.ema.model.network.state_dict(),
                "ema_updates": self.ema.num_updates,
                "optimizer": self.optimizer.state_dict(),
            }
            checkpoint.save(state, checkpoint.path_at(self._checkpoints, self.step))
            checkpoint.keep_newest(self._checkpoints, self._config.keep_checkpoints)
        distributed.barrier()

    def _restore(self, state: dict[str, Any], where: str) -> None:
        checkpoint.load_weights(self.model.network, state["network"], where)
        checkpoint.load_weights(self.ema.model.network, state["ema"], where)
        self.ema.num_updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _generator(self, purpose: Literal["training", "held-out"], step: int) -> torch.Generator:
        """The generator for the noise of a step; torch's own, from which dropout draws, is seeded alike."""
        entropy = [self._whole_config.seed, _PURPOSES[purpose], step, distributed.rank()]
        noise_seed, dropout_seed = np.random.SeedSequence(entropy).generate_state(2, np.uint64).tolist()
        torch.manual_seed(dropout_seed >> 1)
        return torch.Generator().manual_seed(noise_seed >> 1)

    def _autocast(self) -> torch.autocast:
        reduced = self._precision != torch.float32
        return torch.autocast(distributed.device().type, self._precision if reduced else None, enabled=reduced)

    def _due(self, every: int) -> bool:
        """Whether something done every so many steps (never, for 0) is due now; it is at the end, too."""
        return every > 0 and (self.step % every == 0 or self.step == self._config.num_steps)

    @property
    def _unit(self) -> str:
        return "images" if self._batches.dataset.is_image else "points"

    def _progress_bar(self) -> tqdm:
        # None: shown on a terminal only.
        hidden = None if distributed.rank() == 0 else True
        return tqdm(total=self._config.num_steps, initial=self.step, unit="step", dynamic_ncols=True, disable=hidden)

    def _divergence(self, name: str, value: float) -> str:
        newest = checkpoint.latest(self._checkpoints)
        kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
        return (
            f"the {name} is {value} at step {self.step + 1}, so training stopped; {kept}; go on with a lower "
            f"--config.training.learning_rate than {self._config.learning_rate:g}"
        )
