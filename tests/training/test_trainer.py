"""Training: the known optimum is reached, and a run that was stopped is the run that was not."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from score_sde.common.errors import Stopped, UserError
from score_sde.data import Batch, Batches, Bins, Dataset
from score_sde.experiment import configuration
from score_sde.models import MLP, ScoreModel
from score_sde.models.networks.ncsnpp import NCSNpp
from score_sde.sde import VPSDE
from score_sde.training import checkpoint
from score_sde.training.loss_by_noise import LossByNoise
from score_sde.training.objectives import get_objective
from score_sde.training.trainer import Trainer
from tests.reading import table

T_MIN = 1e-3


def settings(**values) -> ConfigDict:
    config = configuration.load_file("configs/default.py")
    config.training.update(num_steps=12, batch_size=16, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)
    config.training.update(t_min=T_MIN, checkpoint_every=4, log_every=2, evaluate_every=6, sample_every=0)
    config.training.update(values)
    return config


def objective(model, batch, noise):
    return get_objective(model.sde, weighting="likelihood", times="log_snr", t_min=T_MIN)(model, batch, noise)


def image_trainer(folder, loss=objective, **values) -> Trainer:
    """A small U-Net with dropout on random pictures."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(4, (50, 1, 4, 4), generator=generator, dtype=torch.uint8)
    dataset = Dataset("pictures", pictures[:40], pictures[40:], Bins(4))
    torch.manual_seed(0)
    network = NCSNpp(4, 1, channels=8, channel_multipliers=(1, 2), num_blocks=1, dropout=0.2)
    config = settings(**values)
    batches = Batches(dataset, config.training.batch_size, config.seed)
    held_out = Batch(dataset.encode(dataset.test, seed=1))
    sde = VPSDE()
    means = LossByNoise(sde, T_MIN)
    return Trainer(ScoreModel(network, sde), loss, batches, held_out, config, folder, means=means, unit="images")


def weights_of(folder, step):
    """Return all that a checkpoint holds, flattened."""
    state = checkpoint.load(checkpoint.path_at(folder / "checkpoints", step))
    optimizer = {f"{i}.{k}": v for i, moments in state["optimizer"]["state"].items() for k, v in moments.items()}
    return {**state["model"], **{f"ema.{k}": v for k, v in state["ema"].items()}, **optimizer}, state["ema_updates"]


def assert_same_checkpoint(folder, other, step):
    (one, one_updates), (two, two_updates) = weights_of(folder, step), weights_of(other, step)
    assert one_updates == two_updates
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def interrupting(after: int, signal_number: int = signal.SIGINT):
    """Return the objective with a signal to this process in the middle of step `after`."""
    calls = 0

    def loss(model, batch, noise):
        nonlocal calls
        if model.training:
            calls += 1
            if calls == after:
                os.kill(os.getpid(), signal_number)
        return objective(model, batch, noise)

    return loss


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run of 12 steps that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    image_trainer(folder, keep_checkpoints=9).train()
    return folder


@pytest.mark.parametrize(("signal_number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_and_goes_on_exactly(straight, tmp_path, signal_number, exit_code):
    with pytest.raises(Stopped, match=r"after step 7, which is saved.*--mode train --workdir") as stopped:
        image_trainer(tmp_path, interrupting(7, signal_number)).train()
    assert stopped.value.exit_code == exit_code
    assert checkpoint.latest(tmp_path / "checkpoints") == checkpoint.path_at(tmp_path / "checkpoints", 7)
    resumed = image_trainer(tmp_path)
    assert resumed.step == 7
    resumed.train()
    assert_same_checkpoint(straight, tmp_path, 12)


def test_a_killed_run_repeats_the_steps_since_its_last_checkpoint(straight, tmp_path):
    class Killed(BaseException):
        pass

    def loss(model, batch, noise):
        if model.training and trainer.step == 10:
            raise Killed
        return objective(model, batch, noise)

    trainer = image_trainer(tmp_path, loss)
    with pytest.raises(Killed):
        trainer.train()
    resumed = image_trainer(tmp_path)
    assert resumed.step == 8
    resumed.train()
    assert_same_checkpoint(straight, tmp_path, 12)
    # Logged once a step, though steps 9 and 10 were done twice; and the same values.
    assert scalars(tmp_path, "loss") == scalars(straight, "loss")
    assert list(scalars(straight, "loss")) == [2, 4, 6, 8, 10, 12]
    assert scalars(tmp_path, "held_out_loss") == scalars(straight, "held_out_loss")


def test_a_killed_runs_table_of_losses_is_that_of_one_that_was_not(tmp_path):
    """A line averages all steps since the last, by noise level too, though some were done before the kill."""

    class Killed(BaseException):
        pass

    def loss(model, batch, noise):
        if model.training and trainer.step == 11:
            raise Killed
        return objective(model, batch, noise)

    values = {"log_every": 6, "checkpoint_every": 2, "evaluate_every": 0}
    image_trainer(tmp_path / "whole", **values).train()
    trainer = image_trainer(tmp_path / "killed", loss, **values)
    with pytest.raises(Killed):
        trainer.train()
    image_trainer(tmp_path / "killed", **values).train()
    whole, killed = (
        [{k: v for k, v in row.items() if k != "images_per_second"} for row in table(path)]
        for path in (tmp_path / "whole" / "metrics.csv", tmp_path / "killed" / "metrics.csv")
    )
    assert [row["step"] for row in whole] == ["6", "12"]
    assert sum(name.startswith("loss_at_log_snr/") for name in whole[0]) == 8
    assert killed == whole


def scalars(folder, name) -> dict[int, float]:
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_another_seed_trains_otherwise(straight, tmp_path):
    trainer = image_trainer(tmp_path)
    trainer._whole_config.seed = trainer._batches.seed = 1  # type: ignore[attr-defined]
    trainer.train()
    assert scalars(tmp_path, "loss")[2] != scalars(straight, "loss")[2]


def test_the_held_out_loss_is_the_objective_of_the_average_on_the_same_noise_each_time(tmp_path):
    trainer = image_trainer(tmp_path)
    assert trainer.held_out_loss() == trainer.held_out_loss()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(math.nan)
    assert math.isfinite(trainer.held_out_loss())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_checkpoint(straight, tmp_path, broken):
    def loss(model, batch, noise):
        value = objective(model, batch, noise)
        return value._replace(values=value.values * broken) if model.training and trainer.step == 6 else value

    trainer = image_trainer(tmp_path, loss)
    with pytest.raises(UserError, match=rf"the loss is {broken} at step 7.*last good checkpoint is .*step_0000004\.pt"):
        trainer.train()
    assert_same_checkpoint(straight, tmp_path, 4)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    def loss(model, batch, noise):
        value = objective(model, batch, noise)
        if not (model.training and trainer.step == 2):
            return value
        return value._replace(values=value.values + (value.values - value.values.detach()).sqrt())

    trainer = image_trainer(tmp_path, loss)
    with pytest.raises(UserError, match=r"the gradient is (nan|inf) at step 3.*there is no checkpoint yet"):
        trainer.train()


def test_averages_of_several_lengths(straight, tmp_path):
    """Each is what it would be by itself, also when the run was resumed; one that was not begun with is refused."""
    image_trainer(tmp_path, num_steps=5, schedule="constant", ema_decay=0.5, more_ema_decays=(0.9, 0.2)).train()
    image_trainer(tmp_path, ema_decay=0.5, schedule="constant", more_ema_decays=(0.9, 0.2)).train()
    image_trainer(tmp_path / "alone", schedule="constant", ema_decay=0.2).train()
    several, alone = (
        checkpoint.load(checkpoint.path_at(folder / "checkpoints", 12)) for folder in (tmp_path, tmp_path / "alone")
    )
    assert list(several["more_ema"]) == [0.9, 0.2]
    assert all(torch.equal(several["more_ema"][0.2][name], tensor) for name, tensor in alone["ema"].items())
    with pytest.raises(UserError, match=r"no average with decay 0\.7: its runs had 0\.9, 0\.2 beside the first"):
        image_trainer(tmp_path, more_ema_decays=(0.7,))


def test_a_fused_optimiser_differs_by_rounding_alone(straight, tmp_path, capsys):
    """The optimiser's operations one by one; and without a terminal there is a line now and then."""
    image_trainer(tmp_path / "one", fused=False).train()
    (weights, _), (expected, _) = weights_of(tmp_path / "one", 12), weights_of(straight, 12)
    # A GPU adds up in another order each time.
    atol = 1e-3 if torch.cuda.is_available() else 1e-4
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=atol)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 4 of 12: loss ")]
    assert len(lines) == 1
    assert lines[0].endswith("s left")


def test_a_spike_of_the_loss_is_noted(tmp_path, capsys):
    def loss(model, batch, noise):
        value = objective(model, batch, noise)
        return value._replace(values=value.values * 1000) if model.training and trainer.step == 110 else value

    trainer = image_trainer(tmp_path, loss, num_steps=112, log_every=0, evaluate_every=0)
    trainer.train()
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note:"))
    assert line.startswith("note: step 111: the loss is ")


def test_old_checkpoints_are_deleted(tmp_path):
    image_trainer(tmp_path, keep_checkpoints=2, checkpoint_every=3).train()
    names = [
        f"{stem}{suffix}" for stem in ("best", "step_0000009", "step_0000012") for suffix in (".pt", ".safetensors")
    ]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names


# Held-out losses after steps 2, 4, 6 …: the best is that of step 6, and then three are not.
HELD_OUT = [3.0, 2.5, 1.0, 2.0, 1.5, 1.0, 1.25]


class Killed(BaseException):
    pass


def judged(folder, killed_after: int = 99, **values) -> Trainer:
    """Return a trainer whose held-out losses are those above, and which is killed in the middle of a step."""

    def loss(model, batch, noise):
        if model.training and trainer.step == killed_after:
            raise Killed
        return objective(model, batch, noise)

    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    dataset = Dataset("points", points[:50], points[50:])
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, width=8, num_blocks=1), VPSDE())
    config = settings(**{"num_steps": 14, "log_every": 0, "evaluate_every": 2, **values})
    trainer = Trainer(model, loss, Batches(dataset, 16, config.seed), Batch(dataset.test), config, folder)
    trainer.held_out_loss = lambda: HELD_OUT[trainer.step // 2 - 1]  # type: ignore[method-assign]
    return trainer


def test_training_stops_when_the_held_out_loss_no_longer_falls(tmp_path):
    """After as many losses as there is patience for, none of them below the best; that one is kept."""
    early = judged(tmp_path / "early", patience=3, keep_checkpoints=1, checkpoint_every=0)
    early.train()
    assert early.step == 12
    assert early.stopped_early
    assert early.best == (1.0, 6, 3)
    kept = sorted(path.name for path in (tmp_path / "early" / "checkpoints").glob("*.pt"))
    assert kept == ["best.pt", "step_0000012.pt"]
    whole = judged(tmp_path / "whole", checkpoint_every=6, keep_checkpoints=9)
    whole.train()
    assert (whole.step, whole.best, whole.stopped_early) == (14, (1.0, 6, 4), False)
    of_step, best = (
        checkpoint.load(path)
        for path in (tmp_path / "whole/checkpoints/step_0000006.pt", tmp_path / "early/checkpoints/best.pt")
    )
    assert all(torch.equal(best["ema"][name], tensor) for name, tensor in of_step["ema"].items())
    weights, _, _ = checkpoint.load_weights_file(tmp_path / "early" / "checkpoints" / "best.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in of_step["ema"].items())
    # It has ended; with more patience it goes on as if it had had it all along.
    again = judged(tmp_path / "early", patience=3)
    assert again.ended
    judged(tmp_path / "early").train()
    assert_same_checkpoint(tmp_path / "early", tmp_path / "whole", 14)
    checkpoints = tmp_path / "early" / "checkpoints"
    assert checkpoint.latest(checkpoints) == checkpoint.path_at(checkpoints, 14)


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory):
    """The folder of a run that stopped early and was never killed."""
    folder = tmp_path_factory.mktemp("stopped_early")
    judged(folder, **PATIENT).train()
    return folder


PATIENT = {"patience": 3, "checkpoint_every": 4, "keep_checkpoints": 9}


@pytest.mark.parametrize("killed_after", [7, 9])
def test_a_killed_run_knows_its_best_and_stops_where_one_that_was_not_does(stopped_early, tmp_path, killed_after):
    """Also where it was killed after a best checkpoint that is newer than the one it goes on from."""
    with pytest.raises(Killed):
        judged(tmp_path, killed_after, **PATIENT).train()
    resumed = judged(tmp_path, **PATIENT)
    assert resumed.step == 4 * (killed_after // 4)
    resumed.train()
    for name in ("best.pt", "step_0000004.pt", "step_0000008.pt", "step_0000012.pt"):
        whole, killed = (checkpoint.load(folder / "checkpoints" / name) for folder in (stopped_early, tmp_path))
        assert (killed["step"], killed["best"]) == (whole["step"], whole["best"])
        assert all(torch.equal(killed["ema"][key], tensor) for key, tensor in whole["ema"].items())
    losses = [
        {row["step"]: float(row["held_out_loss"]) for row in table(folder / "metrics.csv")}
        for folder in (stopped_early, tmp_path)
    ]
    assert losses[0] == losses[1] == {str(2 * k + 2): loss for k, loss in enumerate(HELD_OUT[:6])}


def test_a_best_checkpoint_that_is_gone_is_not_spoken_of(tmp_path):
    """A run that goes on without it takes the best of what is to come."""
    judged(tmp_path, num_steps=8).train()
    (tmp_path / "checkpoints" / "best.pt").unlink()
    resumed = judged(tmp_path)
    assert resumed.best.step == 0
    resumed.train()
    assert resumed.best == (1.0, 12, 1)
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["step"] == 12
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"best\.pt.*; remove it to go on without"):
        judged(tmp_path)


def test_a_checkpoint_of_another_network_or_other_data_is_a_user_error(tmp_path):
    """The trainer compares weights itself; of data it keeps a description, and hands that over to be compared."""
    pictures = Dataset("pictures", torch.zeros(40, 1, 4, 4, dtype=torch.uint8), torch.zeros(0), Bins(4))
    points = Dataset("points", torch.zeros(40, 16), torch.zeros(0, 16))

    def trainer(network, dataset):
        return Trainer(
            ScoreModel(network, VPSDE()),
            objective,
            Batches(dataset, 16, 0),
            None,
            settings(),
            tmp_path,
            data=dataset.description,
            check_data=lambda data, where: dataset.check_like(data, False, where),
        )

    trainer(NCSNpp(4, 1, channels=8, channel_multipliers=(1, 2), num_blocks=1), pictures).train()
    with pytest.raises(UserError, match=r"step_0000012\.pt does not fit this network: network.embedding.hidden"):
        trainer(MLP(16), pictures)
    with pytest.raises(UserError, match=r"points has examples of shape 16, but .*step_0000012\.pt was trained on 1, 4"):
        trainer(MLP(16), points)


def test_gradients_are_clipped(tmp_path):
    # Adam's first moment after one step is 0.1 times the clipped gradient.
    trainer = image_trainer(tmp_path, max_grad_norm=1e-3, num_steps=1)
    trainer.train()
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    assert torch.cat([m.flatten() for m in moments]).norm().item() == pytest.approx(1e-4, rel=1e-3)


def test_training_reaches_the_optimum_of_a_gaussian(tmp_path):
    """For data N(0, v I), eps given x_t is Gaussian, and the least loss at a signal-to-noise ratio
    s = alpha^2 / sigma^2 is the posterior variance v s / (1 + v s). Over log s uniform in [low, high] its mean is
    log((1 + v e^high) / (1 + v e^low)) / (high - low).
    """
    variance, sde = 4.0, VPSDE()
    generator = torch.Generator().manual_seed(0)
    points = math.sqrt(variance) * torch.randn(24_000, 2, generator=generator)
    dataset = Dataset("points", points[:20_000], points[20_000:])
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, width=32, num_blocks=1), sde, prediction="noise")
    config = settings(num_steps=400, batch_size=256, ema_decay=0.99, warmup_steps=20, evaluate_every=0)
    config.training.update(checkpoint_every=0, log_every=100)
    trainer = Trainer(model, objective, Batches(dataset, 256, 0), Batch(dataset.test), config, tmp_path)
    before = trainer.held_out_loss()
    trainer.train()
    high, low = sde.log_snr(torch.tensor([T_MIN, 1.0], dtype=torch.float64)).tolist()
    optimum = math.log((1 + variance * math.exp(high)) / (1 + variance * math.exp(low))) / (high - low)
    # The estimate's own standard error, from 4 x 4000 draws, is about 0.5%.
    assert trainer.held_out_loss() == pytest.approx(optimum, rel=0.02)
    assert before > 1.5 * optimum


def test_bfloat16_training_follows_float32(straight, tmp_path):
    image_trainer(tmp_path, precision="bfloat16").train()
    reduced, full = scalars(tmp_path, "loss"), scalars(straight, "loss")
    assert reduced != full
    assert list(reduced.values()) == pytest.approx(list(full.values()), rel=0.03)
    weights, _ = weights_of(tmp_path, 12)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
