"""Training: steps of an optimiser on batches, with what a long run needs around them.

Any module is trained by any objective, a function that makes losses of a module, a batch and noise; nothing is known of
either. All of the module is trained, averaged and kept in checkpoints, whatever it consists of.

The randomness of a step (its batch, its noise, its dropout) is a function of the seed and the step's number alone. So a
checkpoint holds no generator's state, and a run that was killed and resumed is the run that was not, bit for bit. Times
and noise are those of the whole batch, of which each process takes its rows: but for dropout and rounding, several
processes train as one.

The model whose moving average has the lowest held-out loss so far is kept beside the newest ones, and training ends
before its last step where that loss has not fallen for `training.patience` measurements.

What a step came to is read a few steps late (see `training.late`), and all of it before anything is kept. A step whose
loss or gradient is not finite changes nothing; what was done after it is never kept.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from score_sde.common import distributed
from score_sde.common.errors import Stopped, UserError
from score_sde.common.interruption import note_signals
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.models import EMA
from score_sde.training import checkpoint, parallel
from score_sde.training.best import Best
from score_sde.training.journal import Journal
from score_sde.training.late import LateReader
from score_sde.training.logs import Preview
from score_sde.training.loss_means import LossMeans
from score_sde.training.objectives import LearningObjective, Losses
from score_sde.training.optimization import clip, learning_rate, make_optimizer, step_if
from score_sde.training.precision import training_precision
from score_sde.training.randomness import noise_generator, seed_dropout
from score_sde.training.snapshot import restore, snapshot

_Model = TypeVar("_Model", bound=nn.Module)

# The held-out loss is a mean over this many draws of noise, the same each time.
_HELD_OUT_REPEATS = 4


class Batches(Protocol):
    """Batches are drawn without end, number `step` next; `data.Batches` does so."""

    step: int

    def __next__(self) -> Batch:
        """Draw the next batch."""


class Trainer(Generic[_Model]):
    """A model is trained, with its moving averages, in a folder that holds checkpoints and logs.

    It begins where the newest checkpoint of the folder ends, if there is one.

    Args:
        model: what is trained: all of its parameters that want gradients.
        objective: called as `objective(model, batch, noise)`; returns a loss for each example.
        batches: this process's rows of batches of `training.batch_size`.
        held_out: examples for the held-out loss, if any.
        config: the section `training` and the `seed` are used, and all is kept in checkpoints.
        folder: folder of the run.
        means: what tells losses apart, by noise or by term, beside the loss.
        draw: a function that draws samples of a model, to be looked at.
        measure: a function that measures a model.
        data: what the data are, in plain values, for checkpoints.
        check_data: a function called with what a checkpoint says of its data, and its name, before going on from it;
            it complains of other data.
        unit: what examples are called.
        device: where training is done; this process's own if left out.

    Attributes:
        step: number of training steps done.
        model: the model being trained.
        ema: the moving average of the model.
        averages: `ema`, and the averages of other lengths.
        optimizer: the optimiser.
        best: the lowest held-out loss so far.
    """

    def __init__(
        self,
        model: _Model,
        objective: Callable[[Any, Batch, BatchNoise], Losses],
        batches: Batches,
        held_out: Batch | None,
        config: ConfigDict,
        folder: Path,
        *,
        means: LossMeans | None = None,
        draw: Callable[[Any], Preview] | None = None,
        measure: Callable[[Any], dict[str, float]] | None = None,
        data: Mapping[str, Any] | None = None,
        check_data: Callable[[Mapping[str, Any], str], None] | None = None,
        unit: str = "examples",
        device: torch.device | None = None,
    ) -> None:
        self.step, self.best = 0, Best()
        self._whole_config, self._config = config, config.training
        self._objective, self._batches = objective, batches
        self._learner = objective if isinstance(objective, LearningObjective) and objective.state() else None
        self._draw, self._measure = draw, measure
        self._data, self._check_data = data, check_data
        self._folder, self._checkpoints = folder, folder / "checkpoints"
        self._device = distributed.device() if device is None else device
        self._precision = training_precision(self._config.precision, self._device)
        self._held_out = None if held_out is None or not len(held_out) else held_out.to(self._device)
        self._late = LateReader()
        self._means = means
        self._told_of: tuple[str, ...] = ()
        self._journal = Journal(folder, self._config, unit, means)
        # Where the average is divided, samples are drawn from a copy that is whole.
        self._plain = copy.deepcopy(model).eval().requires_grad_(False) if self._config.shard else None
        self.model = model if self._config.shard else model.to(self._device)
        self.averages = [EMA(self.model, decay) for decay in (self._config.ema_decay, *self._config.more_ema_decays)]
        self.ema = self.averages[0]
        self._loss: nn.Module = parallel.LossOf(self.model, objective)
        if self._config.shard:
            modules: list[nn.Module] = [self._loss, *(average.model for average in self.averages)]
            for module in modules:
                parallel.shard(module, self._device)
                module.to(self._device)
        else:
            self._loss = parallel.replicate(self._loss)
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self._parameters, self._config)
        self._resume()
        self._learning_rate = learning_rate(self.step, self._config)

    @property
    def stopped_early(self) -> bool:
        """Training has stopped early if the last `training.patience` held-out losses were not the best."""
        return 0 < self._config.patience <= self.best.since

    @property
    def ended(self) -> bool:
        """Training has ended after `training.num_steps` steps, or early."""
        return self.step >= self._config.num_steps or self.stopped_early

    def train(self) -> None:
        """Train until `training.num_steps` steps are done, or until the held-out loss no longer falls.

        Raises:
            UserError: the loss is not finite, or a file cannot be written.
            Stopped: a signal (Ctrl-C, SIGTERM) came; a checkpoint has been saved.
        """
        alone = distributed.world_size() == 1
        self.model.train()
        with note_signals() as signals, self._journal.opened(self.step):
            while not self.ended:
                started = time.perf_counter()
                self.train_step(signals)
                # What the next step's times are drawn by may not depend on when a number happens to be read.
                stop = self._read(drain=self._is_told() or self._learner is not None) or (alone and bool(signals))
                self._journal.seconds += time.perf_counter() - started
                self._journal.advance()
                if self._due(self._config.log_every):
                    self._journal.line(self.step, self._learning_rate)
                self._look()
                self._save(self._due(self._config.checkpoint_every) or stop or self.ended)
                if stop and not self.ended:
                    raise Stopped(
                        f"stopped after step {self.step}, which is saved; to go on: "
                        f"python main.py --mode train --workdir {self._folder}",
                        signals[0] if signals else signal.SIGTERM,
                    )

    def train_step(self, signals: Sequence[int] = ()) -> None:
        """Tell the device to do a step; what it comes to, and whether there are `signals`, is left to be read."""
        self._batches.step = self.step
        batch = next(self._batches).to(self._device)
        self._learning_rate = learning_rate(self.step, self._config)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate
        self.optimizer.zero_grad()
        loss, losses = self.forward_backward(batch)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = parallel.whole(torch.nn.utils.get_total_norm(gradients))
        numbers = distributed.mean(torch.stack([loss, norm, torch.full_like(norm, len(signals))]))
        clip([parallel.own(gradient) for gradient in gradients], norm, self._config.max_grad_norm)
        step_if(self.optimizer, numbers.isfinite().all())
        for average in self.averages:
            average.update(self.model)
        self.step += 1
        self._told_of = tuple(losses)
        self._late.put(self.step, [numbers, *losses.values()])

    def forward_backward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the gradients of a batch, part by part.

        Returns:
            The mean loss `()`, and, where something is made of them, what there is of `Losses`, by name, each `(B,)`.
        """
        seed, parts = self._whole_config.seed, self._config.accumulation
        seed_dropout(seed, self.step, distributed.rank())
        loss, told = torch.zeros((), device=self._device), list[Losses]()
        for part in range(parts):
            generator = noise_generator(seed, "training", self.step, self._device)
            noise = BatchNoise(self._config.batch_size, generator, distributed.rows(part, parts))
            with parallel.unsynchronised(self._loss, last=part + 1 == parts):
                with self._autocast():
                    losses = self._loss(batch[part::parts], noise)
                    share = losses.values.mean() / parts
                share.backward()
            loss += share.detach()
            told.append(losses)
        if self._means is None and self._learner is None:
            return loss, {}
        there = [name for name, field in told[0]._asdict().items() if field is not None]
        return loss, {name: torch.cat([getattr(losses, name).detach() for losses in told]) for name in there}

    def averaged_model(self) -> _Model:
        """Return the moving average, all of it, ready to sample from; every process must ask."""
        if self._plain is None:
            return self.ema.model
        [state] = distributed.broadcast([parallel.whole_state(self.ema.model)])
        self._plain.load_state_dict(state)
        return self._plain.to(self._device)

    def held_out_loss(self) -> float:
        """Return the mean loss of the average over the held-out examples, on noise that is the same each time."""
        assert self._held_out is not None
        generator = noise_generator(self._whole_config.seed, "held-out", 0, self._device)
        total, model, count, size = 0.0, self.averaged_model(), len(self._held_out), self._config.batch_size
        with torch.no_grad(), self._autocast():
            for _ in range(_HELD_OUT_REPEATS):
                for first in range(0, count, size):
                    part = self._held_out[first : first + size]
                    losses = self._objective(model, part, BatchNoise(len(part), generator))
                    total += losses.values.cpu().double().sum().item()
        return total / (_HELD_OUT_REPEATS * count)

    def _is_told(self) -> bool:
        """Say whether something is told of all steps so far."""
        config = self._config
        return any(map(self._due, (config.log_every, config.evaluate_every, config.measure_every, config.sample_every)))

    def _read(self, drain: bool) -> bool:
        """Read what earlier steps came to, those whose time has come, or `drain`: all.

        Returns:
            Whether a process had a signal by then; all processes read so at the same step.

        Raises:
            UserError: a loss or a gradient was not finite.
        """
        stop = False
        for step, (numbers, *losses) in self._late.take(drain):
            loss, norm, signalled = numbers.tolist()
            for name, value in {"loss": loss, "gradient": norm}.items():
                if not math.isfinite(value):
                    raise UserError(self._divergence(step, name, value))
            told = Losses(**dict(zip(self._told_of, losses, strict=True))) if losses else None
            self._journal.note(step, loss, told if self._means is not None else None)
            if self._learner is not None and told is not None:
                self._learner.learn(told)
            stop = stop or signalled > 0
        return stop

    def _look(self) -> None:
        """Look at the model, where that is due, with all processes: the held-out loss, measures, samples."""
        values = {}
        if self._due(self._config.evaluate_every) and self._held_out is not None:
            # Of several processes the first one's, so that all of them stop, or none.
            [values["held_out_loss"]] = distributed.broadcast([self.held_out_loss()])
            self.best = self.best.after(values["held_out_loss"], self.step)
        if self._due(self._config.measure_every) and self._measure is not None:
            values |= self._measure(self.averaged_model())
        if self._due(self._config.evaluate_every) or values:
            self._journal.measured(self.step, values)
        if self._due(self._config.sample_every) and self._draw is not None:
            self._journal.samples(self.step, self._draw(self.averaged_model()))

    def _save(self, due: bool) -> None:
        """Write a checkpoint where one is due, and the best one where the model is the best so far.

        None is written if the numbers of a step that is still to be read are bad.
        """
        if not due and self.best.step != self.step:
            return
        self._read(drain=True)
        state = {
            "config": self._whole_config.to_dict(),
            "data": None if self._data is None else dict(self._data),
            "step": self.step,
            "best": self.best._asdict(),
            **snapshot(self.model, self.averages, self.optimizer),
            "unlogged": self._journal.unlogged(),
        }
        if self._learner is not None:
            state["objective"] = self._learner.state()
        if distributed.rank() == 0:
            self._journal.flush()
            # The best one comes first: no checkpoint may tell of a best one that is not there.
            if self.best.step == self.step:
                checkpoint.save_both(state, checkpoint.best_in(self._checkpoints))
            if due:
                checkpoint.save_both(state, checkpoint.path_at(self._checkpoints, self.step))
                checkpoint.clear(self._checkpoints, self._config.keep_checkpoints, self._config.keep_every)
        distributed.barrier()

    def _resume(self) -> None:
        """Go on from the newest checkpoint of the folder, if there is one."""
        newest = checkpoint.load_newest(self._checkpoints)
        if newest is None:
            return
        path, state = newest
        if self._check_data is not None and state["data"] is not None:
            self._check_data(state["data"], str(path))
        restore(state, str(path), self.model, self.averages, self.optimizer)
        if self._learner is not None:
            self._learner.restore(state.get("objective", {}))
        elif "objective" in state:
            distributed.note(
                f"what the loss had learnt until step {state['step']}, such as an adversary, is left behind"
            )
        self._journal.restore(state["unlogged"])
        self.step, best = state["step"], Best(**state.get("best", {}))
        # A run that was killed may have replaced the best checkpoint after this one. Then it is found again, or a
        # better one than that which is lost.
        self.best = best if best.step == checkpoint.step_of_best(self._checkpoints) else Best()

    def _autocast(self) -> torch.autocast:
        reduced = self._precision != torch.float32
        return torch.autocast(self._device.type, self._precision if reduced else None, enabled=reduced)

    def _due(self, every: int) -> bool:
        """Say whether something done every so many steps (never, for 0) is due now; it is at the end, too."""
        return every > 0 and (self.step % every == 0 or self.ended)

    def _divergence(self, step: int, name: str, value: float) -> str:
        newest = checkpoint.latest(self._checkpoints)
        kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
        return (
            f"the {name} is {value} at step {step}, so training stopped; {kept}; go on with a lower learning rate than "
            f"{self._config.learning_rate:g}"
        )
