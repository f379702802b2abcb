"""Fréchet and kernel Inception distance, and Inception score, by torchmetrics (`pip install score-sde[metrics]`).

    fid    Heusel et al. 2017, arXiv:1706.08500        samples against training images
    kid    Binkowski et al. 2018, arXiv:1801.01401     samples against training images, unbiased for few samples
    is     Salimans et al. 2016, arXiv:1606.03498      samples alone

Inception's weights come from a file, or are downloaded. The training images' statistics for `fid` are kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError, choose
from score_sde.common.files import write_atomically
from score_sde.common.progress import Progress

# `fid` keeps these sums over the features of real images.
_STATISTICS = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")
_BATCH_SIZE = 50
_KID_SUBSET = 1000
_IS_SPLITS = 10


class Extractors(NamedTuple):
    """Metrics see images `(B, 3, H, W)`, uint8, by these networks.

    Attributes:
        features: a network that returns features `(B, F)`; it has an attribute `num_features`.
        logits: a network that returns logits of classes, `(B, K)`.
    """

    features: nn.Module
    logits: nn.Module


def inception(weights: Path | None, device: torch.device | str) -> Extractors:
    """Return the Inception network that published figures use.

    Args:
        weights: file of the weights (pt_inception-2015-12-05); downloaded if None.
        device: where the network is put.

    Raises:
        UserError: a library, the file or the network is missing.
    """
    if weights is not None and not weights.is_file():
        raise UserError(f"there is no {weights}")
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        networks = [
            NoTrainInceptionV3("inception-v3-compat", [output], None if weights is None else str(weights)).to(device)
            for output in ("2048", "logits_unbiased")
        ]
    except ModuleNotFoundError as error:
        raise UserError("Inception metrics need: pip install 'score-sde[metrics]'") from error
    except Exception as error:  # the network or the file may fail in any way
        where = "download" if weights is None else f"read {weights}, as"
        raise UserError(f"cannot {where} the weights of Inception; give their file") from error
    networks[0].num_features = 2048
    return Extractors(*networks)


def measure_images(
    names: Iterable[str], samples: Tensor, real: Tensor, extractors: Extractors, statistics: Path | None = None
) -> dict[str, float]:
    """Return metrics of samples.

    Args:
        names: names of the metrics.
        samples: the samples, uint8 `(N, C, H, W)`, with 1 or 3 channels.
        real: images to compare with, uint8 `(M, C, H, W)`.
        extractors: the networks by which metrics see images.
        statistics: file of the real images' statistics for `fid`: used if it is there, else written.

    Raises:
        UserError: there is no such metric, the library is missing, or there are too few samples.
    """
    metrics = {name: choose("metric", name, METRICS) for name in names}
    if len(samples) < 2 or len(real) < 2:
        raise UserError(f"{len(samples)} samples and {len(real)} images are too few to compare")
    try:
        with warnings.catch_warnings():
            # The library warns of memory, and of a deviation between splits, which is not used.
            warnings.filterwarnings("ignore", message="Metric `.*` will save all extracted features in buffer")
            warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom is <= 0")
            return {
                name: measure(samples, real, extractors, statistics if name == "fid" else None)
                for name, measure in metrics.items()
            }
    except ModuleNotFoundError as error:
        raise UserError("Inception metrics need: pip install 'score-sde[metrics]'") from error


def _fid(samples: Tensor, real: Tensor, extractors: Extractors, statistics: Path | None) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = _on_device(FrechetInceptionDistance(extractors.features), extractors.features)
    found = None if statistics is None else _read(statistics, metric)
    if found is None:
        _feed(metric, real, "images for fid", real=True)
        if statistics is not None:
            sums = {name: getattr(metric, name).cpu().contiguous() for name in _STATISTICS}
            with write_atomically(statistics) as temporary:
                temporary.write_bytes(safetensors.torch.save(sums))
    else:
        for name, value in found.items():
            setattr(metric, name, value.to(getattr(metric, name)))
    _feed(metric, samples, "samples for fid", real=False)
    return metric.compute().item()


def _kid(samples: Tensor, real: Tensor, extractors: Extractors, statistics: Path | None) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    # The metric draws its subsets from torch's own generator.
    torch.manual_seed(0)
    subset = min(_KID_SUBSET, len(samples), len(real))
    metric = _on_device(KernelInceptionDistance(extractors.features, subset_size=subset), extractors.features)
    _feed(metric, real, "images for kid", real=True)
    _feed(metric, samples, "samples for kid", real=False)
    return metric.compute()[0].item()


def _inception_score(samples: Tensor, real: Tensor, extractors: Extractors, statistics: Path | None) -> float:
    from torchmetrics.image.inception import InceptionScore

    splits = max(1, min(_IS_SPLITS, len(samples) // _BATCH_SIZE))
    metric = _on_device(InceptionScore(extractors.logits, splits=splits), extractors.logits)
    _feed(metric, samples, "samples for is")
    return metric.compute()[0].item()


METRICS: dict[str, Callable[[Tensor, Tensor, Extractors, Path | None], float]] = {
    "fid": _fid,
    "kid": _kid,
    "is": _inception_score,
}


def _feed(metric: Any, images: Tensor, what: str, **more: bool) -> None:
    with Progress(what, math.ceil(len(images) / _BATCH_SIZE), "batch") as bar:
        for batch in _batches(images):
            metric.update(batch.to(metric.device), **more)
            bar.update()


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Yield batches in colour."""
    for first in range(0, len(images), _BATCH_SIZE):
        yield images[first : first + _BATCH_SIZE].expand(-1, 3, -1, -1)


def _on_device(metric: Any, network: nn.Module) -> Any:
    place = next(iter(network.parameters()), torch.empty(0))
    return metric.to(place.device)


def _read(path: Path, metric: Any) -> dict[str, Tensor] | None:
    """Read statistics as they were written; return None if there are none."""
    if not path.exists():
        return None
    try:
        sums = safetensors.torch.load_file(path)
        if any(sums[name].shape != getattr(metric, name).shape for name in _STATISTICS):
            raise ValueError
        return {name: sums[name] for name in _STATISTICS}
    except Exception as error:  # a damaged file may fail in any way
        raise UserError(
            f"cannot read the statistics {path}, or they are of another network; remove it, and they are made again"
        ) from error
