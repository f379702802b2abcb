"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

import score_sde
from score_sde.common import distributed
from score_sde.models import GaussianMixture, ScoreModel
from score_sde.sde import VPSDE
from score_sde.solvers import get_solver, log_likelihood, sample_path, step_log_prob

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_python_of_the_readme(tmp_path, monkeypatch) -> None:
    """The blocks run one after the other; what they compute is right."""
    blocks = blocks_of(README)
    assert len(blocks) == 2
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    for block in blocks:
        exec(block, names)

    x = names["x"][:9].double()
    factor = torch.tensor([[700.0, 300.0], [0.0, 400.0]], dtype=torch.float64)
    mean = torch.full((2,), 5000.0, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(mean, factor.T @ factor)
    # In 2 dimensions, so 0.05 nats/dim on average.
    off = torch.from_numpy(names["nats"]) - truth.log_prob(x)
    assert off.mean().abs() < 0.1
    assert off.abs().max() < 0.4
    samples = torch.from_numpy(names["samples"]).double()
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=50)
    torch.testing.assert_close(samples.std(0), truth.variance.sqrt(), rtol=0.1, atol=0)
    with Image.open("noise_to_data.gif") as film:
        assert sum(1 for _ in ImageSequence.Iterator(film)) == 21

    sde = names["CosineSDE"]()
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    # Of x = cos x_0 + sin eps: f = -pi/2 tan, g^2 = pi tan.
    tangent = torch.tan(0.5 * torch.pi * t)
    torch.testing.assert_close(sde.drift_coefficient(t), -0.5 * torch.pi * tangent)
    torch.testing.assert_close(sde.diffusion_squared(t), torch.pi * tangent)


def test_python_of_the_docs_on_python() -> None:
    """Things of one's own are what is trained and sampled; gradients are difference quotients; mixtures are known."""
    text = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    gradient, own, use, mixture = blocks_of(text)
    torch.manual_seed(0)
    names: dict = {}
    exec(own, names)
    exec(use, names)
    run, end = names["run"], torch.tensor(1.0, dtype=torch.float64)
    # The only step of that solver, from the noise of the first seeds.
    x_T = run.model.sde.prior_sample((8, 2), seeds=range(8), device=distributed.device())
    expected = run.dataset.units.decode(run.model.denoise(x_T, end).cpu()).numpy()
    np.testing.assert_array_equal(names["samples"], expected)

    exec(gradient, names)
    y, step = names["y"].detach(), torch.tensor([[7.0, 0.0]], dtype=torch.float64)
    there, here = run.log_prob(torch.cat([y + step, y - step]), divergence="exact", rtol=1e-4, atol=1e-4)
    assert float(names["y"].grad[0, 0]) == pytest.approx((there - here) / 14, rel=0.02)

    exec(mixture, names)
    model, solution, result = names["model"], names["solution"], names["result"]
    assert solution.nfe == 10
    # The result is in float32, and ended with the standard prior, which is not quite the mixture's density.
    x, last = solution.x.double(), torch.tensor(model.sde.T)
    exact = model.log_prob(x, torch.tensor(model.sde.t_min))
    own_prior = log_likelihood(model, x, divergence="exact", prior=lambda x: model.log_prob(x, last)).log_prob
    torch.testing.assert_close(own_prior, exact, rtol=0, atol=2e-5)
    assert abs(float((result.log_prob - exact).mean())) < 5e-3


def test_python_for_those_who_come_from_elsewhere() -> None:
    """What is said to be the same is: marginals, predictions of diffusers, and azula's denoiser by its formula."""
    pytest.importorskip("diffusers")
    text = (Path(__file__).parent.parent / "docs" / "coming_from.md").read_text(encoding="utf-8")
    published, diffusers, azula = blocks_of(text)
    names: dict = {}
    exec(published, names)
    log_mean = -0.25 * names["t"] ** 2 * (20 - 0.1) - 0.5 * names["t"] * 0.1
    torch.testing.assert_close(names["mean"], log_mean.exp())
    torch.testing.assert_close(names["std"], (1 - (2 * log_mean).exp()).sqrt())
    # The data are normal.
    nats = torch.distributions.Normal(0.0, 1.0).log_prob(names["samples"]).sum(1)
    torch.testing.assert_close(names["bits"], -nats / (4 * torch.tensor(2.0).log()), rtol=0, atol=1e-3)
    exec(diffusers, names)
    torch.testing.assert_close(names["here"], names["there"], rtol=1e-4, atol=1e-4)
    assert names["samples"].isfinite().all()
    exec(azula, names)
    x, network, sigma = names["x"], names["denoiser"].network, names["sde"].sigma(torch.tensor(0.5))
    scale = torch.rsqrt(1 + sigma**2)
    expected = scale**2 * x + sigma * scale * network(scale * x, None)
    torch.testing.assert_close(names["mean"], expected, rtol=1e-5, atol=1e-5)


def test_python_of_the_docs_on_likelihood() -> None:
    """Gradients of the log-likelihood are the score of the model at `t_min`."""
    text = (Path(__file__).parent.parent / "docs" / "likelihood.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    covariances = 0.05 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    model = GaussianMixture(VPSDE(), torch.ones(2), means, covariances)
    x = torch.tensor([[0.9, 0.1], [-1.1, 0.3]], dtype=torch.float64, requires_grad=True)
    exec(block, {"model": model, "x": x})
    score = model.score(x.detach(), torch.tensor(model.sde.t_min))
    # Up to the standard prior, which is not quite the mixture's density at T.
    torch.testing.assert_close(x.grad, score, rtol=0, atol=0.02)


def test_python_of_the_docs_on_control() -> None:
    """Both kinds of control lead to what was observed."""
    text = (Path(__file__).parent.parent / "docs" / "control.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.1], [-0.1, 0.3]]])
    model = GaussianMixture(VPSDE(), torch.ones(2), torch.tensor([[-0.5, 0.0], [0.5, 0.3]]), covariances)
    names: dict = {"model": model}
    guided, repainted = block.split("hole = ")
    exec(guided, names)
    # 0.3, seen with noise of 0.1.
    assert abs(float(names["x"][:, 1].mean()) - 0.3) < 0.05
    assert 0.05 < float(names["x"][:, 1].std()) < 0.15
    exec("hole = " + repainted, names)
    assert bool((names["x"][:, 1] == torch.tensor(0.3)).all())


def test_python_of_the_docs_on_steps() -> None:
    """A model of `N(0, 0.25 I)` is led to where the reward is."""
    text = (Path(__file__).parent.parent / "docs" / "steps.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    network, means = Shifted(), []
    model = ScoreModel(network, VPSDE(), noise_label=lambda t: t, scale_input=False)

    def reward(x: torch.Tensor) -> torch.Tensor:
        means.append(x.mean(0))
        return -(x - 1).square().sum(1)

    torch.manual_seed(0)
    names = {"get_solver": get_solver, "sample_path": sample_path, "step_log_prob": step_log_prob, "torch": torch}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    exec(block, {**names, "model": model, "reward": reward, "optimizer": optimizer})
    # Of 128 samples; of the last ten batches.
    torch.testing.assert_close(means[0], torch.zeros(2), rtol=0, atol=0.15)
    torch.testing.assert_close(torch.stack(means[-10:]).mean(0), torch.ones(2), rtol=0, atol=0.1)


class Shifted(nn.Module):
    """The noise of data `N(mean, 0.25 I)`, of which the mean is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor, noise_label: torch.Tensor) -> torch.Tensor:
        here = VPSDE().at(noise_label)
        alpha, sigma = here.to(x)
        return sigma * (x - alpha * self.mean) / (0.25 * alpha**2 + sigma**2)


def test_python_of_the_docs_on_solvers(capsys) -> None:
    """The states are told one by one; what is denoised spreads as the data do at last."""
    text = (Path(__file__).parent.parent / "docs" / "solvers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model = GaussianMixture(VPSDE(), torch.ones(1), torch.zeros(1, 2), 0.25 * torch.eye(2)[None])
    x_T = model.sde.prior_sample((500, 2), seeds=range(500))
    exec(block, {"get_solver": get_solver, "model": model, "x_T": x_T})
    *lines, same = capsys.readouterr().out.splitlines()
    assert same == "True True"
    spreads = [[float(number) for number in re.findall(r"\d+\.\d+", line)] for line in lines]
    assert len(spreads) == 12
    # Of 1000 numbers.
    assert spreads[0] == pytest.approx([1.0, 1.0, 0.0], abs=0.06)
    assert spreads[-1] == pytest.approx([0.0, 0.5, 0.5], abs=0.06)


@pytest.mark.slow
def test_python_of_the_docs_on_posteriors() -> None:
    """Samples lie in the box, densities are finite there, and answers have the shapes that are told."""
    text = (Path(__file__).parent.parent / "docs" / "sbi.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    small = {"model.width": 8, "model.num_blocks": 1, "likelihood.rtol": 0.05, "likelihood.atol": 0.05}
    shorter = block.replace("(2000, 2)", "(300, 2)").replace("box=(", f"num_steps=30, settings={small}, box=(")
    shorter = shorter.replace("1000,", "20,").replace("x[:5]", "x[:2]")
    rng = np.random.default_rng(0)
    names: dict = {"rng": rng, "score_sde": score_sde, "x_o": np.array([1.0, 0.0])}
    exec(shorter, {**names, "simulate": lambda theta: theta + 0.1 * rng.normal(size=theta.shape)}, names)
    for name in ("posterior", "several"):
        samples = names[name].sample(20, seed=0)
        assert samples.shape == (20, 2)
        assert ((samples >= [0.0, -1.0]) & (samples <= [2.0, 1.0])).all()
    assert np.isneginf(names["posterior"].log_prob([[2.1, 0.0]])).all()


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    root = Path(__file__).parent.parent
    assert [link for link in links if not (root / link).exists()] == []
