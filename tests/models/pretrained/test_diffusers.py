"""Pipelines of diffusers read here, and ours read there: the same numbers, on small models made and saved locally."""

from __future__ import annotations

import builtins
import json
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models import DDPM, NCSNpp, ScoreModel
from score_sde.models.pretrained.diffusers import image_units, load_pipeline, rungs, score_model
from score_sde.models.pretrained.diffusers_export import save_pipeline, to_unet
from score_sde.sde import VESDE, VPSDE, DDPMLadder, cosine_betas
from score_sde.solvers import get_solver
from score_sde.solvers.density.likelihood import log_likelihood

diffusers = pytest.importorskip("diffusers")

SIZE = 8


def randomise(module: Any, seed: int = 0) -> Any:
    """Give all weights an ordinary size, those that begin at zero included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if parameter.ndim >= 2:
                parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(0.1 * noise + float("norm" in name and name.endswith("weight")))
    return module.eval()


def images(count: int = 2, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)


def small_unet(**changes):
    settings = {
        "sample_size": SIZE,
        "block_out_channels": (8, 16),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return randomise(diffusers.UNet2DModel(**(settings | changes)))


def small_ve_unet():
    return small_unet(
        block_out_channels=(16, 16),
        down_block_types=("SkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "SkipUpBlock2D"),
        time_embedding_type="fourier",
        mid_block_scale_factor=2**0.5,
    )


@pytest.fixture(scope="module")
def ddpm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=50, beta_end=0.2)
    diffusers.DDPMPipeline(unet=small_unet(), scheduler=scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ve_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ve")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_max=20.0)
    diffusers.ScoreSdeVePipeline(unet=small_ve_unet(), scheduler=scheduler).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_ddpm_pipeline_predicts_the_same_noise(ddpm_folder):
    model: Any = load_pipeline(ddpm_folder)
    theirs = diffusers.DDPMPipeline.from_pretrained(ddpm_folder)
    x = images()
    for rung in (0, 7, 49):
        expected = theirs.unet(x, rung).sample
        time = model.sde.time(torch.tensor(rung))
        torch.testing.assert_close(model.noise(x, time), expected, rtol=1e-5, atol=1e-5)
        alpha_bar = theirs.scheduler.alphas_cumprod[rung].double()
        torch.testing.assert_close(model.sde.alpha(time) ** 2, alpha_bar, rtol=1e-5, atol=0)
    assert image_units(model) == ((3, SIZE, SIZE), -1.0, 1.0)


@torch.no_grad()
def test_a_ve_pipeline_gives_the_same_score(ve_folder):
    model, theirs = load_pipeline(ve_folder), diffusers.DiffusionPipeline.from_pretrained(ve_folder)
    theirs.scheduler.set_timesteps(10)
    theirs.scheduler.set_sigmas(10)
    x = images()
    for time, sigma in zip(theirs.scheduler.timesteps, theirs.scheduler.sigmas, strict=True):
        torch.testing.assert_close(model.sde.sigma(time.double()).float(), sigma, rtol=1e-5, atol=0)
        expected = theirs.unet(x, sigma.expand(2)).sample
        torch.testing.assert_close(model.score(x, time), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert image_units(model) == ((3, SIZE, SIZE), 0.0, 1.0)


COSINE = {"beta_schedule": "squaredcos_cap_v2"}
# Zero terminal SNR: the first step is made at alpha(T) = 0.
FROM_NOISE = {"rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    ("prediction", "settings", "tolerance"),
    [
        ("epsilon", COSINE, 1e-4),
        ("v_prediction", COSINE, 1e-4),
        ("sample", COSINE, 1e-4),
        ("v_prediction", FROM_NOISE, 1e-5),
        ("sample", FROM_NOISE, 1e-5),
    ],
)
@torch.no_grad()
def test_ddim_is_theirs_on_the_same_timesteps(prediction, settings, tolerance):
    unet, steps = small_unet().double(), 10
    theirs = diffusers.DDIMScheduler(
        timestep_spacing="trailing", clip_sample=False, prediction_type=prediction, **settings
    )
    theirs.set_timesteps(steps)
    model = score_model(unet, theirs)
    assert model.sde.ends_in_noise == (settings == FROM_NOISE)
    x_T = images(dtype=torch.float64)
    ours = get_solver("ddim", num_steps=steps, grid=rungs(model, theirs.timesteps))(model, x_T)
    x = x_T
    for timestep in theirs.timesteps:
        x = theirs.step(unet(x, timestep).sample, timestep, x).prev_sample
    assert ours.nfe == steps
    assert (ours.x - x).abs().max() < tolerance * x.abs().max()


def test_models_that_predict_variances_too():
    unet = small_unet(out_channels=6)
    model = score_model(unet, diffusers.DDPMScheduler(variance_type="learned_range"))
    x = images()
    with torch.no_grad():
        expected = unet(x, 999).sample[:, :3]
        torch.testing.assert_close(model.noise(x, torch.tensor(1.0)), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="makes 6 channels of 3, but its DDPMScheduler has variance_type='fixed_small'"):
        score_model(unet, diffusers.DDPMScheduler())


OURS: dict[str, dict[str, Any]] = {
    "ddpm": {"channels": 32, "channel_multipliers": (1, 2), "num_blocks": 2, "attention_resolutions": (8,)},
    "ddpm deep": {"channels": 32, "channel_multipliers": (1, 1, 2), "num_blocks": 1, "attention_resolutions": (4,)},
    "ddpm uncentred": {"channels": 64, "channel_multipliers": (1,), "num_blocks": 1, "centered": False},
}


def our_ddpm(name: str = "ddpm", in_channels: int = 3) -> DDPM:
    return randomise(DDPM(SIZE, in_channels, **OURS[name]))


def our_ncsnpp(**changes) -> NCSNpp:
    settings: dict[str, Any] = {
        "channels": 128,
        "channel_multipliers": (1, 1),
        "num_blocks": 1,
        "attention_resolutions": (4,),
        "embedding": "fourier",
        "fir": True,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "scale_by_sigma": True,
        "centered": False,
    }
    return randomise(NCSNpp(SIZE, 3, **(settings | changes)))


def double_embedding(unet, network: Any):
    """Give their network our embedding of the timestep; theirs is float32 whatever the precision of the weights."""
    unet.time_proj = network.embedding.features
    return unet


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_our_ddpm_is_a_unet_of_theirs(name, channels):
    network = our_ddpm(name, channels).double()
    labels, x = torch.tensor([3.0, 640.0], dtype=torch.float64), images(channels=channels, dtype=torch.float64)
    expected = network(x, labels)
    found = double_embedding(to_unet(network, SIZE), network)(x, labels).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    torch.testing.assert_close(
        to_unet(network.float(), SIZE)(x.float(), labels).sample,
        network(x.float(), labels),
        rtol=0,
        atol=2e-5 * float(expected.abs().max()),
    )


@torch.no_grad()
def test_our_ncsnpp_is_a_unet_of_theirs():
    network = our_ncsnpp().double()
    labels, x = torch.tensor([0.3, 17.0], dtype=torch.float64), images(dtype=torch.float64)
    expected = network(x, labels)
    found = to_unet(network, SIZE)(x, labels).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def ladder_model(prediction: str = "noise") -> ScoreModel:
    return ScoreModel(our_ddpm(), DDPMLadder(cosine_betas(40)), prediction, "rung", scale_input=False)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "denoised"])
@torch.no_grad()
def test_our_pipeline_there_and_back(prediction, tmp_path):
    model = ladder_model(prediction)
    save_pipeline(model, tmp_path / "pipeline", SIZE)
    returned = load_pipeline(tmp_path / "pipeline")
    x, t = images(), torch.tensor([0.1, 0.9])
    expected = model.noise(x, t)
    torch.testing.assert_close(returned.noise(x, t), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    theirs.set_progress_bar_config(disable=True)
    drawn = theirs(batch_size=2, num_inference_steps=4, output_type="np", generator=torch.Generator().manual_seed(0))
    assert drawn.images.shape == (2, SIZE, SIZE, 3)


@torch.no_grad()
def test_our_ve_pipeline_there_and_back(tmp_path):
    model = ScoreModel(our_ncsnpp(), VESDE(0.02, 30.0), "score", "sigma", scale_input=False)
    save_pipeline(model, tmp_path / "pipeline", SIZE)
    returned: Any = load_pipeline(tmp_path / "pipeline")
    assert (returned.sde.sigma_min, returned.sde.sigma_max) == (0.02, 30.0)
    x, t = images(), torch.tensor([0.1, 0.9])
    expected = model.score(x, t)
    torch.testing.assert_close(returned.score(x, t), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    theirs.set_progress_bar_config(disable=True)
    assert theirs(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, SIZE, SIZE, 3)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_likelihood_of_a_pipeline_is_that_of_our_network(divergence):
    """Two networks, two implementations of attention, one likelihood."""
    network: Any = DDPM(4, 1, channels=32, channel_multipliers=(1,), num_blocks=1, attention_resolutions=(4,)).double()
    randomise(network)
    with torch.no_grad():
        network.head.conv.weight.mul_(0.3)
    unet = double_embedding(to_unet(network, 4), network)
    theirs = score_model(unet, diffusers.DDPMScheduler(30, beta_start=0.003, beta_end=0.16))
    ours = ScoreModel(network, theirs.sde, "noise", "rung", scale_input=False)
    x = 0.3 * images(2, 1, torch.float64)[..., :4, :4]
    options = {"divergence": divergence, "seeds": range(2), "method": "rk4", "num_steps": 10}
    expected, found = (log_likelihood(model, x, **options) for model in (ours, theirs))
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=1e-9, atol=0)
    assert found.nfe == expected.nfe


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_class_embeds": 3}, "told classes"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 10}, "learned vector"),
        ({"out_channels": 4}, "makes 4 channels of 3"),
        ({"sample_size": None}, "how large its images are"),
    ],
)
def test_models_that_cannot_be_read(changes, reason):
    with pytest.raises(UserError, match=reason):
        score_model(small_unet(**changes), diffusers.DDPMScheduler())


def test_schedulers_that_cannot_be_read():
    with pytest.raises(UserError, match="EDMEulerScheduler scales its network's input and output by sigma_data"):
        score_model(small_unet(), diffusers.EDMEulerScheduler())
    with pytest.raises(UserError, match="has a Fourier embedding, so it divides by its label"):
        score_model(small_ve_unet(), diffusers.DDPMScheduler())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: NCSNpp(SIZE, 3, channels=32, channel_multipliers=(1, 1), num_blocks=1), "skip_rescale"),
        (lambda: NCSNpp(SIZE, 3, channels=32, skip_rescale=False, num_blocks=1), "plain convolutions"),
        (lambda: our_ncsnpp(progressive="none"), "skip pyramids"),
        (lambda: our_ncsnpp(combine="cat"), "skip pyramids"),
        (lambda: our_ncsnpp(fir_kernel=(1, 2, 1)), "filtered by"),
        (lambda: our_ncsnpp(scale_by_sigma=False), "divides its output"),
        (lambda: our_ncsnpp(channels=64, attention_resolutions=()), "same number of groups"),
        (lambda: DDPM(SIZE, 3, channels=16, channel_multipliers=(1, 2)), "same number of groups"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
    ],
)
def test_networks_that_cannot_be_written(network, reason):
    with pytest.raises(UserError, match=reason):
        to_unet(network(), SIZE)


def test_models_that_cannot_be_written(tmp_path):
    network = our_ddpm()
    for model, reason in [
        (ScoreModel(network, VPSDE(), "noise", "time", scale_input=False), "DDPM's ladder or VE"),
        (ScoreModel(network, DDPMLadder(cosine_betas(40)), "noise", "log_snr", scale_input=False), "tells its network"),
        (ScoreModel(network, DDPMLadder(cosine_betas(40)), "edm", "rung", scale_input=False), "predicts one of"),
        (ScoreModel(network, VESDE(), "score", "sigma"), "divide its network's input"),
        (ScoreModel(network, VESDE(), "score", "sigma", scale_input=False), "Fourier embeddings"),
    ]:
        with pytest.raises(UserError, match=reason):
            save_pipeline(model, tmp_path / "none", SIZE)
    assert not (tmp_path / "none").exists()


def test_what_is_no_pipeline(tmp_path):
    with pytest.raises(UserError, match="cannot read the pipeline") as error:
        load_pipeline(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}')
    with pytest.raises(UserError, match="not a pipeline of a UNet2DModel, but FluxPipeline"):
        load_pipeline(tmp_path)


def test_weights_that_do_not_fit_are_named(ddpm_folder, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(ddpm_folder, folder)
    settings = json.loads((folder / "unet" / "config.json").read_text())
    widths = [2 * width for width in settings["block_out_channels"]]
    (folder / "unet" / "config.json").write_text(json.dumps(settings | {"block_out_channels": widths}))
    with pytest.raises(UserError, match=r"conv_in\.weight has shape \(8, 3, 3, 3\), the network needs \(16,") as error:
        load_pipeline(folder)
    assert "\n" not in str(error.value)


def test_without_the_library(monkeypatch):
    importing = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "diffusers":
            raise ImportError("No module named 'diffusers'")
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="pip install 'diffusers"):
        load_pipeline("anywhere")
