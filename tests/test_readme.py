"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from solvers import log_likelihood

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_of_the_readme() -> None:
    """The blocks run one after the other; what they compute is right."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(block, names)

    model, solution, result = names["model"], names["solution"], names["result"]
    assert solution.nfe == 10
    # The README's result is in float32, and ended with the standard prior, which is not quite the mixture's density.
    x, end = solution.x.double(), torch.tensor(model.sde.T)
    exact = model.log_prob(x, torch.tensor(model.sde.t_min))
    own_prior = log_likelihood(model, x, divergence="exact", prior=lambda x: model.log_prob(x, end)).log_prob
    torch.testing.assert_close(own_prior, exact, rtol=0, atol=2e-5)
    assert abs(float((result.log_prob - exact).mean())) < 5e-3
    assert names["get_config"]().data.dataset == "mine"

    sde = names["CosineSDE"]()
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    # Of x = cos x_0 + sin eps: f = -pi/2 tan, g^2 = pi tan.
    tangent = torch.tan(0.5 * torch.pi * t)
    torch.testing.assert_close(sde.drift_coefficient(t), -0.5 * torch.pi * tangent)
    torch.testing.assert_close(sde.diffusion_squared(t), torch.pi * tangent)


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    root = Path(__file__).parent.parent
    assert [link for link in links if not (root / link).exists()] == []
