"""Control networks from the configuration: what is trained, what stays to the bit, and controls that are joined."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common.errors import UserError
from score_sde.experiment import controls
from score_sde.experiment import load as loading
from score_sde.experiment.training import train
from score_sde.training import checkpoint

TINY = {
    "model.network": "unet",
    "model.class_conditional": True,
    "model.prediction": "velocity",
    "model.channels": 8,
    "model.channel_multipliers": (1,),
    "model.num_blocks": 1,
    "training.batch_size": 8,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
    "training.schedule": "constant",
    "training.warmup_steps": 0,
    "data.distortion": 0.0,
    "sampling.num_steps": 3,
}
OF_CONTROL = {"model.dropout": 0.1, "training.checkpoint_every": 2, "training.keep_checkpoints": 9}
EDGES = OF_CONTROL | {"data.edges": 0.15, "model.control": "edges"}
LOW = OF_CONTROL | {"data.low_resolution": 4, "model.control": "low_resolution"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A frozen model, and beside it a control by edges that was stopped in between, and one by low resolution."""
    folder = tmp_path_factory.mktemp("runs")
    base: dict[str, Any] = {"workdir": folder / "base", "settings": TINY}
    # The others go on with this device, whose numbers are the same from run to run.
    score_sde.fit("digits", config="vp/digits", num_steps=2, device="cpu", **base)
    control(folder, "edges", num_steps=2)
    control(folder, "edges")
    control(folder, "low", settings=LOW)
    return folder


def control(folder: Path, name: str, num_steps: int = 4, settings: Any = None) -> Any:
    """Train a control as the command line does that names nothing but the run to begin from, which has the rest."""
    values = {"training.start_from": folder / "base", "training.num_steps": num_steps, **(settings or EDGES)}
    experiment = loading.to_train(None, folder / name, [(key, str(value)) for key, value in values.items()])
    train(experiment)


def state(folder: Path, name: str, step: int) -> dict[str, Any]:
    return checkpoint.load(checkpoint.path_at(folder / name / "checkpoints", step))


@pytest.fixture(scope="module")
def asked(folder) -> dict[str, np.ndarray]:
    told = joined(folder).dataset.conditions["test"]
    return {name: told[name][:3].numpy() for name in ("edges", "low_resolution")}


def joined(folder: Path, **settings: Any) -> Any:
    return score_sde.load(folder / "edges", settings={"sampling.controls": folder / "low", **settings})


def test_the_frozen_weights_never_change(folder):
    """They are the average of the run that training began from, in the model and in the average, to the bit."""
    base, trained = state(folder, "base", 2)["ema"], state(folder, "edges", 4)
    for part in ("model", "ema"):
        for name, tensor in base.items():
            within = name.replace("network.", "network.base.", 1)
            assert torch.equal(trained[part][within], tensor), name
    moved = [name for name in trained["model"] if not torch.equal(trained["model"][name], trained["ema"][name])]
    controls = [name for name in trained["model"] if name.startswith("network.controls.")]
    assert {name for name in controls if ".zero." in name} <= set(moved) <= set(controls)
    assert len(trained["optimizer"]["state"]) == len(controls)


@pytest.mark.usefixtures("on_cpu")
def test_a_run_that_went_on_is_the_run_that_did_not_stop(folder, tmp_path):
    (tmp_path / "base").symlink_to(folder / "base")
    control(tmp_path, "edges")
    whole, resumed = state(tmp_path, "edges", 4), state(folder, "edges", 4)
    for part in ("model", "ema"):
        assert all(torch.equal(tensor, resumed[part][name]) for name, tensor in whole[part].items())


def test_without_its_picture_or_at_scale_0_it_is_the_frozen_model(folder, asked):
    base, run = score_sde.load(folder / "base"), score_sde.load(folder / "edges")
    plain = base.sample(3, condition=3, guidance=2.0, seed=5)
    assert np.array_equal(run.sample(3, condition={"class": 3}, guidance=2.0, seed=5), plain)
    told = {"class": 3, "edges": asked["edges"]}
    drawn = {scale: run.sample(condition=told, guidance=1.0, control_scales=(scale,), seed=5) for scale in (0.0, 1.0)}
    assert np.array_equal(drawn[0.0], base.sample(3, condition=3, seed=5))
    assert np.array_equal(drawn[1.0], run.sample(condition=told, seed=5))
    assert not np.array_equal(drawn[0.0], drawn[1.0])
    x = run.dataset.test[:2].numpy()
    options: dict[str, Any] = {"seed": 1, "method": "adams", "num_steps": 3}
    assert np.array_equal(run.log_prob(x, **options), base.log_prob(x, **options))
    assert not np.array_equal(
        run.log_prob(x, condition={"edges": asked["edges"][:2]}, **options), base.log_prob(x, **options)
    )


def test_controls_that_were_trained_apart_are_added_up(folder, asked):
    """At scales of 1 and 0 the sum is one of them, to the bit; `tests.models.networks.test_controlnet` has the sum."""
    both = joined(folder)
    assert list(both.model.network.controls) == ["edges", "low_resolution"]
    edges, low = score_sde.load(folder / "edges"), score_sde.load(folder / "low")
    options: dict[str, Any] = {"seed": 2, "guidance": 1.0}
    assert np.array_equal(
        both.sample(condition=asked, control_scales=(1.0, 0.0), **options),
        edges.sample(condition={"edges": asked["edges"]}, **options),
    )
    assert np.array_equal(
        both.sample(condition=asked, control_scales=(0.0, 1.0), **options),
        low.sample(condition={"low_resolution": asked["low_resolution"]}, **options),
    )
    from_base = score_sde.load(folder / "base", settings={"sampling.controls": f"{folder / 'edges'},{folder / 'low'}"})
    assert np.array_equal(
        from_base.sample(condition=asked, **options),
        both.sample(condition=asked, **options),
    )
    assert len(both.dataset.conditions["test"]["low_resolution"])


def test_the_command_line_joins_them_too(folder, asked, tmp_path):
    np.savez(tmp_path / "asked.npz", **asked)
    values = {
        "sampling.condition": tmp_path / "asked.npz",
        "sampling.controls": folder / "low",
        "sampling.control_scales": "0.5,2",
        "sampling.num_samples": 3,
        "sampling.guidance": 1.0,
        "likelihood.given": "own",
        "likelihood.num_examples": 2,
        "likelihood.num_checks": 0,
        "likelihood.bounds": "",
        "likelihood.method": "adams",
        "likelihood.num_steps": 3,
    }
    overrides = [(key, str(value)) for key, value in values.items()]
    for mode in ("sample", "likelihood"):
        experiment = loading.to_use(mode, None, folder / "edges", None, overrides)
        import_module(f"score_sde.modes.{mode}").run(experiment)
    with np.load(folder / "edges" / "samples" / "default.npz") as written:
        both = joined(folder)
        drawn = both.sample(3, condition=asked, control_scales=(0.5, 2.0), guidance=1.0)
        grey = both.dataset.levels_to_uint8(torch.from_numpy(drawn)).numpy()
        assert np.array_equal(written["images"], grey)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"training.start_from": None}, "name its folder or its checkpoint"),
        ({"model.control": "sketch"}, "model.control names sketch, .* with place is: edges"),
        ({"model.control": "edges,edges"}, "names one twice"),
        ({"model.network": "ncsnpp"}, "model.control is for model.network=unet and dit"),
        ({"model.prediction": "noise"}, "was trained with model.prediction=velocity, not noise: a frozen model stays"),
        ({"sde.beta_max": 10.0}, "was trained with sde.beta_max=20.0, not 10.0"),
        ({"data.uniform_dequantisation": False}, "was trained with data.uniform_dequantisation=True, not False"),
        ({"training.objective": "variational", "sde.name": "learned"}, "leaves all else as it is"),
        ({"data.augment": "shift"}, "data.edges conditions pictures on themselves"),
        ({"data.low_resolution": 4}, "digits has conditions .*low_resolution"),
    ],
)
def test_what_does_not_fit_the_frozen_model_is_refused(folder, tmp_path, values, complaint):
    told = TINY | EDGES | {"training.start_from": folder / "base"} | values
    overrides = [(key, str(value)) for key, value in told.items()]
    with pytest.raises(UserError, match=complaint):
        loading.to_train("configs/vp/digits.py", tmp_path / "run", overrides)


def test_controls_that_do_not_go_together_are_refused(folder, asked):
    run = score_sde.load(folder / "base")
    run.config.sampling.controls = str(folder / "low")
    next(run.model.network.parameters())[0] += 1e-6
    with pytest.raises(UserError, match="low was trained beside other weights"):
        controls.joined(run._experiment)
    with pytest.raises(UserError, match="has no controls"):
        score_sde.load(folder / "edges", settings={"sampling.controls": folder / "base"})
    with pytest.raises(UserError, match="there is a control edges already"):
        score_sde.load(folder / "edges", settings={"sampling.controls": folder / "edges"})
    with pytest.raises(UserError, match="control_scales has 1 numbers, and the controls of this model are: edges, low"):
        joined(folder).sample(3, condition=asked, control_scales=(1.0,))
    with pytest.raises(UserError, match="control_scales has 2 numbers, and the controls of this model are: none"):
        score_sde.load(folder / "base").sample(3, control_scales=(1.0, 1.0))


def test_a_control_is_told_what_it_was_trained_on(folder, tmp_path):
    """Other edges than those of training are refused, and controls of a model of other pictures."""
    for name in ("edges", "low"):
        settings = {"data.edges": 0.3, **({"sampling.controls": folder / "edges"} if name == "low" else {})}
        with pytest.raises(UserError, match=r"edges=(0\.15|None), not 0\.3"):
            score_sde.load(folder / name, settings=settings)
    assert score_sde.load(folder / "edges", settings={"data.edges": 0.15}).config.data.edges == 0.15
    flags = [("data.edges", "0.3"), ("sampling.num_samples", "2")]
    with pytest.raises(UserError, match=r"was trained with data\.edges=0\.15, not 0\.3: give the same"):
        loading.to_use("sample", None, folder / "edges", None, flags)


def test_controls_of_a_model_that_they_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="controls are joined as a run is loaded: load"):
        score_sde.load(folder / "base").sample(2, controls=str(folder / "edges"))
    larger = {**TINY, "data.image_size": 4, "data.shrunk_from": 8}
    score_sde.fit("digits", config="vp/digits", workdir=tmp_path / "small", num_steps=1, settings=larger)
    other = {**TINY, "model.channels": 4}
    score_sde.fit("digits", config="vp/digits", workdir=tmp_path / "narrow", num_steps=1, settings=other)
    for name, complaint in {
        "small": r"edges.* is for examples of shape \(1, 8, 8\), not \(1, 4, 4\)",
        "narrow": r"was trained with model\.channels=8, not 4: a frozen model stays as it is",
    }.items():
        overrides = [("sampling.controls", str(folder / "edges"))]
        with pytest.raises(UserError, match=f"sampling.controls: .*{complaint}"):
            loading.to_use("sample", None, tmp_path / name, None, overrides)
    mixture = [("model.network", "mixture"), ("sampling.controls", str(folder / "edges"))]
    with pytest.raises(UserError, match=r"sampling\.controls stand beside a network, and a GaussianMixture has none"):
        loading.to_use("sample", "configs/vp/digits.py", tmp_path / "mixture", None, mixture)


def test_a_control_that_was_trained_can_be_trained_on(folder, tmp_path):
    """Training begins with its weights, controls and all; nothing is left of what an untrained one would be."""
    values = [("training.start_from", str(folder / "edges"))]
    experiment = loading.to_train(None, tmp_path / "more", values)
    begun = experiment.model.state_dict()
    assert all(torch.equal(tensor, begun[name]) for name, tensor in state(folder, "edges", 4)["ema"].items())
