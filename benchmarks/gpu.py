"""What a GPU computes, and how fast: `python -m benchmarks.gpu`, at most ten minutes; docs/gpu.md has its output.

    equality   networks, samples and bits/dim on the GPU beside the same on the CPU, as ||gpu - cpu|| / ||cpu||
    training   steps (loss, gradients, clipping, Adam) of the CIFAR-10 networks of the Score-SDE paper on random
               pictures, beside diffusers' UNet2DModel of DDPM++'s shape (see `benchmarks.networks`), and what the
               trainer adds to a step
    use        samples and likelihoods a second, and what a solver takes beside its network calls
    tests      the project's tests, which use the GPU wherever the program would

Arithmetic is counted by PyTorch's counter (three times the forward pass for a step) and compared with what a large
matrix product in bfloat16 achieves in the same run. Every part is printed when it is measured; parts for which no time
is left are said to be left out. Without a GPU the same is measured on the CPU, on smaller networks.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import Peer, peak_arithmetic, seconds
from benchmarks.training import Contest, cifar10_shape
from score_sde.common.condition import Condition
from score_sde.data import Bins, Dataset
from score_sde.experiment import build, configuration
from score_sde.models import DDPM, MLP, Given, NCSNpp, ScoreModel, UNet
from score_sde.models.layers.text import Text
from score_sde.models.networks.adm import ADM
from score_sde.models.networks.dit import DiT
from score_sde.sde import VESDE, VPSDE
from score_sde.solvers import get_solver, log_likelihood
from score_sde.training.optimization import make_optimizer

CIFAR10 = {
    "DDPM++": "configs/vp/cifar10_ddpmpp_continuous.py",
    "NCSN++, deep": "configs/ve/cifar10_ncsnpp_deep_continuous.py",
}
# Words that there are, and of a text.
WORDS = 50, 9
SOLVERS: dict[str, dict[str, Any]] = {
    "default": {"num_steps": 10},
    "dpmpp_2m": {"num_steps": 10},
    "dpmpp_2m_sde": {"num_steps": 10},
    "pc": {"num_steps": 10},
    "ode": {"method": "rk4", "num_steps": 5},
}


class Setting(NamedTuple):
    """A setting says how a network is run in training."""

    bfloat16: bool = False
    channels_last: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """The name says the setting in words."""
        parts = ["bfloat16" if self.bfloat16 else "float32"]
        return ", ".join(parts + ["channels last"] * self.channels_last + ["compiled"] * self.compiled)


SETTINGS = (Setting(), Setting(True), Setting(True, True), Setting(True, False, True))


class Clock:
    """A clock tells how much of the time allowed is left."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def allows(self, what: str, needed: float) -> bool:
        """Say whether `needed` seconds are left; print a line if they are not."""
        left = self._end - time.monotonic()
        if left < needed:
            print(f"Left out for want of time: {what}.\n", flush=True)
        return left >= needed


def print_table(heading: str, rows: list[list[str]]) -> None:
    """Print a table in Markdown, whose columns are separated by `|` in the heading."""
    names = heading.split("|")
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *rows]
    print("\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines) + "\n", flush=True)


# Equality


def networks(width: int) -> dict[str, tuple[nn.Module, Any, tuple[int, ...]]]:
    """Return networks with random weights, their processes, and the shape of an example."""
    torch.manual_seed(0)
    pyramids: dict[str, Any] = {"progressive": "output_skip", "progressive_input": "input_skip"}
    return {
        "DDPM++": (NCSNpp(32, 3, channels=width, num_blocks=2, init_scale=1.0), VPSDE(), (3, 32, 32)),
        "NCSN++": (
            NCSNpp(32, 3, channels=width, num_blocks=1, init_scale=1.0, **pyramids),
            VESDE(),
            (3, 32, 32),
        ),
        "DDPM": (DDPM(32, 3, channels=width), VPSDE(), (3, 32, 32)),
        "MLP": (MLP(16), VPSDE(), (16,)),
        "U-Net, series": (unet(1, width), VPSDE(), (2, 64)),
        "U-Net, fields": (unet(2, width, periodic=(False, True)), VPSDE(), (2, 24, 40)),
        "U-Net, volumes": (unet(3, width), VPSDE(), (1, 12, 16, 20)),
        "U-Net, words": (unet(2, width, conditions={"caption": Text(*WORDS)}), VPSDE(), (2, 32, 32)),
        "DiT": (started(DiT(32, 3, width=4 * width, num_blocks=4, num_heads=4)), VPSDE(), (3, 32, 32)),
        "DiT, words": (
            started(DiT(32, 3, width=4 * width, num_blocks=4, num_heads=4, conditions={"caption": Text(*WORDS)})),
            VPSDE(),
            (3, 32, 32),
        ),
        "ADM": (started(ADM(32, 3, channels=width, head_width=16)), VPSDE(), (3, 32, 32)),
    }


def unet(dims: int, width: int, **options: Any) -> nn.Module:
    """Return a U-Net along `dims` axes whose output does not start at zero."""
    return started(UNet({1: 2, 2: 2, 3: 1}[dims], dims=dims, channels=width, num_blocks=1, **options))


def started(network: nn.Module) -> nn.Module:
    """Return a network of which no weights are zero."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def difference(there: Tensor, here: Tensor) -> float:
    """Return `||there - here|| / ||here||`."""
    here = here.double()
    return ((there.cpu().double() - here).norm() / here.norm()).item()


def equality(device: torch.device, width: int) -> None:
    """Print how far the device's results lie from the CPU's."""
    rows = []
    for name, (network, sde, shape) in networks(width).items():
        cells = [name]
        for dtype, fast in ((torch.float64, False), (torch.float32, False), (torch.float32, True)):
            with products(fast):
                cells.append(f"{compare_networks(network, sde, shape, dtype, device):.1e}")
        rows.append(cells)
    print_table("network | float64 | float32 | float32, TF32 products", rows)

    network, sde, shape = networks(width)["DDPM++"]
    model = ScoreModel(network, sde, "velocity").eval()
    seeds = range(4)
    here = {name: draw(model, name, shape, seeds) for name in SOLVERS}
    x = torch.randn(len(seeds), *shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    log_prob = likelihood(model, x)
    rows = []
    model.to(device)
    there = {}
    for fast in (False, True):
        with products(fast):
            there[fast] = {name: draw(model, name, shape, seeds, device) for name in SOLVERS}
    for name in SOLVERS:
        rows.append([name, *(f"{difference(there[fast][name], here[name]):.1e}" for fast in (False, True))])
    print_table("samples of DDPM++ | float32 | float32, TF32 products", rows)
    cells = []
    for fast in (False, True):
        with products(fast):
            nats = (likelihood(model, x.to(device)).cpu() - log_prob).abs().max().item()
        cells.append(f"{nats / x[0].numel() / math.log(2):.1e}")
    print_table("log-likelihood of DDPM++ | float32, bits/dim | TF32 products, bits/dim", [["largest error", *cells]])


@contextmanager
def products(fast: bool) -> Iterator[None]:
    """Let float32 products on a GPU be rounded to TF32 within the block (PyTorch's habit for convolutions), or not."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = fast
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def compare_networks(network: nn.Module, sde: Any, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> float:
    """Return the difference of one network's score on the device from that on the CPU."""
    model = ScoreModel(network.cpu().to(dtype), sde, "noise").eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, *shape, generator=generator).to(dtype)
    t = torch.linspace(0.1, 1.0, 4)
    told = None
    if getattr(network, "conditions", None):
        told = Condition({"caption": torch.randint(0, WORDS[0], (4, WORDS[1]), generator=generator)})
    with torch.no_grad():
        here = Given(model, told).score(x, t)
        there = Given(model.to(device), told and told.to(device)).score(x.to(device), t.to(device))
    network.cpu()
    return difference(there, here)


def draw(
    model: ScoreModel, solver: str, shape: tuple[int, ...], seeds: range, device: Any = "cpu", **options: Any
) -> Tensor:
    """Draw samples, each by its own seed."""
    x_T = model.sde.prior_sample((len(seeds), *shape), seeds=seeds, device=device)
    with torch.no_grad():
        return get_solver(solver, **(SOLVERS[solver] | options))(model, x_T, seeds=seeds).x


def likelihood(model: ScoreModel, x: Tensor, num_steps: int = 5) -> Tensor:
    """Return log-likelihoods by a Runge-Kutta method of order four with `num_steps` steps, in nats, `(B,)`."""
    options: dict[str, Any] = {"method": "rk4", "num_steps": num_steps, "t_min": 1e-3}
    return log_likelihood(model, x, seeds=range(len(x)), **options).log_prob


# Training


class Steps:
    """Training steps are done with a network on a batch that lies ready."""

    def __init__(self, network: nn.Module, objective: Any, setting: Setting, batch: int, device: torch.device) -> None:
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=layout).train()  # type: ignore[call-overload]
        self.loss = objective
        self.parameters = list(network.parameters())
        config = configuration.load_file(CIFAR10["DDPM++"])
        self.optimizer = make_optimizer(self.parameters, config.training)
        self.x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=setting.bfloat16)
        if setting.compiled:
            self.network.compile()

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with self.autocast:
            loss = self.loss(self.network, self.x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def cifar10_networks(width: int) -> dict[str, Callable[[], nn.Module]]:
    """Return what is trained, by name; wider networks are the paper's with `width` 128."""

    def ours(file: str) -> nn.Module:
        config = configuration.load_file(file)
        config.model.channels = width
        empty = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
        model: Any = build.make_model(config, Dataset("random pictures", empty, empty, Bins(256)))
        return model.network

    return {
        "UNet2DModel": lambda: Peer(width),
        "DDPM++": lambda: ours(CIFAR10["DDPM++"]),
        "NCSN++, deep": lambda: ours(CIFAR10["NCSN++, deep"]),
    }


def square(network: nn.Module, x: Tensor) -> Tensor:
    """Return a loss whose gradient takes what the noise's takes."""
    t = torch.rand(len(x), device=x.device)
    noise = torch.randn_like(x)
    return (network(x + noise, 1 + 998 * t).float() - noise).square().mean()


def arithmetic(network: nn.Module) -> int:
    """Return the number of operations of an image's forward pass."""
    # Fused attention is not counted on CPUs; its parts are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.eval()(torch.randn(1, 3, 32, 32), torch.ones(1))
    return counter.get_total_flops()


def training(device: torch.device, width: int, batch: int, clock: Clock, compiled: bool) -> None:
    """Print speeds of training steps."""
    peak = peak_arithmetic(torch.bfloat16, device.type)
    rows = []
    plan = [(name, setting) for setting in SETTINGS for name in cifar10_networks(width)]
    counts = {name: arithmetic(make()) for name, make in cifar10_networks(width).items()}
    first_speed: dict[str, float] = {}
    for name, setting in plan:
        if (setting.compiled and not compiled) or not clock.allows(
            f"{name}, {setting.name}", 75 if setting.compiled else 20
        ):
            continue
        step = Steps(cifar10_networks(width)[name](), square, setting, batch, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start_up = sum(seconds(step, device.type) for _ in range(3))
        speed = batch / statistics.median(seconds(step, device.type) for _ in range(12 if device.type == "cuda" else 3))
        memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.type == "cuda" else ""
        first_speed.setdefault(setting.name, speed)
        share = 3 * counts[name] * speed / peak
        cells = [name, setting.name, f"{speed:.0f}" if speed > 20 else f"{speed:.1f}"]
        cells += [f"{speed / first_speed[setting.name]:.2f}", f"{100 * share:.1f}%", memory, f"{start_up:.0f}"]
        rows.append(cells)
        print(" | ".join(cells), file=sys.stderr, flush=True)
        del step
        torch.compiler.reset()
    print_table(
        "network | setting | images/s | beside UNet2DModel | of peak | GB | first three steps, s",
        rows,
    )
    gigas = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in counts.items())
    print(
        f"Width {width}, batches of {batch}, medians of steps. Peak: a matrix product in bfloat16 does "
        f"{peak / 1e12:.3g} TFLOP/s. GFLOP of an image's forward pass: {gigas}.\n",
        flush=True,
    )


def trainer(width: int, batch: int, steps: int) -> None:
    """Print what the trainer adds to a step."""
    config, dataset = cifar10_shape(width, batch)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(config, dataset, Path(folder))
        for loop in (contest.plain, contest.train):
            loop(3)
        device = next(contest.model.parameters()).device.type
        times: dict[str, list[float]] = {"plain": [], "trainer": []}
        for _ in range(3):
            times["plain"].append(seconds(lambda: contest.plain(steps), device) / steps)
            times["trainer"].append(seconds(lambda: contest.train(steps), device) / steps)
    plain, whole = (statistics.median(values) for values in times.values())
    print_table(
        "DDPM++ | plain loop, images/s | trainer, images/s | trainer adds",
        [["`auto`", f"{batch / plain:.1f}", f"{batch / whole:.1f}", f"{100 * (whole / plain - 1):+.1f}%"]],
    )


# Use


def use(device: torch.device, width: int, batch: int) -> None:
    """Print speeds of samples and likelihoods, and the solvers' own time."""
    network = cifar10_networks(width)["DDPM++"]()
    model = ScoreModel(network, VPSDE()).to(device).eval()
    x = torch.randn(batch, 3, 32, 32, device=device)
    t = torch.tensor(0.5, device=device)
    with torch.no_grad():
        call = statistics.median(seconds(lambda: model.score(x, t), device.type) for _ in range(5))
    rows = []
    for name in ("default", "dpmpp_2m", "dpmpp_2m_sde", "pc"):
        solver = get_solver(name, num_steps=20)
        x_T = model.sde.prior_sample(tuple(x.shape), seeds=range(batch), device=device)
        calls = solve(solver, model, x_T)
        taken = statistics.median(seconds(partial(solve, solver, model, x_T), device.type) for _ in range(3))
        rows.append([name, str(calls), f"{batch / taken:.1f}", f"{100 * (taken / (calls * call) - 1):+.1f}%"])
    print_table("sampling | calls | images/s | beside the calls alone", rows)

    data = x.clamp(-1, 1)
    taken = min(seconds(lambda: likelihood(model, data, 5), device.type) for _ in range(2))
    print_table(
        "likelihood, `hutchinson` | calls | images/s | network calls' time",
        [["rk4", "20", f"{batch / taken:.1f}", f"{taken / (20 * call):.2f}"]],
    )
    print(f"Batches of {batch}, width {width}, float32; a call takes {1e3 * call:.1f} ms.\n", flush=True)


def solve(solver: Any, model: ScoreModel, x_T: Tensor) -> int:
    """Draw samples; return the network calls."""
    with torch.no_grad():
        return solver(model, x_T, seeds=range(len(x_T))).nfe


# Tests


def tests() -> None:
    """Run the project's tests on this machine, whose GPU they use where it is the default, and print what they say."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "--tb=short"]
    if find_spec("xdist"):
        command += ["-n", str(os.cpu_count() or 1)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    told = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR")) or " passed" in line]
    print("Tests: " + "\n".join(told or ended.stdout.splitlines()[-1:]) + "\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="how long it may take")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", default="equality,trainer,use,tests,training", help="in this order")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="leave out compiled networks")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    device, clock = torch.device(arguments.device), Clock(arguments.minutes)
    on_gpu = device.type != "cpu"
    width, batch = (128, 128) if on_gpu else (32, 2)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; PyTorch {torch.__version__}, Python {platform.python_version()}.\n", flush=True)
    for part in arguments.parts.split(","):
        if part == "equality":
            equality(device, 32 if on_gpu else 8)
        elif part == "use" and clock.allows("samples and likelihoods", 30):
            use(device, width, batch)
        elif part == "trainer" and clock.allows("the trainer", 40):
            trainer(width, batch, 40 if on_gpu else 3)
        elif part == "tests" and clock.allows("the tests", 200 if on_gpu else 1000):
            tests()
        elif part == "training":
            training(device, width, batch, clock, arguments.compiled and on_gpu)


if __name__ == "__main__":
    main()
