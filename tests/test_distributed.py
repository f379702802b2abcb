"""Two processes do what one does."""

from __future__ import annotations

import runpy
import sys

import numpy as np
import pytest
import torch

from score_sde.training import checkpoint
from tests.processes import as_one_of, run_together
from tests.reading import table

# Arguments: where to train, and a checkpoint to use. Trains replicated, resumes half-way, and in parts; trains sharded
# if it can; trains an autoencoder beside its adversary; then draws 5 samples in batches of 2 with a solver that draws
# noise, and measures 5 likelihoods.
SCRIPT = """
import sys
from pathlib import Path

from score_sde.common import distributed
from importlib import import_module

from score_sde.experiment import load
from score_sde.modes import train
from tests.training.tiny_autoencoder import trainer_of

SHORT = {
    "model.width": 16, "model.num_blocks": 1, "training.num_steps": 10, "training.batch_size": 8,
    "training.checkpoint_every": 5, "training.log_every": 1, "training.evaluate_every": 5, "data.validation": 20,
    "training.sample_every": 0, "training.keep_checkpoints": 9, "sampling.solver": "ddim", "sampling.num_steps": 4,
    "sampling.eta": 1.0, "sampling.num_samples": 5, "sampling.batch_size": 2, "likelihood.num_examples": 5,
    "likelihood.batch_size": 2, "likelihood.num_checks": 0,
}

def options(**more):
    return [(key, str(value)) for key, value in {**SHORT, **more}.items()]

def run(folder, more):
    train.run(load.to_train("configs/vp/eight_gaussians.py", folder, options(**more)))

def main(folder, used):
    run(folder / "replicated", {"training.num_steps": 5, "training.schedule": "constant"})
    run(folder / "replicated", {"training.schedule": "constant"})
    run(folder / "parts", {"training.accumulation": 2})
    if distributed.world_size() > 1:
        run(folder / "sharded", {"training.shard": True, "training.num_steps": 5,
                                 "training.schedule": "constant"})
        run(folder / "sharded", {"training.shard": True, "training.schedule": "constant",
                                 "training.accumulation": 2})
    trainer_of(folder / "adversarial", num_steps=10, accumulation=2, log_every=1).train()
    for mode in ("sample", "likelihood"):
        import_module(f"score_sde.modes.{mode}").run(load.to_use(mode, None, folder / "used", used, options()))

with distributed.process_group():
    main(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process did, and what two did; both use the checkpoint of the first."""
    folder = tmp_path_factory.mktemp("distributed")
    script, one, two = folder / "script.py", folder / "one", folder / "two"
    script.write_text(SCRIPT)
    used = str(checkpoint.path_at(one / "replicated" / "checkpoints", 10))
    arguments, sys.argv = sys.argv, ["script.py", str(one), used]
    try:
        with as_one_of(2):
            runpy.run_path(str(script))
    finally:
        sys.argv = arguments
    run_together(2, script, two, used)
    return one, two


def final(folder) -> dict:
    return checkpoint.load(checkpoint.path_at(folder / "checkpoints", 10))


@pytest.mark.parametrize(
    ("single", "double"), [("replicated", "replicated"), ("parts", "parts"), ("replicated", "sharded")]
)
def test_they_train_alike(folders, single, double):
    """Weights, averages, moments and losses; the losses of ten steps, and the optimiser's state by its own numbers."""
    one, two = folders[0] / single, folders[1] / double
    mine, theirs = final(one), final(two)
    for part in ("model", "ema"):
        assert mine[part].keys() == theirs[part].keys()
        for name, tensor in mine[part].items():
            torch.testing.assert_close(theirs[part][name], tensor, rtol=1e-4, atol=1e-6)
    for number, moments in mine["optimizer"]["state"].items():
        for name, tensor in moments.items():
            torch.testing.assert_close(theirs["optimizer"]["state"][number][name], tensor, rtol=2e-3, atol=1e-6)
    assert mine["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    rows, other_rows = (table(folder / "metrics.csv") for folder in (one, two))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 11)]
    for row, other in zip(rows, other_rows, strict=True):
        for name in ("loss", "held_out_loss", "learning_rate", *(name for name in row if "log_snr" in name)):
            assert (row[name] == "") == (other[name] == "")
            if row[name]:
                assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-4)


def test_adversaries_learn_alike(folders):
    """The discriminator's gradients are averaged, too; so are the terms that the log tells."""
    mine, theirs = (final(folder / "adversarial") for folder in folders)
    for part in (lambda state: state["model"], lambda state: state["objective"]["discriminator"]):
        for name, tensor in part(mine).items():
            torch.testing.assert_close(part(theirs)[name], tensor, rtol=1e-3, atol=1e-5)
    rows, other_rows = (table(folder / "adversarial" / "metrics.csv") for folder in folders)
    for row, other in zip(rows, other_rows, strict=True):
        for name in ("loss", "distortion", "rate", "doubt", "discriminator"):
            assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-4)


def test_parts_of_a_batch_make_the_step_of_the_batch(folders):
    whole, parts = (table(folders[0] / name / "metrics.csv") for name in ("replicated", "parts"))
    assert float(parts[0]["loss"]) == pytest.approx(float(whole[0]["loss"]), rel=1e-5)


def test_samples_and_likelihoods_are_the_same_to_the_last_bit(folders):
    one, two = (folder / "used" for folder in folders)
    mine, theirs = (np.load(folder / "samples" / "ddim.npz") for folder in (one, two))
    np.testing.assert_array_equal(theirs["vectors"], mine["vectors"])
    assert list(theirs["seeds"]) == list(range(5))
    assert (two / "likelihood" / "test.csv").read_text() == (one / "likelihood" / "test.csv").read_text()
