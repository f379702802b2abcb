"""What couplings give: `python -m benchmarks.couplings two_moons` (or digits), under rectified flow.

For each seed three networks: independent pairs, optimal transport within batches, and one reflow of the first, which
begins with its weights. Printed for each, mean and standard error over seeds: the straightness of its trajectories
(`evaluation.samples.straightness`; 0 is straight), the endpoint error of few calls (median distance from a sample to
the end of its own network's exact trajectory) by Euler's method in `t`, and by other solvers, bits/dim or nats/dim of
test examples, and seconds of training. Networks lie in the working folder, and are trained if they do not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import score_sde
from score_sde.evaluation.comparison.compare import endpoint_error
from score_sde.evaluation.samples.straightness import straightness
from score_sde.experiment.couplings import INDEPENDENT, OPTIMAL_TRANSPORT, REFLOW
from score_sde.experiment.run import Run
from score_sde.solvers import Solver, get_solver

DATA: dict[str, dict[str, Any]] = {
    "two_moons": {"config": "vp/eight_gaussians", "num_steps": 2000, "reflow": 1000, "data.dataset": "two_moons"},
    # The larger a batch, the nearer are its pairs; and pictures that are told to be distorted are paired by themselves.
    "digits": {
        "config": "vp/digits",
        "num_steps": 500,
        "reflow": 150,
        "training.batch_size": 256,
        "data.distortion": 0.0,
    },
}
SETTINGS = {
    "sde.name": "rectified_flow",
    "model.prediction": "flow",
    "training.weighting": "flow",
    "training.times": "uniform",
    "training.sample_every": 0,
}
CALLS = (2, 4, 8)
OTHERS = ("default", "dpmpp_2m", "unipc")
NUM_TRAJECTORIES = 256
NUM_EXAMPLES = 180
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--workdir", type=Path, default=Path("runs/couplings"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    columns = ["straightness", *(f"Euler, {n}" for n in CALLS), *(f"{s}, {n}" for s in OTHERS for n in CALLS)]
    print("| pairs | " + " | ".join([*columns, "bits or nats/dim", "seconds"]) + " |")
    print("|---|" + "---|" * (len(columns) + 2))
    for coupling in (INDEPENDENT, OPTIMAL_TRANSPORT, REFLOW):
        rows = []
        for seed in range(arguments.seeds):
            run, seconds = trained(arguments.data, coupling, seed, arguments.workdir)
            rows.append([*measured(run), seconds])
        mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
        cells = [f"{a:.4g} ± {b:.1g}" for a, b in zip(mean, error, strict=True)]
        print(f"| {coupling} | " + " | ".join(cells) + " |", flush=True)


def trained(data: str, coupling: str, seed: int, workdir: Path) -> tuple[Run, float]:
    """Return the run of a coupling and a seed, and the seconds that its training took, or the part of it done here."""
    folder, what = workdir / f"{data}_{coupling}_{seed}", DATA[data]
    own = {key: value for key, value in what.items() if "." in key}
    settings = {**SETTINGS, **own, "seed": seed, "training.coupling": coupling}
    if coupling == REFLOW:
        settings["training.teacher"] = str(workdir / f"{data}_{INDEPENDENT}_{seed}")
    steps = what["reflow"] if coupling == REFLOW else what["num_steps"]
    started, clock = time.perf_counter(), folder / "seconds.txt"
    run = score_sde.fit(data, config=what["config"], workdir=folder, num_steps=steps, settings=settings)
    if not clock.exists():
        clock.write_text(f"{time.perf_counter() - started:.1f}\n", encoding="utf-8")
    return run, float(clock.read_text(encoding="utf-8"))


def measured(run: Run) -> list[float]:
    """Return straightness, endpoint errors and the density, in the order of the columns."""
    model = run.model
    x_T = model.sde.prior_sample((NUM_TRAJECTORIES, *run.dataset.shape), seeds=range(NUM_TRAJECTORIES))
    exact = get_solver("ode", **EXACT)(model, x_T).x

    def error(solver: Solver) -> float:
        return endpoint_error(solver(model, x_T).x, exact)

    density = run.bits_per_dim if run.dataset.levels is not None else run.log_prob
    value = np.mean(density(run.dataset.test[:NUM_EXAMPLES].numpy()))
    if run.dataset.levels is None:
        value = -value / run.dataset.test[0].numel()
    return [
        straightness(model, x_T),
        *(error(euler(n)) for n in CALLS),
        *(error(get_solver(name, num_steps=n)) for name in OTHERS for n in CALLS),
        float(value),
    ]


def euler(num_steps: int) -> Solver:
    """Return Euler's method in the time of rectified flow, which DDIM is, with equal steps from 1 to 0."""
    times: Tensor = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:-1]
    return get_solver("ddim", grid=times)


if __name__ == "__main__":
    main()
