"""What a user does with the installed package: `python installed.py SITE`, in a folder of the user's own.

Run by test_wheel.py, with the folder SITE and third-party packages on the path.
"""

from __future__ import annotations

import contextlib
import importlib
import runpy
import sys
from pathlib import Path


def main(site: Path) -> None:
    names = {path.relative_to(site).with_suffix("").parts for path in (site / "score_sde").rglob("*.py")}
    for parts in sorted(names):
        # What is run as a program is run below.
        if parts[-1] != "__main__":
            importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    sample_and_measure()
    sys.argv = ["score_sde", "--mode=train", "--workdir=run", "--config=vp/digits", *sys.argv[2:]]
    with contextlib.suppress(SystemExit):
        runpy.run_module("score_sde", run_name="__main__", alter_sys=True)
    assert Path("run/checkpoints/step_0000020.pt").exists()
    ours = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("score_sde")]
    files = [Path(file) for file in ours if file]
    assert len(files) >= len(names) - 1
    assert all(site in file.parents for file in files), files


def sample_and_measure() -> None:
    """Sample from a mixture of one Gaussian, and measure what is known: its density."""
    import torch

    from score_sde import VPSDE, GaussianMixture, get_solver, log_likelihood

    one = GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), 0.25 * torch.eye(2)[None])
    x_T = one.sde.prior_sample((512, 2), seeds=range(512))
    x = get_solver("dpmpp_2m", num_steps=20)(one, x_T).x
    assert abs(float(x.std()) - 0.5) < 0.03, x.std()
    found = log_likelihood(one, x[:8].double(), divergence="exact").log_prob
    truth = one.log_prob(x[:8].double(), torch.tensor(one.sde.t_min))
    assert torch.allclose(found, truth, atol=1e-4), found - truth


if __name__ == "__main__":
    main(Path(sys.argv[1]))
