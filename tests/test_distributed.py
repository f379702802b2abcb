"""Two processes do what one does."""

from __future__ import annotations

import runpy
import subprocess
import sys

import numpy as np
import torch

from configuration import ROOT
from training import checkpoint

# Trains for 10 steps on a loss without randomness, then draws 5 samples in batches of 2 with a solver that draws noise.
SCRIPT = """
import sys
from pathlib import Path

import torch

import build, configuration, distributed
from data import Batches
from evaluation.generation import draw_samples, write_samples
from training.trainer import Trainer

def main(folder):
    config = configuration.load_file("configs/vp/eight_gaussians.py")
    config.model.update(width=16, num_blocks=1)
    config.training.update(num_steps=10, batch_size=8, checkpoint_every=0, log_every=1, evaluate_every=0)
    dataset = build.make_dataset(config)
    model = build.make_model(config, dataset)

    def objective(model, x_0, generator, classes):
        return model.noise_error(x_0, x_0.flip(1), torch.full((len(x_0),), 0.5)).square().mean(1)

    Trainer(model, objective, Batches(dataset, 8, 0), dataset.test[:0], config, folder).run()
    config.sampling.update(solver="ddim", num_steps=4, eta=1.0)
    seeds = list(range(5))
    samples = draw_samples(model, build.make_solver(config), dataset.shape, seeds, batch_size=2)
    if distributed.rank() == 0:
        write_samples(samples, seeds, dataset, folder, "ddim")

with distributed.process_group():
    main(Path(sys.argv[1]))
"""


def test_two_processes_train_and_sample_as_one(tmp_path, monkeypatch):
    script, one, two = tmp_path / "script.py", tmp_path / "one", tmp_path / "two"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", ["script.py", str(one)])
    runpy.run_path(str(script))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(script), str(two)], cwd=ROOT, env=environment, check=True, timeout=240)
    single, double = (checkpoint.load(checkpoint.path_at(folder / "checkpoints", 10)) for folder in (one, two))
    for name, tensor in single["network"].items():
        torch.testing.assert_close(double["network"][name], tensor, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.load(two / "ddim.npz")["vectors"], np.load(one / "ddim.npz")["vectors"], rtol=1e-3)
    assert list(np.load(two / "ddim.npz")["seeds"]) == list(range(5))
