"""Any module by any objective: a known optimum, a known average, and all of it kept."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.training import checkpoint, journal, late
from score_sde.training.late import LateReader
from score_sde.training.optimization import clip, make_optimizer, step_if
from score_sde.training.reconstruct import profile
from score_sde.training.trainer import Trainer
from tests.reading import table
from tests.training.least_squares import OFFSET, SLOPE, STD, Line, Points, points, settings, squared_error


def trainer_of(folder, objective=squared_error, model=None, held_out=None, **values) -> Trainer:
    config = settings(**values)
    return Trainer(model or Line(), objective, Points(config.training.batch_size), held_out, config, folder)


def states(folder, step: int) -> dict:
    state = checkpoint.load(checkpoint.path_at(folder / "checkpoints", step))
    moments = {f"{i}.{k}": v for i, values in state["optimizer"]["state"].items() for k, v in values.items()}
    return {f"{part}.{k}": v for part in ("model", "ema") for k, v in state[part].items()} | moments


def broken_at(number: int, value: float = math.nan):
    """Return the objective with losses that are bad in one step."""
    calls = 0

    def objective(model, batch, noise):
        nonlocal calls
        losses = squared_error(model, batch, noise)
        calls += model.training
        return losses._replace(values=losses.values * value) if model.training and calls == number else losses

    return objective


def test_the_optimum_is_reached(tmp_path):
    """The line is that of the points, within four standard errors, and what is left over is their noise."""
    held_out = points(4000, seed=10**6)
    trainer = trainer_of(tmp_path, held_out=held_out, num_steps=600, batch_size=256, evaluate_every=600)
    trainer.train()
    line, error = trainer.ema.model, 4 * STD / math.sqrt(600 * 256 / 20)
    assert abs(line.slope - SLOPE) < error
    assert abs(line.offset.item() + 1 - OFFSET) < error
    x, y = held_out.x_0.double().T
    least = (y - SLOPE * x - OFFSET).square().mean().item()
    assert trainer.held_out_loss() == pytest.approx(least, rel=0.01)
    assert float(table(tmp_path / "metrics.csv")[-1]["held_out_loss"]) == pytest.approx(least, rel=0.01)


def test_the_average_is_the_weighted_sum_of_all_weights_there_were(tmp_path):
    """`sum_k p_k theta_k`, of a parameter outside the network too; what is not averaged is the model's own."""
    offsets, slopes = [], []

    def objective(model, batch, noise):
        offsets.append(model.offset.item())
        slopes.append(model.network[1].weights[0].item())
        return squared_error(model, batch, noise)

    trainer = trainer_of(tmp_path, objective, schedule="constant")
    trainer.train()
    offsets.append(trainer.model.offset.item())
    slopes.append(trainer.model.network[1].weights[0].item())
    weights = profile(0.9, 30, np.arange(31))
    assert trainer.ema.model.offset.item() == pytest.approx(weights @ offsets, rel=1e-5)
    assert trainer.ema.model.network[1].weights[0].item() == pytest.approx(weights @ slopes, rel=1e-5)
    assert abs(weights @ offsets - offsets[-1]) > 0.01
    assert trainer.ema.model.steps.item() == trainer.model.steps.item() == 30
    assert trainer.ema.model.fixed.item() == 1


def test_the_whole_module_is_kept_and_restored(tmp_path):
    """Parameters outside the network, those that are not trained, and buffers, whatever the module held before."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    trainer_of(straight, schedule="constant").train()
    trainer_of(resumed, schedule="constant", num_steps=10).train()
    saved = checkpoint.load(checkpoint.path_at(resumed / "checkpoints", 10))
    names = ["offset", "fixed", "steps", "network.0.weight", "network.1.weights"]
    assert list(saved["model"]) == list(saved["ema"]) == names
    alone, config, data = checkpoint.load_weights_file(resumed / "checkpoints" / "step_0000010.safetensors")
    assert config["training"]["num_steps"] == 10
    assert data is None
    assert alone.keys() == saved["ema"].keys()
    assert all(torch.equal(alone[name], tensor) for name, tensor in saved["ema"].items())

    model = Line()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    trainer = trainer_of(resumed, model=model, schedule="constant")
    assert trainer.step == 10
    assert all(torch.equal(saved["model"][name].to(tensor), tensor) for name, tensor in model.state_dict().items())
    trainer.train()
    expected, found = states(straight, 30), states(resumed, 30)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert found["model.fixed"].item() == 1
    assert found["model.steps"].item() == 30


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    path = checkpoint.path_at(tmp_path / "checkpoints", 3)
    path.parent.mkdir()
    torch.save({"format": 1, "network": {}, "ema": {}}, path)
    with pytest.raises(UserError, match=r"step_0000003\.pt is a checkpoint of another version of this project"):
        trainer_of(tmp_path)


@pytest.mark.parametrize("bad", [11, 13, 18, 19, 20])
def test_a_bad_number_is_read_late_and_named_at_its_step(tmp_path, bad):
    """Steps are told on meanwhile, but none is kept, not even where a checkpoint falls due."""
    trainer_of(tmp_path / "good").train()
    trainer = trainer_of(tmp_path / "bad", broken_at(bad))
    with pytest.raises(
        UserError, match=rf"the loss is nan at step {bad}, so .*checkpoint is .*step_0000010\.pt; go on"
    ):
        trainer.train()
    assert trainer.step == min(bad + late.DELAY, 20)
    assert [path.name for path in (tmp_path / "bad" / "checkpoints").glob("*.pt")] == ["step_0000010.pt"]
    good, kept = states(tmp_path / "good", 10), states(tmp_path / "bad", 10)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in good.items())
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())
    assert all(tensor.isfinite().all() for tensor in trainer.ema.model.state_dict().values())


def test_the_last_step_is_read_before_the_last_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"at step 30, so"):
        trainer_of(tmp_path, broken_at(30)).train()
    assert not checkpoint.path_at(tmp_path / "checkpoints", 30).exists()


def test_how_late_numbers_are_read_changes_nothing(tmp_path, monkeypatch):
    """Checkpoints and the table, but for times."""
    rows = []
    for delay in (0, 2, 100):
        monkeypatch.setattr(late, "DELAY", delay)
        trainer_of(tmp_path / str(delay), log_every=7).train()
        lines = table(tmp_path / str(delay) / "metrics.csv")
        rows.append([{name: value for name, value in line.items() if "second" not in name} for line in lines])
    assert [row["step"] for row in rows[0]] == ["7", "14", "21", "28", "30"]
    assert rows[0] == rows[1] == rows[2]
    first, *others = (states(tmp_path / str(delay), 30) for delay in (0, 2, 100))
    assert all(torch.equal(tensor, other[name]) for other in others for name, tensor in first.items())


def test_the_oldest_are_read_first():
    reader, read = LateReader(), []
    for step in range(1, 6):
        reader.put(step, [torch.tensor(float(step), requires_grad=True)])
        read.append([number for number, _ in reader.take()])
    assert read == [[], [], [1], [2], [3]]
    last = list(reader.take(drain=True))
    assert [(number, tensor.item()) for number, (tensor,) in last] == [(4, 4.0), (5, 5.0)]
    assert not any(tensor.requires_grad for _, (tensor,) in last)
    assert list(reader.take(drain=True)) == []


@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_changes_nothing(fused):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.nn.Parameter(torch.ones(5, device=device))
    optimizer = make_optimizer([weight], settings(fused=fused).training)
    weight.grad = torch.ones_like(weight)
    step_if(optimizer, torch.tensor(True, device=device))
    before = [weight.detach().clone(), *(value.clone() for value in optimizer.state[weight].values())]
    assert not torch.equal(before[0], torch.ones_like(weight))
    weight.grad.fill_(math.nan)
    step_if(optimizer, torch.tensor(False, device=device))
    after = [weight, *optimizer.state[weight].values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 5.0), (10.0, 5.0), (2.0, 2.0)])
def test_clipping_is_pytorchs(limit, expected):
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    norm = torch.nn.utils.get_total_norm(gradients)
    parameters = [torch.nn.Parameter(gradient.clone()) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    clip(gradients, norm, limit)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(expected, rel=1e-6)


def test_one_process_asks_nothing_of_others(tmp_path, monkeypatch):
    def asked(*arguments, **more):
        raise AssertionError

    for name in ("all_reduce", "barrier", "broadcast_object_list", "all_gather_object"):
        monkeypatch.setattr(torch.distributed, name, asked)
    trainer_of(tmp_path, log_every=5, held_out=points(20, 0), evaluate_every=10).train()


def test_memory_is_not_told_where_none_can_say(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    used = journal.peak_memory()
    assert used is not None
    assert used > 0.01
    monkeypatch.setitem(sys.modules, "resource", None)
    assert journal.peak_memory() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_no_step_waits_for_a_gpu(tmp_path):
    trainer = trainer_of(tmp_path, num_steps=10**6)
    for _ in range(3):
        trainer.train_step()
        trainer._read(drain=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            trainer.train_step()
            trainer._read(drain=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
