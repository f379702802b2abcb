"""Training: steps of an optimiser on batches, with what a long run needs around them.

The randomness of a step (its batch, its noise, its dropout) is a function of the seed and the step's number alone. So a
checkpoint holds no generator's state, and a run that was killed and resumed is the run that was not, bit for bit. Times
and noise are those of the whole batch, of which each process takes its rows: but for dropout and rounding, several
processes train as one.
"""

from __future__ import annotations

import copy
import math
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from tqdm import tqdm

from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import Stopped, UserError
from score_sde.common.interruption import note_signals
from score_sde.common.noise import BatchNoise
from score_sde.common.weight_files import check_weights
from score_sde.data import Batches
from score_sde.models import EMA, NoisyClassifier, QuantisedModel, ScoreModel
from score_sde.training.logs import LevelLosses, Log
from score_sde.training.objectives import Losses
from score_sde.training.optimization import learning_rate, make_optimizer
from score_sde.training.precision import training_precision
from training import checkpoint, parallel

TrainedModel = ScoreModel | QuantisedModel | NoisyClassifier

# Called as objective(model, x_0, noise, condition), with data `(B, *dims)` in model units.
Objective = Callable[[Any, Tensor, BatchNoise, Condition | None], Losses]

# The held-out loss is the mean over this many draws of noise, the same each time.
_HELD_OUT_REPEATS = 4
_PURPOSES = {"training": 0, "held-out": 1}
# A loss so many times the largest of the last steps is worth a word.
_SPIKE, _REMEMBERED = 5.0, 100


class LossOf(nn.Module):
    """A model's losses as a module, which is what can be replicated."""

    def __init__(self, model: TrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, x_0: Tensor, noise: BatchNoise, condition: Condition | None) -> Losses:
        return self.objective(self.model, x_0, noise, condition)


class Trainer:
    """Trains a score model, and its moving average, in a folder that holds checkpoints and logs.

    Begins where the newest checkpoint of the folder ends, if there is one.

    Args:
        model: trained in place.
        objective: the loss; see `Objective`.
        batches: training batches, of which this process has its rows.
        held_out: held-out examples `(N, *dims)` in model units; N may be 0.
        config: the whole configuration; `training` and `seed` are used, all of it is kept in checkpoints.
        folder: of the run.
        draw: draws samples from a model for the log, to be looked at (see `Log.samples`); none are drawn if left out.
        measure: measures a model for the log, numbers by name; nothing is measured if left out.
        held_out_condition: what the network is told of the held-out examples; nothing if left out.

    Attributes:
        step: training steps done.
        model: the model being trained.
        ema: its moving average.
        averages: this one, and those of other lengths.
    """

    def __init__(
        self,
        model: TrainedModel,
        objective: Objective,
        batches: Batches,
        held_out: Tensor,
        config: ConfigDict,
        folder: Path,
        draw: Callable[[Any], np.ndarray] | None = None,
        measure: Callable[[Any], dict[str, float]] | None = None,
        held_out_condition: Condition | None = None,
    ) -> None:
        self.step = 0
        self._whole_config = config
        self._config = config.training
        # A copy to sample from, where the average is sharded.
        self._plain = copy.deepcopy(model).eval().requires_grad_(False) if self._config.shard else None
        self.model = model if self._config.shard else model.to(distributed.device())
        decays = (self._config.ema_decay, *self._config.more_ema_decays)
        self.averages = [EMA(self.model, decay) for decay in decays]
        self.ema = self.averages[0]
        if self._config.shard:
            models = (self.model, *(average.model for average in self.averages))
            parallel.shard(*(each.network for each in models))
            for each in models:
                each.to(distributed.device())
        loss = LossOf(self.model, objective)
        self._loss = loss if self._config.shard else parallel.replicate(loss)
        self._objective = objective
        self._parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self._parameters, config.training)
        self._batches = batches
        self._held_out = held_out.to(distributed.device())
        self._held_out_condition = None if held_out_condition is None else held_out_condition.to(distributed.device())
        self._precision = training_precision(self._config.precision, distributed.device())
        # Of the steps since the last line of the log.
        self._losses: list[float] = []
        self._seconds = 0.0
        self._level_losses = LevelLosses(model.sde, self._config.t_min, distributed.device())
        self._folder = folder
        self._checkpoints = folder / "checkpoints"
        self._draw, self._measure = draw, measure
        newest = checkpoint.latest(self._checkpoints)
        if newest is not None:
            self._restore(_load(newest), str(newest))
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
        log = Log(self._folder, self.step) if distributed.rank() == 0 else None
        try:
            with note_signals() as received, self._progress_bar() as bar:
                self._loop(log, received, bar)
        finally:
            if log is not None:
                log.close()

    def averaged_model(self) -> TrainedModel:
        """The moving average, all of it, ready to sample from; every process must ask."""
        if self._plain is None:
            return self.ema.model
        [weights] = distributed.broadcast([parallel.whole_weights(self.ema.model.network)])
        self._plain.network.load_state_dict(weights)
        return self._plain.to(distributed.device())

    def held_out_loss(self) -> float:
        """Mean loss of the moving average over the held-out examples, on noise that is the same each time."""
        total, generator, model = 0.0, self._generator("held-out", 0), self.averaged_model()
        with torch.no_grad(), self._autocast():
            for _ in range(_HELD_OUT_REPEATS):
                for rows in torch.arange(len(self._held_out)).split(self._config.batch_size):
                    condition = None if self._held_out_condition is None else self._held_out_condition[rows]
                    losses = self._objective(model, self._held_out[rows], BatchNoise(len(rows), generator), condition)
                    total += losses.values.double().sum().item()
        return total / (_HELD_OUT_REPEATS * len(self._held_out))

    def _loop(self, log: Log | None, received: list[int], bar: tqdm) -> None:
        config = self._config
        recent: deque[float] = deque(maxlen=_REMEMBERED)
        while self.step < config.num_steps:
            started = time.perf_counter()
            loss, stop = self._train_step(received)
            self._seconds += time.perf_counter() - started
            if config.log_every:
                self._losses.append(loss)
            bar.update()
            if len(recent) == _REMEMBERED and loss > _SPIKE * max(recent) and log is not None:
                bar.write(
                    f"note: step {self.step}: the loss is {loss:.3g}; the last {_REMEMBERED} were below "
                    f"{max(recent):.3g}",
                    file=sys.stderr,
                )
            recent.append(loss)
            if self._due(config.log_every):
                speed = len(self._losses) * config.batch_size / self._seconds
                mean_loss = float(np.mean(self._losses))
                values = {"loss": mean_loss, f"{self._unit}_per_second": speed, "learning_rate": self._learning_rate}
                values |= self._level_losses.take()
                state = f"loss {mean_loss:.4f}, {speed:.0f} {self._unit}/s, {peak_memory():.2g} GB"
                bar.set_postfix_str(state)
                if bar.disable and log is not None:
                    # No terminal: a line now and then.
                    left = (config.num_steps - self.step) * config.batch_size / speed
                    print(f"step {self.step} of {config.num_steps}: {state}, {left:.0f} s left", flush=True)
                self._losses, self._seconds = [], 0.0
                if log is not None:
                    log.scalars(self.step, values)
            self._watch(log, loss, bar)
            if self._due(config.checkpoint_every) or stop or self.step == config.num_steps:
                self._save(log)
            if stop and self.step < config.num_steps:
                raise Stopped(
                    f"stopped after step {self.step}, which is saved; to go on: "
                    f"python main.py --mode train --workdir {self._folder}",
                    received[0] if received else signal.SIGTERM,
                )

    def _watch(self, log: Log | None, loss: float, bar: tqdm) -> None:
        """Evaluate, where that is due, by all processes."""
        values = {}
        if self._due(self._config.evaluate_every) and len(self._held_out):
            values["held_out_loss"] = self.held_out_loss()
        if self._due(self._config.measure_every) and self._measure is not None:
            values |= self._measure(self.averaged_model())
        if self._due(self._config.evaluate_every) or values:
            numbers = {"loss": loss} | values
            if log is not None:
                bar.write(
                    f"step {self.step}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in numbers.items())
                )
                log.scalars(self.step, values)
        if self._due(self._config.sample_every) and self._draw is not None:
            samples = self._draw(self.averaged_model())
            if log is not None:
                log.samples(self.step, samples)

    def _train_step(self, received: list[int]) -> tuple[float, bool]:
        """One step; returns its loss, and whether any of the processes has `received` a signal."""
        self._batches.step = self.step
        batch = next(self._batches)
        self._learning_rate = learning_rate(self.step, self._config)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate
        self.optimizer.zero_grad()
        torch.manual_seed(self._seeds("training", self.step, distributed.rank())[1])
        parts = self._config.accumulation
        loss = torch.zeros((), device=distributed.device())
        for part in range(parts):
            own = slice(part, None, parts)
            generator = self._generator("training", self.step)
            noise = BatchNoise(self._config.batch_size, generator, distributed.rows(part, parts))
            condition = None if batch.condition is None else batch.condition[own]
            with parallel.unsynchronised(self._loss, self.model.network, last=part + 1 == parts):
                with self._autocast():
                    losses = self._loss(batch.x_0[own], noise, condition)
                    share = losses.values.mean() / parts
                share.backward()
            loss += share.detach()
            self._level_losses.add(losses)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = parallel.whole(torch.nn.utils.get_total_norm(gradients))
        report = torch.stack([loss, norm, torch.full_like(norm, len(received))])
        loss_value, norm_value, stopping = distributed.mean(report).tolist()
        for name, value in {"loss": loss_value, "gradient": norm_value}.items():
            if not math.isfinite(value):
                raise UserError(self._divergence(name, value))
        limit = self._config.max_grad_norm or math.inf
        if norm_value > limit:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, norm)
        self.optimizer.step()
        for average in self.averages:
            average.update(self.model)
        self.step += 1
        return loss_value, stopping > 0

    def _save(self, log: Log | None) -> None:
        state = {
            "config": self._whole_config.to_dict(),
            "data": self._batches.dataset.description,
            "step": self.step,
            "network": parallel.whole_weights(self.model.network),
            "ema": parallel.whole_weights(self.ema.model.network),
            "more_ema": {average.decay: parallel.whole_weights(average.model.network) for average in self.averages[1:]},
            "ema_updates": self.ema.num_updates,
            "optimizer": parallel.whole_optimizer(self.model.network, self.optimizer),
            "unlogged": {
                "losses": torch.tensor(self._losses, dtype=torch.float64),
                "level_losses": self._level_losses.sums().cpu(),
                "seconds": self._seconds,
            },
        }
        if log is not None:
            log.flush()
            path = checkpoint.path_at(self._checkpoints, self.step)
            checkpoint.save(state, path)
            checkpoint.save_weights(state["ema"], state["config"], path.with_suffix(".safetensors"), state["data"])
            checkpoint.clear(self._checkpoints, self._config.keep_checkpoints, self._config.keep_every)
        distributed.barrier()

    def _restore(self, state: dict[str, Any], where: str) -> None:
        if state.get("data"):
            self._batches.dataset.check_like(state["data"], "class" in self._batches.conditions, where)
        saved, more = [state["network"], state["ema"]], state.get("more_ema", {})
        for average in self.averages[1:]:
            if average.decay not in more:
                raise UserError(
                    f"{where} has no average with training.more_ema_decays={average.decay:g}: its runs had "
                    f"{', '.join(map(str, more)) or 'none'}"
                )
            saved.append(more[average.decay])
        for model, weights in zip((self.model, *(each.model for each in self.averages)), saved, strict=True):
            check_weights(model.network, weights, where)
            parallel.load_whole_weights(model.network, weights)
        for average in self.averages:
            average.num_updates = state["ema_updates"]
        parallel.load_whole_optimizer(self.model.network, self.optimizer, state["optimizer"])
        self.step = state["step"]
        # Checkpoints of earlier versions have none.
        if "unlogged" in state:
            unlogged = state["unlogged"]
            self._losses, self._seconds = unlogged["losses"].tolist(), unlogged["seconds"]
            self._level_losses.restore(unlogged["level_losses"])

    def _generator(self, purpose: Literal["training", "held-out"], step: int) -> torch.Generator:
        """The generator for the noise of a step, the same for all processes."""
        return torch.Generator(distributed.device()).manual_seed(self._seeds(purpose, step, 0)[0])

    def _seeds(self, purpose: Literal["training", "held-out"], step: int, rank: int) -> tuple[int, int]:
        """Of the noise of a step, and of its dropout, for which torch's own generator is used."""
        entropy = [self._whole_config.seed, _PURPOSES[purpose], step, rank]
        noise_seed, dropout_seed = np.random.SeedSequence(entropy).generate_state(2, np.uint64).tolist()
        return noise_seed >> 1, dropout_seed >> 1

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


def _load(newest: Path) -> dict[str, Any]:
    try:
        return checkpoint.load(newest)
    except UserError as error:
        older = len(list(newest.parent.glob("step_*.pt"))) > 1
        raise UserError(f"{error}; remove it to go on from the one before" if older else str(error)) from error


def peak_memory() -> float:
    """The most memory this process has used so far, of its GPU if it has one, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
