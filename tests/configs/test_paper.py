"""Every value of the paper's configurations, against those that the published files hold when they are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ml_collections import ConfigDict

from score_sde.experiment import build, configuration
from score_sde.models.preconditioning import NOISE_LABELS
from score_sde.models.pretrained.score_sde import convention, network_arguments
from tests.reading import ROOT

PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text())
COUNTS = json.loads((ROOT / "tests/models/pretrained/reference/parameter_counts.json").read_text())

# Our key for each published one, where the value is the same.
SAME = {
    "seed": "seed",
    "data.image_size": "data.image_size",
    "data.num_channels": "data.num_channels",
    "data.uniform_dequantization": "data.uniform_dequantisation",
    "data.centered": "model.centered",
    "model.beta_min": "sde.beta_min",
    "model.beta_max": "sde.beta_max",
    "model.sigma_min": "sde.sigma_min",
    "model.num_scales": "sampling.num_steps",
    "model.name": "model.network",
    "model.nf": "model.channels",
    "model.ch_mult": "model.channel_multipliers",
    "model.num_res_blocks": "model.num_blocks",
    "model.attn_resolutions": "model.attention_resolutions",
    "model.dropout": "model.dropout",
    "model.resamp_with_conv": "model.resample_with_conv",
    "model.conditional": "model.time_conditional",
    "model.scale_by_sigma": "model.scale_by_sigma",
    "model.ema_rate": "training.ema_decay",
    "optim.lr": "training.learning_rate",
    "optim.warmup": "training.warmup_steps",
    "optim.grad_clip": "training.max_grad_norm",
    "optim.beta1": "training.adam_beta1",
    "optim.eps": "training.adam_eps",
    "optim.weight_decay": "training.weight_decay",
    "training.batch_size": "training.batch_size",
    "training.n_iters": "training.num_steps",
    "training.reduce_mean": "training.reduce_mean",
    "training.log_freq": "training.log_every",
    "training.snapshot_freq": "training.sample_every",
    "training.snapshot_freq_for_preemption": "training.checkpoint_every",
    "sampling.method": "sampling.solver",
    "sampling.corrector": "sampling.corrector",
    "sampling.snr": "sampling.snr",
    "sampling.n_steps_each": "sampling.corrector_steps",
    "sampling.noise_removal": "sampling.denoise",
}
# Values that NCSN++ has, and DDPM's network has not.
NCSNPP = {
    "model.embedding_type": "model.embedding",
    "model.fourier_scale": "model.fourier_scale",
    "model.resblock_type": "model.block",
    "model.fir": "model.fir",
    "model.fir_kernel": "model.fir_kernel",
    "model.skip_rescale": "model.skip_rescale",
    "model.progressive": "model.progressive",
    "model.progressive_input": "model.progressive_input",
    "model.progressive_combine": "model.combine",
    "model.init_scale": "model.init_scale",
}
# What every published file has, and ours has another way or needs not say.
CONSTANT = {
    "data.random_flip": True,
    "model.nonlinearity": "swish",
    "model.normalization": "GroupNorm",
    "model.attention_type": "ddpm",
    "model.conv_size": 3,
    "optim.optimizer": "Adam",
    "optim.amsgrad": False,
    "training.likelihood_weighting": False,
    "training.snapshot_sampling": True,
    "sampling.probability_flow": False,
}
ELSEWHERE = {"data.dataset", "data.category", "model.sigma_max", "training.sde", "training.continuous"}
# Of no consequence: how often a loss is printed, and a value of an older network.
UNUSED = {"training.eval_freq", "model.sigma_begin"}

DATASETS = {"CIFAR10": "cifar10", "CELEBA": "celeba", "CelebAHQ": "celebahq", "FFHQ": "ffhq", "LSUN": "lsun"}
PROCESSES = {
    ("vpsde", True): "vp",
    ("vpsde", False): "ddpm",
    ("subvpsde", True): "subvp",
    ("vesde", True): "ve",
    ("vesde", False): "ncsn",
}


@pytest.fixture(params=PUBLISHED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def config(name: str) -> ConfigDict:
    return configuration.load_file(name)


def test_the_grid_is_complete():
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("**/*.py")}
    shared = {"configs/__init__.py", "configs/default.py", "configs/paper.py"}
    own = {path for path in ours if path.endswith(("digits.py", "eight_gaussians.py"))}
    assert set(PUBLISHED) == set(COUNTS) <= ours - shared - own


def test_every_published_value(name, config):
    ours = dict(configuration.flatten(config))
    published = dict(configuration.flatten(PUBLISHED[name]))
    for key, listed in published.items():
        value: Any = tuple(listed) if isinstance(listed, list) else listed
        if key in SAME:
            assert ours[SAME[key]] == value, key
        elif key in NCSNPP:
            if published["model.name"] == "ncsnpp":
                assert ours[NCSNPP[key]] == value, key
        elif key in CONSTANT:
            assert value == CONSTANT[key], key
        elif key == "sampling.predictor":
            assert ours[key] == value.removesuffix("_sampling")
        else:
            assert key in ELSEWHERE | UNUSED, key
    assert set(SAME) - {"model.beta_min", "model.beta_max"} <= set(published)


def test_data(name, config):
    published = PUBLISHED[name]["data"]
    dataset = DATASETS[published["dataset"]]
    if "category" in published:
        dataset += "_" + published["category"].removesuffix("_outdoor")
    data = config.data
    assert (data.dataset, data.levels, data.augment) == (dataset, 256, "flip")
    assert (data.low, data.high) == ((-1, 1) if published["centered"] else (0, 1))


def test_process_and_training(name, config):
    published = PUBLISHED[name]["training"]
    assert config.sde.name == PROCESSES[published["sde"], published["continuous"]]
    assert config.training.objective == ("continuous" if published["continuous"] else "discrete")
    # A mean over times drawn uniformly and alone, the same weight for each, at a constant rate.
    chosen = {key: config.training[key] for key in ("weighting", "times", "stratified", "schedule", "optimizer")}
    assert chosen == {
        "weighting": "sigma2",
        "times": "uniform",
        "stratified": False,
        "schedule": "constant",
        "optimizer": "adam",
    }
    assert (config.training.adam_beta2, config.training.t_min) == (0.999, 1e-5)
    if published["sde"] == "vesde":
        assert config.sde.sigma_max == PUBLISHED[name]["model"]["sigma_max"]
    # Of the published code, not its files: the last times of sampling and likelihood; ladders have their own.
    last = {"vp": 1e-3, "subvp": 1e-3, "ve": 1e-5}.get(config.sde.name)
    assert config.sampling.t_min == last
    assert config.likelihood.t_min == (None if last is None else 1e-5)
    assert (config.likelihood.rtol, config.likelihood.atol, config.sampling.grid) == (1e-5, 1e-5, "uniform_t")


def test_process_prediction_and_labels_are_the_importers(name, config):
    known = dict(PUBLISHED[name])
    known["model"] = {"beta_min": 0.1, "beta_max": 20.0} | known["model"]
    expected, sde = convention(known), build.make_sde(config)
    t = torch.linspace(sde.t_min, 1, 7, dtype=torch.float64)
    for function in ("alpha", "sigma"):
        torch.testing.assert_close(getattr(sde, function)(t), getattr(expected.sde, function)(t), rtol=0, atol=0)
    assert config.model.prediction == expected.prediction
    label = NOISE_LABELS[config.model.noise_label](sde, sde.at(t))
    torch.testing.assert_close(label, expected.noise_label(t), rtol=0, atol=0)


def built(config: ConfigDict) -> Any:
    with torch.device("meta"):
        return build.make_network(config, build.make_dataset(config, files_needed=False).shape)


def test_networks_and_their_sizes(name, config):
    network = built(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]
    network_class, arguments = network_arguments(PUBLISHED[name])
    with torch.device("meta"):
        expected = network_class(**arguments)
    assert str(network) == str(expected)
    for attribute in ("centered", "scale_by_sigma"):
        assert getattr(network, attribute) == getattr(expected, attribute)


@pytest.mark.parametrize("name", ["configs/ve/celeba_ncsnpp.py", "configs/ve/cifar10_ddpm.py"])
def test_networks_of_ladders_know_their_levels(name):
    config = configuration.load_file(name)
    configuration.override(config, [("model.channels", "8"), ("model.num_blocks", "1")])
    sigmas: Any = build.make_network(config, (3, 32, 32)).sigmas
    assert len(sigmas) == 1000
    assert sigmas[0] == pytest.approx(PUBLISHED[name]["model"]["sigma_max"], rel=1e-6)
    assert sigmas[-1] == pytest.approx(0.01, rel=1e-6)
