"""The importer and the networks against numbers printed by the published code.

`reference/<config>.json` and the checkpoint there are outputs in float32. `reference/published_in_float64.json` has
outputs of the same code run in float64 (its two float32 casts replaced), for every published configuration at small
width and for variants of every switch; three lines of it that raise (FIR up-sampling with a convolution,
`F.interpolate`'s third argument) were mended as meant.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score_sde.common.errors import UserError
from score_sde.models.pretrained.score_sde import (
    convention,
    from_reference,
    load_reference_checkpoint,
    network_arguments,
    read_checkpoint,
)
from score_sde.models.pretrained.score_sde_names import reference_tensors
from score_sde.sde import VPSDE

REFERENCE = Path(__file__).parent / "reference"
CHECKPOINT = REFERENCE / "checkpoint_subvp_ddpmpp.pth"
GOLDENS = json.loads((REFERENCE / "published_in_float64.json").read_text())
COUNTS = json.loads((REFERENCE / "parameter_counts.json").read_text())


def fill(parameters):
    """Deterministic weights: parameter `k` is a sine of its own frequency, scaled by its role."""
    weights = {}
    for k, (name, shape) in enumerate(parameters):
        i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
        w = torch.sin((0.7 + 0.013 * k) * i + k).reshape(shape)
        scale = math.sqrt(2 / w[0].numel()) if len(shape) >= 2 else 0.1
        offset = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        weights[name] = (offset + scale * w).float()
    return weights


def images(shape):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + 0.1).reshape(shape).float()


def published_parameters(golden):
    """Names and shapes of a network's parameters, in the published order."""
    if "parameters" in golden:
        return golden["parameters"]
    network_class, arguments = network_arguments(golden["config"])
    tensors = reference_tensors(network_class(**arguments), arguments.get("block", "ddpm"))
    return [[name, list(tensor.shape)] for name, tensor in tensors if name != "sigmas"]


@pytest.fixture
def double():
    """Networks built in float64, their tables included."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden["name"])
@torch.no_grad()
def test_every_published_network_and_switch_in_float64(golden, double):
    parameters = published_parameters(golden)
    assert hashlib.sha256(json.dumps(parameters).encode()).hexdigest() == golden["names_and_shapes_sha256"]
    network = from_reference(golden["config"], fill(parameters))
    labels = torch.tensor(golden["labels"], dtype=torch.float32)
    output = network(images(golden["input_shape"]).double(), labels).flatten()
    assert output.norm().item() == pytest.approx(golden["norm"], rel=1e-9)
    expected = torch.tensor(golden["values"])
    assert (output[golden["indices"]] - expected).norm() < 1e-9 * expected.norm()


# The first network amplifies float32's rounding, in whichever order sums are taken: the printed values are 1.5e-5 from
# the same code's in float64, and that code's own differ by 2e-5 to 5e-5 between instruction sets (AVX512, AVX2, SSE).
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("subvp_cifar10_ddpmpp_continuous", 5e-5),
        ("ve_cifar10_ncsnpp_continuous", 1e-5),
        ("vp_ddpm_cifar10_continuous", 1e-5),
    ],
)
@torch.no_grad()
def test_printed_outputs_in_float32(name, tolerance):
    reference = json.loads((REFERENCE / f"{name}.json").read_text())
    network = from_reference(reference["config"], fill(reference["parameters"]))
    assert sum(parameter.numel() for parameter in network.parameters()) == reference["num_parameters"]
    output = network(images(reference["input_shape"]), torch.tensor(reference["labels"])).flatten()
    expected = torch.tensor(reference["output"])
    assert (output - expected).norm() < tolerance * expected.norm()
    assert (output - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("golden", GOLDENS[: len(COUNTS)], ids=lambda golden: golden["name"])
def test_parameter_counts_at_full_size(golden):
    config = copy.deepcopy(golden["config"])
    for key, value in golden["published"].items():
        section, name = key.split(".")
        config[section][name] = value
    network_class, arguments = network_arguments(config)
    with torch.device("meta"):
        network = network_class(**arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[golden["name"]]


def test_every_published_configuration_is_covered():
    assert {golden["name"] for golden in GOLDENS[: len(COUNTS)]} == set(COUNTS)


@pytest.fixture
def checkpoint():
    return json.loads((REFERENCE / "checkpoint_subvp_ddpmpp.json").read_text())


@torch.no_grad()
def test_average_of_a_checkpoint(checkpoint):
    network = load_reference_checkpoint(checkpoint["config"], CHECKPOINT)
    output = network(images(checkpoint["input_shape"]), torch.tensor(checkpoint["labels"])).flatten()
    expected = torch.tensor(checkpoint["output_ema"])
    assert (output - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_weights_of_a_checkpoint_are_not_their_average(checkpoint):
    weights, average = read_checkpoint(CHECKPOINT)
    assert weights.keys() == average.keys()
    network = load_reference_checkpoint(checkpoint["config"], CHECKPOINT, use_ema=False)
    assert torch.equal(network.conv_in.weight, weights["all_modules.2.weight"])
    averaged = load_reference_checkpoint(checkpoint["config"], CHECKPOINT)
    assert torch.equal(averaged.conv_in.weight, average["all_modules.2.weight"])
    assert not torch.equal(weights["all_modules.2.weight"], average["all_modules.2.weight"])


def test_average_of_a_network_with_fourier_features_skips_them(tmp_path):
    """The frequencies are not trained: the published code keeps no average of them."""
    golden = next(golden for golden in GOLDENS if golden["name"] == "configs/ve/cifar10_ncsnpp_continuous.py")
    weights = fill(published_parameters(golden))
    averages = [tensor + 1 for name, tensor in weights.items() if name != "all_modules.0.W"]
    contents = {"model": {f"module.{name}": tensor for name, tensor in weights.items()}}
    path = tmp_path / "checkpoint.pth"
    torch.save(contents | {"ema": {"shadow_params": averages}, "optimizer": {}, "step": 0}, path)
    network: Any = load_reference_checkpoint(golden["config"], path)
    assert torch.equal(network.embedding.features.frequencies, weights["all_modules.0.W"])
    assert torch.equal(network.embedding.hidden.weight, weights["all_modules.1.weight"] + 1)
    assert torch.equal(network.head.conv.bias, list(weights.values())[-1] + 1)


def test_a_wrong_configuration_is_named_by_its_first_mismatch(checkpoint):
    config = copy.deepcopy(checkpoint["config"])
    config["model"]["nf"] = 16
    with pytest.raises(UserError, match=r"all_modules\.0\.weight should have shape \(64, 16\), but has \(32, 8\)"):
        load_reference_checkpoint(config, CHECKPOINT)
    config = copy.deepcopy(checkpoint["config"])
    config["model"]["num_res_blocks"] = 2
    with pytest.raises(UserError, match=r"all_modules\.5\.Conv_0\.weight should have shape \(8, 8, 3, 3\)"):
        load_reference_checkpoint(config, CHECKPOINT)
    config = copy.deepcopy(checkpoint["config"])
    config["model"]["num_scales"] = 10
    with pytest.raises(UserError, match=r"sigmas should have shape \(10,\), but has \(1000,\)"):
        load_reference_checkpoint(config, CHECKPOINT)
    del config["model"]["nf"]
    with pytest.raises(UserError, match=r"no value model\.nf"):
        load_reference_checkpoint(config, CHECKPOINT)
    config["model"]["name"] = "ncsnv2_64"
    with pytest.raises(UserError, match=r"model\.name must be ncsnpp or ddpm"):
        load_reference_checkpoint(config, CHECKPOINT)


def test_missing_and_surplus_weights_are_named(checkpoint):
    weights, _ = read_checkpoint(CHECKPOINT)
    without = {name: tensor for name, tensor in weights.items() if name != "all_modules.3.Conv_1.bias"}
    with pytest.raises(UserError, match=r"all_modules\.3\.Conv_1\.bias \(8,\) is missing"):
        from_reference(checkpoint["config"], without)
    with pytest.raises(UserError, match=r"all_modules\.99\.weight has no place"):
        from_reference(checkpoint["config"], weights | {"all_modules.99.weight": torch.zeros(1)})


def test_damaged_files_get_one_line(tmp_path, checkpoint):
    whole = CHECKPOINT.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 200):
        path = tmp_path / "damaged.pth"
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged") as error:
            load_reference_checkpoint(checkpoint["config"], path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="lacks the weights or their average"):
        read_checkpoint(tmp_path / "other.pth")
    torch.save({"model": {"weight": torch.ones(1)}, "ema": {"shadow_params": [1.0]}}, tmp_path / "floats.pth")
    with pytest.raises(UserError, match="not all of its weights are tensors"):
        read_checkpoint(tmp_path / "floats.pth")


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed(tmp_path):
    for contents in ({"model": Exploit()}, {"optimizer": Exploit()}):
        torch.save(contents, tmp_path / "exploit.pth")
        with pytest.raises(UserError, match="holds more than data"):
            read_checkpoint(tmp_path / "exploit.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(UserError, match="holds more than data"):
        read_checkpoint(tmp_path / "plain.pth")


def test_imported_networks_are_in_evaluation_mode(checkpoint):
    network = load_reference_checkpoint(checkpoint["config"], CHECKPOINT)
    assert not any(module.training for module in network.modules() if isinstance(module, nn.Dropout))


def config_of(sde, continuous):
    model = {"beta_min": 0.1, "beta_max": 20.0, "sigma_min": 0.01, "sigma_max": 50, "num_scales": 1000}
    return {"training": {"sde": sde, "continuous": continuous}, "model": model, "data": {}}


def test_labels_of_continuous_models():
    t = torch.tensor([1e-3, 0.25, 1.0], dtype=torch.float64)
    for name in ("vpsde", "subvpsde"):
        vp = convention(config_of(name, True))
        assert vp.prediction == "noise"
        torch.testing.assert_close(vp.noise_label(t), 999 * t)
    ve = convention(config_of("vesde", True))
    assert ve.prediction == "score"
    torch.testing.assert_close(ve.noise_label(t), 0.01 * 5000.0**t)
    torch.testing.assert_close(ve.sde.sigma(t), ve.noise_label(t))
    torch.testing.assert_close(convention(config_of("subvpsde", True)).sde.sigma(t), VPSDE().sigma(t) ** 2)


def test_labels_of_ddpm_are_rungs():
    """At label i the noise's variance is `1 - prod_{j <= i} (1 - beta_j)`, rungs counted from 0."""
    ddpm: Any = convention(config_of("vpsde", False))
    assert ddpm.prediction == "noise"
    i = torch.tensor([0, 1, 500, 999])
    t = ddpm.sde.time(i)
    torch.testing.assert_close(ddpm.noise_label(t), i.double())
    alpha_bar = (1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64)).cumprod(0)
    torch.testing.assert_close(ddpm.sde.sigma(t), (1 - alpha_bar[i]).sqrt())


def test_labels_of_ncsn_count_down_and_are_rounded():
    """At label i the noise is `sigma_max (sigma_min / sigma_max)^(i / (N - 1))`, as in the network's own table."""
    ncsn: Any = convention(config_of("vesde", False))
    assert ncsn.prediction == "score"
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    torch.testing.assert_close(ncsn.noise_label(t), torch.tensor([999.0, 749.0, 0.0], dtype=torch.float64))
    golden = next(golden for golden in GOLDENS if golden["name"] == "configs/ve/cifar10_ncsnpp.py")
    network: Any = from_reference(golden["config"], fill(published_parameters(golden)))
    on_rungs = ncsn.sde.time(torch.tensor([0, 499, 999]))
    table = network.sigmas[ncsn.noise_label(on_rungs).long()].double()
    torch.testing.assert_close(table, ncsn.sde.sigma(on_rungs), rtol=1e-6, atol=0)


def test_unknown_processes_are_named():
    with pytest.raises(UserError, match=r"training\.sde must be vpsde, subvpsde or vesde, not 'flow'"):
        convention(config_of("flow", True))
