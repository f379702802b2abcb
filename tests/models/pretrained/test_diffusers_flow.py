"""diffusers' schedulers of flows: our process, its times and its methods give the library's numbers."""

from __future__ import annotations

import inspect
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models import GaussianMixture
from score_sde.models.pretrained.diffusers import load_pipeline, score_model
from score_sde.models.pretrained.diffusers_flow import FLOWS, TIMES, flow_times
from score_sde.models.pretrained.diffusers_schedulers import meaning
from score_sde.sde import SDE, RectifiedFlow
from score_sde.sde.truncated import Truncated
from score_sde.solvers import get_solver
from score_sde.solvers.grids import time_grid
from tests.experiment.test_checkpoints import complaint, run
from tests.models.pretrained.test_diffusers import SIZE, images, small_unet

diffusers = pytest.importorskip("diffusers")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"shift": 3.0},
    {"shift": 0.5, "num_train_timesteps": 400},
    {"shift": 3.0, "use_karras_sigmas": True},
    {"shift": 2.0, "use_exponential_sigmas": True},
    {"shift": 3.0, "use_beta_sigmas": True},
    {"shift": 6.0, "shift_terminal": 0.1},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1},
    {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_image_seq_len": 64, "max_image_seq_len": 8192},
    {"use_dynamic_shifting": True, "use_karras_sigmas": True},
]
NUM_PATCHES = 1024


def prepared(scheduler: Any, num_steps: int) -> Any:
    """Return a scheduler whose times are set, of an image of so many patches as its pipelines reckon it."""
    c = scheduler.config
    mu = {}
    if c.get("use_dynamic_shifting"):
        slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
        mu = {"mu": NUM_PATCHES * slope + c.base_shift - slope * c.base_image_seq_len}
    scheduler.set_timesteps(num_steps, **mu)
    return scheduler


def euler(**settings: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**settings)


def heun(**settings: Any) -> Any:
    return diffusers.FlowMatchHeunDiscreteScheduler(**settings)


@torch.no_grad()
def sampled(scheduler: Any, network: Any, x: Tensor) -> Tensor:
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, timestep), timestep, x).prev_sample
    return x


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_euler_s_method_on_the_librarys_times(settings: dict[str, Any]) -> None:
    """The network is told its timesteps, and samples are the library's, to float32's rounding."""
    unet = small_unet()
    for num_steps in (2, 7):
        scheduler = prepared(euler(**settings), num_steps)
        times = flow_times(scheduler.config, num_steps, NUM_PATCHES)
        torch.testing.assert_close(times, scheduler.sigmas[:-1].double(), rtol=1e-6, atol=0)
        model: Any = score_model(unet, scheduler)
        assert model.sde.t_min <= float(times[-1])
        torch.testing.assert_close(model.noise_label(times), scheduler.timesteps.double(), rtol=1e-6, atol=0)
        theirs = sampled(scheduler, lambda x, t: unet(x, t).sample, images())
        with torch.no_grad():
            ours = get_solver("ddim", grid=times)(model, images())
        assert ours.nfe == num_steps
        torch.testing.assert_close(ours.x, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}], ids=str)
def test_heun_s_method_on_the_librarys_times(settings: dict[str, Any]) -> None:
    unet, scheduler = small_unet(), prepared(heun(**settings), 6)
    theirs = sampled(scheduler, lambda x, t: unet(x, t).sample, images())
    with torch.no_grad():
        ours = get_solver("flow_heun", grid=flow_times(scheduler.config, 6))(score_model(unet, scheduler), images())
    assert ours.nfe == len(scheduler.timesteps) == 11
    torch.testing.assert_close(ours.x, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(("sde", "tolerance"), [(Truncated(RectifiedFlow(), 0.9), 1e-12), (RectifiedFlow(), 1e-7)])
def test_on_straight_lines_ddim_is_euler_s_method_in_t(sde: SDE, tolerance: float) -> None:
    """In float64, and from nothing but noise to the eight digits of a first step at alpha = 1e-8; so is Heun's."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    covariances = 0.1 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    model = GaussianMixture(sde, torch.tensor([0.3, 0.7]), means, covariances)
    x_T = model.sde.prior_sample((8, 2), seeds=range(8), dtype=torch.float64)
    times = sde.T * flow_times({"shift": 3.0}, 9)

    def flow(x: Tensor, t: Tensor) -> Tensor:
        return (x - model.denoise(x, t)) / t

    x, with_heun = x_T, x_T
    for t, s in pairwise([*times, torch.zeros((), dtype=torch.float64)]):
        x = x + (s - t) * flow(x, t)
        ahead = with_heun + (s - t) * flow(with_heun, t)
        with_heun = ahead if s == 0 else with_heun + (s - t) * (flow(with_heun, t) + flow(ahead, s)) / 2
    for name, expected in (("ddim", x), ("flow_heun", with_heun)):
        torch.testing.assert_close(get_solver(name, grid=times)(model, x_T).x, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shifted_grid_has_the_librarys_times(shift: float) -> None:
    times = flow_times({"shift": shift}, 12)
    grid = time_grid(RectifiedFlow(0.0), f"uniform_t:{shift:g}", 12, float(times[-1]))
    torch.testing.assert_close(grid, times, rtol=1e-12, atol=0)


def test_a_pipeline_of_a_flow_by_the_command_line(tmp_path: Path, capsys: Any) -> None:
    pipeline = diffusers.DDPMPipeline(unet=small_unet(), scheduler=euler(shift=3.0))
    pipeline.save_pretrained(tmp_path / "flow")
    model: Any = load_pipeline(tmp_path / "flow")
    assert isinstance(model.sde, RectifiedFlow)
    last = float(flow_times({"shift": 3.0}, 5)[-1])
    values = {"num_samples": 2, "solver": "ddim", "num_steps": 5, "grid": "uniform_t:3", "t_min": last}
    asked = [f"--config.sampling.{key}={value}" for key, value in values.items()]
    command = ["--mode=sample", f"--checkpoint={tmp_path / 'flow'}", f"--workdir={tmp_path / 'run'}", *asked]
    assert run(*command) == 0
    with np.load(tmp_path / "run" / "samples" / "ddim.npz") as file:
        found = file["images"]
    x_T = model.sde.prior_sample((2, 3, SIZE, SIZE), seeds=[0, 1])
    theirs = sampled(prepared(pipeline.scheduler, 5), lambda x, t: pipeline.unet(x, t).sample, x_T)
    levels = ((theirs + 1) * 128).floor().clamp(0, 255).movedim(1, -1)
    assert np.abs(found.astype(float) - levels.numpy()).max() <= 1
    assert "not by 'x'" in complaint(capsys, *command, "--config.sampling.grid=uniform_t:x")
    file_of_settings = tmp_path / "flow" / "scheduler" / "scheduler_config.json"
    settings = json.loads(file_of_settings.read_text(encoding="utf-8"))
    for wrong, said in {
        ("invert_sigmas", True): "has invert_sigmas=True: its network counts time from noise to data",
        ("shift", -1.0): "has shift=-1.0, which must be a number above 0",
        ("shift", "much"): "scheduler_config.json is not for a FlowMatchEulerDiscreteScheduler: ",
        ("num_train_timesteps", 1): "has num_train_timesteps=1, which must be a number above 1",
        ("prediction_type", "epsilon"): "has prediction_type='epsilon', which is not known here",
    }.items():
        file_of_settings.write_text(json.dumps(settings | dict([wrong])), encoding="utf-8")
        with pytest.raises(UserError) as error:
            load_pipeline(tmp_path / "flow")
        assert "\n" not in str(error.value)
        assert said in str(error.value)


@pytest.mark.parametrize("name", FLOWS)
def test_every_setting_is_known(name: str) -> None:
    taken = set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self"}
    assert taken <= TIMES | {"num_train_timesteps", "invert_sigmas"}


def test_times_that_cannot_be_told() -> None:
    with pytest.raises(UserError, match="depend on the size of the image: say num_patches"):
        flow_times({"use_dynamic_shifting": True}, 5)
    with pytest.raises(UserError, match="these times are at least 2, not 1"):
        flow_times({"shift_terminal": 0.1}, 1)
    with pytest.raises(UserError, match="max_image_seq_len=10, which must be a number above 256"):
        flow_times({"use_dynamic_shifting": True, "max_image_seq_len": 10}, 5, 100)
    assert flow_times({}, 1).tolist() == [1.0]
    assert math.isclose(float(meaning(euler(shift=2.0)).sde.t_min), 2e-3 / 1.001, rel_tol=1e-9)
