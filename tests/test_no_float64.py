"""No float64 tensor reaches an accelerator: Apple's have none.

A machine that has such an accelerator is not needed. Tensors of the class `Far` say that they lie on a device of their
own (PyTorch's "meta", which is free here), hold their numbers on the CPU, and pass each operation on to them: so
samples and densities can be compared with those of the CPU to the last bit. An operation that takes or yields a float64
tensor there is an error, and so is one that takes tensors of both places together, as on any accelerator.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from score_sde.common import float64
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.common.gaussian import isotropic
from score_sde.common.noise import BatchNoise
from score_sde.control import Controlled, Masked, Observation, PiGDM, Projection
from score_sde.data import Batch
from score_sde.models import FlowMap, GaussianMixture, QuantisedModel, ScoreModel
from score_sde.models.flow_map import UNTIL
from score_sde.sde import SDE, VESDE, VPSDE, DDPMLadder, SubVPSDE, ddpm_betas
from score_sde.solvers import SOLVERS, encode, get_solver, log_likelihood, matched_prior
from score_sde.solvers.density.bounds import (
    continuous_bound,
    discrete_bound,
    discretised_gaussian_decoder,
    gaussian_decoder,
    posterior_decoder,
    score_flow_bound,
)
from score_sde.solvers.fast.default import recommended
from score_sde.training.objectives import get_discrete_objective, get_objective
from score_sde.training.variational import VariationalBound
from tests.schedules import random_schedule

FAR = torch.device("meta")
SEEDS = range(3)


class Far(Tensor):
    """A far tensor lies on a device without float64.

    Args:
        here: the tensor's numbers, on the CPU.
    """

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Far:
        far: Any = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=FAR
        )
        far.here = here
        return far

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return operate(func, args, kwargs or {})


class FarDevice(TorchDispatchMode):
    """Within this mode the far device exists: tensors can be made on it, and moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})


class FarConstants(TorchFunctionMode):
    """Within this mode numbers become tensors on the far device and back; PyTorch's "meta" would forget them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist and isinstance(args[0], Far):
            return args[0].here.tolist()
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == FAR and not isinstance(args[0], Far):
            return func(*args, **{**kwargs, "device": "cpu"}).to(FAR)
        return func(*args, **kwargs)


def operate(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation of PyTorch on the numbers of its far tensors, if it may be done."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    target = kwargs.get("device")
    to_far = bool(far) if target is None else torch.device(target) == FAR
    if far:
        # Tensors of no dimension may come from the CPU, and so may the numbers that a copy brings.
        others = [tensor for tensor in tensors if not isinstance(tensor, Far) and tensor.ndim]
        assert not others or func is torch.ops.aten.copy_.default, f"{func} takes tensors of two devices"
    if target is not None:
        kwargs = {**kwargs, "device": "cpu"}
    out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if not to_far:
        return out
    assert all(leaf.dtype != torch.float64 for leaf in tree_leaves(out) if isinstance(leaf, Tensor)), (
        f"{func} makes a float64 tensor on a device that has none"
    )
    return tree_map(lambda leaf: Far(leaf) if type(leaf) is Tensor else leaf, out)


def _here(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, Far) else leaf


@pytest.fixture(autouse=True)
def far_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(float64, "WITHOUT_FLOAT64", {*float64.WITHOUT_FLOAT64, FAR.type})
    with FarDevice(), FarConstants():
        yield


class Network(nn.Module):
    """The network has a few layers, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.layers(torch.cat([x, torch.sin(labels / 20)[:, None]], dim=1))


def model_on(device: str | torch.device, sde: SDE | None = None) -> ScoreModel:
    # Of its own: a process that is a module goes where its model goes.
    return ScoreModel(Network(), copy.deepcopy(sde or VPSDE()), prediction="velocity").to(device)


def both(run: Any, sde: SDE | None = None) -> None:
    """Run something on the CPU and far away, from the same states; see that it gives the same."""
    sde = sde or VPSDE()
    x = sde.prior_sample((3, 3), seeds=SEEDS)
    near, far = run(model_on("cpu", sde), x), run(model_on(FAR, sde), x.to(FAR))
    for one, other in zip(tree_leaves(near), tree_leaves(far), strict=True):
        assert torch.equal(other.cpu(), one) if isinstance(one, Tensor) else one == other


def test_the_far_device_is_like_one() -> None:
    x = torch.ones(2, 3).to(FAR)
    assert (type(x), x.device, (x + 1).sum().item()) == (Far, FAR, 12)
    assert (type(torch.zeros(2, device=FAR)), type(x.cpu())) == (Far, Tensor)
    assert torch.equal((torch.tensor(2.0, dtype=torch.float64) * x).cpu(), torch.full((2, 3), 2.0))
    with pytest.raises(AssertionError, match="float64 tensor on a device"):
        x.double()
    with pytest.raises(AssertionError, match="float64 tensor on a device"):
        torch.ones(2, dtype=torch.float64).to(FAR)
    with pytest.raises(AssertionError, match="two devices"):
        x + torch.ones(2, 3)


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "default": [{"num_steps": 5}, {"num_steps": 5, "eta": 0.7}],
    "tuned": [{"table": recommended(5).table(VPSDE(), known)} for known in (None, isotropic(0.5))],
    "ode": [
        {"rtol": 1e-2, "atol": 1e-2},
        {"method": "adams", "num_steps": 5},
    ],
    "pc": [
        {"num_steps": 5},
        {"num_steps": 5, "predictor": "ancestral", "corrector": "ald"},
        {"num_steps": 5, "predictor": "euler_maruyama", "step_size": "published"},
    ],
    "sde": [{"num_steps": 5}, {"num_steps": 5, "method": "euler"}, {"adaptive": True, "rtol": 0.1, "atol": 0.1}],
    "adaptive_sde": [{"rtol": 0.5, "atol": 0.2}],
    "consistency": [],  # below, of a model that has jumps
}
CASES = [(name, options) for name in SOLVERS for options in OPTIONS.get(name, [{"num_steps": 5}])]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_solver(name: str, options: dict[str, Any]) -> None:
    both(lambda model, x: get_solver(name, **options)(model, x, seeds=SEEDS))


class Told(Network):
    """The network is told a second time."""

    def forward(self, x: Tensor, labels: Tensor, condition: Condition) -> Tensor:  # type: ignore[override]
        return super().forward(x, labels) * condition.values[UNTIL][:, 1:2]


def test_jumps() -> None:
    def jumped(model: ScoreModel, x: Tensor) -> Any:
        told = FlowMap(ScoreModel(Told(), model.sde, prediction="velocity")).to(x.device)
        return [get_solver("consistency", renoise=renoise)(told, x, seeds=SEEDS) for renoise in (False, True)]

    both(jumped)


@pytest.mark.parametrize(
    "sde", [SubVPSDE(), VESDE(), DDPMLadder(ddpm_betas(50)), random_schedule()], ids=lambda sde: type(sde).__name__
)
@pytest.mark.parametrize("name", ["default", "pc", "adaptive_sde"])
def test_every_process(name: str, sde: SDE) -> None:
    both(lambda model, x: get_solver(name, **OPTIONS[name][0])(model, x, seeds=SEEDS), sde)


# torchdiffeq has its times where the states are, and in float32 there.
@pytest.mark.parametrize(
    "options",
    [
        *({"method": method, "num_steps": 5} for method in ("euler", "midpoint", "heun2", "heun3", "rk4")),
        {"method": "scipy_solver", "rtol": 1e-3, "atol": 1e-3},
        {"rtol": 1e-3, "atol": 1e-3, "per_example": False},
    ],
    ids=str,
)
def test_torchdiffeq(options: dict[str, Any]) -> None:
    x = VPSDE().prior_sample((3, 3), seeds=SEEDS)
    near, far = (get_solver("ode", **options)(model_on(device), x.to(device)).x for device in ("cpu", FAR))
    torch.testing.assert_close(far.cpu(), near, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_torchdiffeqs_adams_needs_float64(method: str) -> None:
    x = VPSDE().prior_sample((3, 3), seeds=SEEDS).to(FAR)
    with pytest.raises(UserError, match=f"ODE method '{method}' needs float64, which meta has not: take one such as"):
        get_solver("ode", method=method, num_steps=5)(model_on(FAR), x)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_likelihood(divergence: str) -> None:
    prior = matched_prior(VPSDE(), torch.full((3,), 0.2), torch.full((3,), 0.7))
    both(
        lambda model, x: log_likelihood(model, x, divergence=divergence, seeds=SEEDS, rtol=1e-2, atol=1e-2, prior=prior)
    )
    both(lambda model, x: log_likelihood(model, x, divergence=divergence, seeds=SEEDS, method="adams", num_steps=5))


def test_a_mixture() -> None:
    """Its numbers are float64 and stay on the CPU, wherever the states are."""
    means = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.0]])
    mixture = GaussianMixture(VPSDE(), torch.ones(2), means, 0.1 * torch.eye(3).expand(2, 3, 3))
    both(lambda _, x: get_solver("default", num_steps=5)(mixture.to(x.device), x))
    both(lambda _, x: log_likelihood(mixture, x, divergence="exact", rtol=1e-2, atol=1e-2))
    both(lambda _, x: mixture.log_prob(x, torch.tensor([0.1, 0.5, 0.9]).to(x.device)))


def test_levels() -> None:
    network = nn.Conv2d(1, 4, 1)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = copy.deepcopy(network)

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.layer(x) + labels[:, None, None, None] / 100

    def run(_: ScoreModel, x: Tensor) -> Any:
        model = QuantisedModel(Logits(), VPSDE(), 4).to(x.device)
        x = x[:, None, :, None]
        losses = get_objective(VPSDE(), t_min=0.01)(
            model, Batch(x), BatchNoise(3, torch.Generator().manual_seed(0))
        ).values
        losses.mean().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        return losses.detach(), gradients, get_solver("default", num_steps=4)(model, x)

    both(run)


def test_encoding() -> None:
    both(lambda model, x: encode(model, x, rtol=1e-2, atol=1e-2))


def test_bounds() -> None:
    levels = torch.tensor([[0, 1, 2], [3, 0, 1], [2, 2, 0]])
    for make in (
        gaussian_decoder,
        lambda x: discretised_gaussian_decoder(levels.to(x.device), -1.0, 0.5, 4),
        lambda x: posterior_decoder(levels.to(x.device), -1.0, 0.5, 4),
    ):
        both(lambda model, x, make=make: continuous_bound(model, x, make(x), num_calls=3, seeds=SEEDS))
    both(lambda model, x: discrete_bound(model, x, gaussian_decoder(x), num_steps=5, seeds=SEEDS))
    both(lambda model, x: discrete_bound(model, x, gaussian_decoder(x), num_steps=50, num_calls=3, seeds=SEEDS))
    both(lambda model, x: score_flow_bound(model, x, num_calls=3, seeds=SEEDS))


def test_control() -> None:
    keep = Masked(torch.tensor([True, False, True]))
    y = keep(torch.full((3, 3), 0.3))
    both(lambda model, x: Controlled(get_solver("heun", num_steps=4), Projection(keep, y))(model, x, seeds=SEEDS))
    both(lambda model, x: get_solver("ddim", num_steps=4)(PiGDM(model, Observation(keep, y, 0.1)), x))


@pytest.mark.parametrize(
    ("weighting", "times"),
    [("sigma2", "uniform"), ("likelihood", "log_snr"), ("edm", "edm"), ("discrete", ""), ("learned", "")],
)
def test_a_training_step(weighting: str, times: str) -> None:
    sde: SDE = random_schedule(learn_ends=True) if weighting == "learned" else DDPMLadder(ddpm_betas(50))
    objective: Any
    if weighting == "discrete":
        objective = get_discrete_objective(sde)
    elif weighting == "learned":
        objective = VariationalBound()
    else:
        objective = get_objective(sde, weighting=weighting, times=times, t_min=0.02)

    def step(model: ScoreModel, x: Tensor) -> list[Tensor]:
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = objective(model, Batch(x), BatchNoise(len(x), torch.Generator().manual_seed(0)))
        losses.values.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return [losses.values.detach(), *(parameter.detach() for parameter in model.parameters())]

    both(step, sde)
