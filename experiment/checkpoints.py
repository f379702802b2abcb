"""What `--checkpoint` takes: our own checkpoints, published ones, and pipelines of diffusers.

    runs/digits/checkpoints/step_0002000.pt     our own; knows its configuration; also as .safetensors
    checkpoint_8.pth                            of the published Score-SDE code; fits the configuration of the same name
    256x256_diffusion.pt                        of guided-diffusion or improved-diffusion; fits one of configs/vp/adm
    DiT-XL-2-256x256.pt, SiT-XL-2-256.pt        of the published DiT and SiT code; fit configurations of latents
    exported/, google/ddpm-cifar10-32           a folder with model_index.json, or a name on the hub: knows its network,
                                                process and image size
    stable-diffusion/                           a folder of a pipeline of latents, with its autoencoder and encoders of
                                                texts

All are read without running any code in them. Where there are averages, the moving average of the weights is used.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import nn

from score_sde.common.errors import UserError, naming
from score_sde.common.files import at_home
from score_sde.common.weight_files import load_fitting_weights, load_weights, tensor_names
from score_sde.data import Dataset
from score_sde.experiment import autoencoders, build, configuration, latents, own, pipelines
from score_sde.experiment.networks import PIPELINE
from score_sde.experiment.parts import untold
from score_sde.experiment.wider import with_room_for_pictures
from score_sde.models import ADM, DiT, FlowMap, NoisyClassifier, ScoreModel
from score_sde.models.networks.ncsnpp import Block, NCSNpp
from score_sde.models.pretrained.adm import adm_classifier, holds_adm, is_adm_classifier, load_adm, read_adm_weights
from score_sde.models.pretrained.diffusers import image_units, load_pipeline
from score_sde.models.pretrained.dit import Means
from score_sde.models.pretrained.dit_weights import MARKS, is_reference, read_reference_weights
from score_sde.models.pretrained.latent_pipelines import LatentPipeline, is_latent_pipeline, load_latent_pipeline
from score_sde.models.pretrained.score_sde import copy_weights, read_checkpoint
from score_sde.sde import geometric_sigmas
from score_sde.training import checkpoint

# Bytes of an old file in which its structure is looked for.
_MOST_STRUCTURE = 2**22


@dataclass(frozen=True)
class Found:
    """Holds a checkpoint that is to be used.

    Attributes:
        path: the path of the file or folder, or the name on the hub.
        make_model: makes the model from the configuration that it is used with and the data.
        config: the configuration that the model was trained with, as nested values; None if not known.
        values: dotted keys and values of a configuration that the checkpoint decides.
        self_sufficient: whether no configuration need be given.
        data: the description of the data that the model was trained on (see `data.dataset.described`), or None.
        weights: the weights of one of our own, by name; None of others.
        pipeline: the parts of a pipeline of latents; None of others.
    """

    path: Path
    make_model: Callable[[ConfigDict, Dataset], build.Trained]
    config: dict[str, Any] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    self_sufficient: bool = True
    data: dict[str, Any] | None = None
    weights: dict[str, torch.Tensor] | None = None
    pipeline: LatentPipeline | None = None


def find(path: Path) -> Found:
    """Find the checkpoint at `path`.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it is of no known kind.
    """
    if is_latent_pipeline(path):
        return _latent_pipeline(path)
    if is_pipeline(path):
        return _pipeline(path)
    if holds_adm(path):
        return _adm(path)
    if _is_of_latents(path):
        return _of_latents(path)
    if path.suffix.lower() == ".safetensors":
        weights, config, data = checkpoint.load_weights_file(path)
        return _own(path, {None: weights}, config, autoencoders.read(data, str(path)))
    if _is_published(path):
        return _published(path)
    state = checkpoint.load(path)
    if not {"config", "ema"} <= state.keys():
        raise UserError(f"{path} is not a model's checkpoint: it has no configuration, or no average of the weights")
    data = autoencoders.read(state.get("data"), str(path))
    return _own(path, {None: state["ema"]} | checkpoint.averages(state), state["config"], data)


def start_from(place: str, model: nn.Module, config: ConfigDict, dataset: Dataset) -> list[str]:
    """Give a model that is to be trained the weights of a checkpoint, for other data of the same shape.

    Vectors of classes begin anew unless there are as many; channels that are told beside the states may be new; all
    else must fit.

    Args:
        place: a checkpoint of ours, a published one, or a pipeline, whose network the model has.
        model: the model, which is changed in place.
        config: its configuration.
        dataset: the data that it is to be trained on.

    Returns:
        What the user should know, a line each.

    Raises:
        UserError: there is no such checkpoint, or its weights are of another network.
    """
    found = find(at_home(place))
    with naming("training.start_from"):
        theirs = dataset if found.data is None else latents.without_examples(found.data)
        weights = found.weights or found.make_model(untold(config), theirs).state_dict()
        # A flow map begins with the weights of a score model, as of another flow map.
        part = model.model if isinstance(model, FlowMap) else model
        weights, added = with_room_for_pictures(part, weights)
        if added and found.config is not None:
            _check_order(part, found.make_model(configuration.from_dict(found.config, place), theirs), place)
        begun_anew = load_fitting_weights(part, weights, str(found.path), lambda name: ".vectors." in name)
    told = [f"training begins with the weights of {found.path}"]
    told += [f"{added} channels that the network is told beside begin unheard"] if added else []
    return told + ([f"vectors of conditions begin anew: {', '.join(begun_anew)}"] if begun_anew else [])


def _check_order(here: nn.Module, before: nn.Module, place: str) -> None:
    """See that the pictures that a network was told come first, in their order, among those that it will be told.

    Raises:
        UserError: they do not.
    """
    told, known = (list(getattr(getattr(model, "network", None), "pictures", ())) for model in (here, before))
    if told[: len(known)] != known:
        raise UserError(
            f"{place} is told {', '.join(known)}, and this network {', '.join(told)}, in this order: new pictures must "
            "come after those"
        )


def companions(folder: Path, found: Found | None) -> Path:
    """Return the folder of what was made for a model: beside its checkpoint, or in the folder of the run."""
    if found is None or not found.path.is_file():
        return folder / "tuned"
    beside = found.path.with_suffix("")
    # A checkpoint without a suffix has taken this name for itself.
    return found.path.with_suffix(".made") if beside.is_file() else beside


def is_strange(path: Path, folder: Path) -> bool:
    """Return whether the run in `folder` has checkpoints, and `path` is none of them."""
    own = folder / "checkpoints"
    return checkpoint.latest(own) is not None and path.resolve().parent != own.resolve()


def is_pipeline(path: Path) -> bool:
    """Return whether this is a folder, or can only be a name on the hub: `owner/model`, no checkpoint's suffix."""
    named = not path.exists() and len(path.parts) == 2 and path.suffix.lower() not in (".pt", ".pth", ".safetensors")
    return path.is_dir() or (named and not path.parent.is_dir())


def _own(
    path: Path,
    averages: dict[float | None, dict[str, torch.Tensor]],
    trained_with: dict[str, Any],
    data: dict[str, Any] | None,
) -> Found:
    """Describe a checkpoint of our own; `averages` of the weights are by decay, under None that of `ema_decay`."""

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        if data is not None:
            dataset.check_like(data, build.knows_classes(config), str(path))
            dataset.check_words(data, str(path))
            dataset = dataset.of_model(data)
        model = own.apart(build.make_model(config, dataset))
        if config.average not in averages:
            decays = ", ".join(f"{decay:g}" for decay in averages if decay is not None)
            raise UserError(f"{path} has no average with decay {config.average:g}; it has: {decays or 'one'}")
        load_weights(model, averages[config.average], str(path))
        return model

    return Found(path, make_model, trained_with, data=data, weights=averages[None])


def _is_published(path: Path) -> bool:
    """Tell a published checkpoint by its suffix, or else by the name that published code gives averages of weights."""
    named_so = path.suffix.lower() == ".pth"
    return named_so or (zipfile.is_zipfile(path) and b"shadow_params" in _structure(path))


def _is_of_latents(path: Path) -> bool:
    """Tell a published DiT or SiT by the names of its weights."""
    if path.suffix.lower() == ".safetensors":
        return is_reference(dict.fromkeys(tensor_names(path)))
    structure = _structure(path) if path.is_file() else b""
    return all(mark.encode() in structure for mark in MARKS)


def _structure(path: Path) -> bytes:
    """Return the pickles of a file that `torch.save` wrote, which have the names of weights.

    Raises:
        UserError: it is a damaged archive.
    """
    if not zipfile.is_zipfile(path):
        # In older files, as in archives without their end, they come first.
        with open(path, "rb") as file:
            return file.read(_MOST_STRUCTURE)
    try:
        with zipfile.ZipFile(path) as archive:
            return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    except Exception as error:  # a damaged archive may fail in any way
        raise UserError(f"cannot read the checkpoint {path}: it is damaged") from error


def _published(path: Path) -> Found:
    _, average = read_checkpoint(path)

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        model = build.make_model(config, dataset)
        if not isinstance(model.network, NCSNpp):
            raise UserError(f"{path} holds an NCSN++ or DDPM, not model.network={config.model.network}")
        _check_levels(config, average.get("sigmas"), path)
        block: Block = "ddpm" if config.model.network == "ddpm" else config.model.block
        try:
            copy_weights(model.network, average, block, config.model.embedding)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return model

    return Found(path, make_model, self_sufficient=False)


def _adm(path: Path) -> Found:
    weights = read_adm_weights(path)

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        if is_adm_classifier(weights):
            return _adm_classifier(config, dataset, weights, path)
        model = build.make_model(config, dataset)
        if not isinstance(model.network, ADM):
            raise UserError(f"{path} holds an ADM, not model.network={config.model.network}: see configs/vp/adm")
        _check_adm(config, path)
        load_adm(model.network, weights, str(path))
        return model

    return Found(path, make_model, self_sufficient=False)


def _check_adm(config: ConfigDict, path: Path) -> None:
    """Compare what a published file does not say, and all of them mean, with the configuration."""
    meant: dict[str, tuple[Any, ...]] = {
        "sde.name": ("ddpm", "cosine"),
        "model.prediction": ("noise",),
        "model.noise_label": ("rung", "rung_of_1000"),
        "model.scale_input": (False,),
    }
    for key, known in meant.items():
        section, name = key.split(".")
        value = config[section][name]
        if value not in known:
            wanted = " or ".join(map(str, known))
            raise UserError(f"{path} is an ADM, whose {key} is {wanted}, not {value}: see configs/vp/adm")


def _adm_classifier(
    config: ConfigDict, dataset: Dataset, weights: dict[str, torch.Tensor], path: Path
) -> NoisyClassifier:
    """Make the classifier of a published file, for the process of the model that it is to guide."""
    if config.model.noise_label not in ("rung", "rung_of_1000"):
        raise UserError(
            f"the classifier {path} is told the rung of DDPM's ladder, so that it guides models which are, too, not "
            f"those of model.noise_label={config.model.noise_label}"
        )
    channels, height, width = dataset.shape
    network = adm_classifier(weights, height, str(path))
    if (network.in_channels, *network.size) != (channels, height, width):
        raise UserError(f"the classifier {path} is of square images of {network.in_channels} channels")
    if network.num_outputs != dataset.num_classes:
        raise UserError(
            f"the classifier {path} knows {network.num_outputs} classes, and {dataset.name} has {dataset.num_classes}"
        )
    return NoisyClassifier(network, build.make_sde(config), config.model.noise_label, scale_input=False)


def _check_levels(config: ConfigDict, sigmas: torch.Tensor | None, path: Path) -> None:
    """Compare the table of sigmas that the published code saves with every network, and which counts for VE only."""
    sde = config.sde
    if sigmas is None or sde.name not in ("ve", "ncsn"):
        return
    expected = geometric_sigmas(sde.num_rungs, sde.sigma_min, sde.sigma_max).flip(0)
    if sigmas.shape != expected.shape or not torch.allclose(sigmas.double(), expected, rtol=1e-3):
        raise UserError(
            f"{path} was trained with {len(sigmas)} noise levels from {float(sigmas[-1]):.4g} to "
            f"{float(sigmas[0]):.4g}, but the configuration has sde.num_rungs={sde.num_rungs}, "
            f"sde.sigma_min={sde.sigma_min:g}, sde.sigma_max={sde.sigma_max:g}"
        )


def _of_latents(path: Path) -> Found:
    weights = read_reference_weights(path)

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        return latents.make_model(weights, config, dataset, str(path))

    return Found(path, make_model, self_sufficient=False, data=latents.describe(weights, str(path)))


def _pipeline(path: Path) -> Found:
    model = load_pipeline(path)
    if isinstance(model.network, Means):
        return _pipeline_of_latents(path, model, model.network.network)
    shape, low, high = image_units(model)
    channels, height, width = shape
    if height != width:
        raise UserError(f"{path} makes images of {height} x {width}; only square ones are supported")

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        if dataset.shape != shape:
            raise UserError(f"{path} is for images of shape {shape}, not {dataset.shape} like {dataset.name}")
        if config.model.class_conditional:
            raise UserError(f"{path} knows no classes: leave out model.class_conditional")
        return model

    values = {
        "data.image_size": height,
        "data.num_channels": channels,
        "data.low": low,
        "data.high": high,
        "sde.name": PIPELINE,
        "model.network": PIPELINE,
        "sampling.data_std": (1.0 - low) / 4,  # about that of most photographs
    }
    return Found(path, make_model, values=values)


def _latent_pipeline(path: Path) -> Found:
    pipeline = load_latent_pipeline(path)

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        return pipelines.model_of(pipeline, config)

    return Found(path, make_model, values=pipelines.values_of(pipeline), pipeline=pipeline)


def _pipeline_of_latents(path: Path, model: ScoreModel, network: DiT) -> Found:
    described = latents.describe_network(network)

    def make_model(config: ConfigDict, dataset: Dataset) -> build.Trained:
        latents.check_data(dataset, described, str(path))
        return model

    values = {
        "data.dataset": build.LATENTS,
        "sde.name": PIPELINE,
        "model.network": PIPELINE,
        "model.class_conditional": True,
        "sampling.data_std": 1.0,
    }
    return Found(path, make_model, values=values, data=described)
