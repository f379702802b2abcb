"""The picture of the README: `python -m benchmarks.picture --workdir runs/digits --output docs/picture.png`.

Each row follows the probability flow ODE from a latent (left) to a sample (right), and the states between.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.trained import trained_network
from score_sde.common.files import write_atomically
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

    figure = Figure(figsize=(len(columns), _ROWS + 0.4))
    for row in range(_ROWS):
        for column, (title, states) in enumerate(columns):
            axes = figure.add_subplot(_ROWS, len(columns), row * len(columns) + column + 1)
            axes.imshow(states[row, 0], cmap="gray", vmin=-1, vmax=1)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.06, hspace=0.06)
    with write_atomically(arguments.output) as temporary:
        figure.savefig(temporary, dpi=80)
    print(arguments.output)


if __name__ == "__main__":
    main()
