"""Drawing samples in batches, and writing them down.

samples/<solver>.npz:  images uint8 (N, H, W, C), or vectors (N, d), or samples (N, *dims) of other kinds, in the data's
                       units and dtype;  nfe, seconds, seeds;  labels and class_names, if classes were asked for;
                       settings, JSON: what they were drawn with
samples/<solver>.png:  the first of them, to look at, over or beside training examples
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.plots import save_examples
from score_sde.common.progress import Progress
from score_sde.data import Dataset
from score_sde.evaluation.provenance import as_text, replacing
from score_sde.evaluation.watched import Watched
from score_sde.models import rows_of
from score_sde.solvers import Model
from score_sde.solvers.base import Solver

_NUM_SHOWN = 100
_NUM_SHOWN_VECTORS = 5000
# Arrays in files are called so; those of other kinds `samples`.
_NAMES = {"images": "images", "vectors": "vectors"}


class Samples(NamedTuple):
    """`draw_samples` gives back samples, and what they cost.

    Attributes:
        x: samples `(N, *dims)` in model units, on the CPU.
        nfe: network calls a sample; a mean over batches, which differ for adaptive steps only.
        seconds: time a sample was waited for, all batches together; the longest of several processes.
    """

    x: Tensor
    nfe: float
    seconds: float


def draw_samples(
    model: Model,
    solver: Solver,
    shape: tuple[int, ...],
    seeds: list[int],
    batch_size: int,
    progress: bool = True,
) -> Samples:
    """Draw one sample of this shape for each seed, from latents of the prior; several processes divide the work.

    Sample `i` depends on `seeds[i]` alone, to the last bit if the batch size stays the same. A model that is bound to
    conditions has those of all samples, in the order of `seeds`.
    """
    device = distributed.device()
    batches = [slice(first, min(first + batch_size, len(seeds))) for first in range(0, len(seeds), batch_size)]
    share = distributed.share(batches)
    calls = solver.calls(model.sde) if progress else None
    own, started = [], time.perf_counter()
    with Progress("samples", len(share), "batch", calls, shown=progress) as bar:
        for rows in share:
            batch = seeds[rows]
            latents = model.sde.prior_sample((len(batch), *shape), seeds=batch, device=device)
            watched = Watched(rows_of(model, rows), bar.call)
            solution = solver(watched, latents, seeds=batch)
            own.append((solution.x.cpu(), solution.nfe))
            bar.update()
    seconds = max(distributed.gather([time.perf_counter() - started]))
    drawn = distributed.gather(own)
    x = torch.cat([x for x, _ in drawn])
    return Samples(x, sum(nfe * len(part) for part, nfe in drawn) / len(x), seconds)


def as_array(x: Tensor, dataset: Dataset) -> np.ndarray:
    """Return samples `(N, *dims)` in model units as files have them: uint8 images `(N, H, W, C)`, or in data units.

    Raises:
        UserError: samples are not finite.
    """
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise UserError(f"{broken} of {len(x)} samples are not finite: take more steps, or another solver or t_min")
    return dataset.to_uint8(x).numpy() if dataset.is_image else dataset.units.decode(x).numpy()


def write_samples(
    samples: Samples,
    seeds: list[int],
    dataset: Dataset,
    folder: Path,
    name: str,
    labels: Tensor | None = None,
    columns: int | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> list[Path]:
    """Write `name.npz` and `name.png`; return the paths.

    `labels` `(N,)` are the classes that were asked for, if any were; a grid has so many `columns`, if more than one.
    The `settings` that samples were drawn with are kept beside them.

    Raises:
        UserError: samples are not finite (the others are written first), or a file cannot be written.
    """
    finite = samples.x.flatten(1).isfinite().all(1)
    if not finite.all() and finite.any():
        rest = [seed for seed, kept in zip(seeds, finite.tolist(), strict=True) if kept]
        kept_labels = None if labels is None else labels[finite]
        finite_samples = samples._replace(x=samples.x[finite])
        paths = write_samples(finite_samples, rest, dataset, folder, name, kept_labels, settings=settings)
        broken = f"{int((~finite).sum())} of {len(finite)} samples are not finite and left out of {paths[0]}"
        raise UserError(f"{broken}: take more steps, or another solver or t_min")
    array = as_array(samples.x, dataset)
    numbers, picture = folder / f"{name}.npz", folder / f"{name}.png"
    nfe = int(samples.nfe) if samples.nfe == int(samples.nfe) else samples.nfe
    arrays: dict[str, Any] = {_NAMES.get(dataset.kind, "samples"): array, "seeds": np.array(seeds)}
    arrays["settings"] = as_text(settings)
    if labels is not None:
        arrays["labels"], arrays["class_names"] = labels.numpy(), np.array(dataset.class_names)
    with replacing(numbers, settings), write_atomically(numbers) as temporary:
        np.savez_compressed(temporary, nfe=nfe, seconds=samples.seconds, **arrays)
    shown = _NUM_SHOWN_VECTORS if dataset.kind == "vectors" else _NUM_SHOWN
    columns = None if columns == 1 else columns
    save_examples(picture, dataset.kind, array[:shown], shown_examples(dataset), columns=columns)
    return [numbers, picture]


def shown_examples(dataset: Dataset) -> np.ndarray | None:
    """Return training examples to show samples beside, in data units; None of images, and where there are none.

    Those that lack numbers are not shown.
    """
    if dataset.is_image or not len(dataset.train):
        # A run may draw samples without having the data.
        return None
    shown = dataset.train[: _NUM_SHOWN_VECTORS if dataset.kind == "vectors" else _NUM_SHOWN]
    whole = ~shown.flatten(1).isnan().any(1)
    return shown[whole].numpy() if bool(whole.any()) else None
