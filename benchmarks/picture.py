"""The picture of the README: `python -m benchmarks.picture --workdir runs/digits --output docs/picture.png`.

Each row follows the probability flow ODE from a latent (left) to a sample (right), and the states between.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.columns import save_columns
from benchmarks.trained import trained_network
from score_sde.solvers import get_solver

_ROWS = 5
# Log-SNRs of the columns between the latent and the sample.
_LOG_SNRS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5, 6.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--output", type=Path, default=Path("docs/picture.png"))
    arguments = parser.parse_args()
    model, dataset, _, _ = trained_network(arguments.workdir)
    sde = model.sde
    x_T = sde.prior_sample((_ROWS, *dataset.shape), seeds=range(_ROWS))

    columns = [("noise\n$t = 1$", x_T)]
    for t in sde.time_at_log_snr(torch.tensor(_LOG_SNRS)):
        norm = torch.hypot(sde.alpha(t), sde.sigma(t)).item()
        state = get_solver("ode", t_min=float(t), denoise=False)(model, x_T).x
        columns.append((f"$t = {float(t):.2f}$", state / norm))
    columns.append(("sample\n$t = 0$", get_solver("ode")(model, x_T).x))

    save_columns(arguments.output, {title: states.numpy() for title, states in columns}, black=-1, white=1)


if __name__ == "__main__":
    main()
