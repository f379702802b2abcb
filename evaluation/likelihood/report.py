"""Measuring the likelihoods of many examples, and writing them down.

likelihood/<split>.json           bits_per_dim, standard_error, num_examples, nfe, …, and how they were computed
likelihood/<split>.csv            example, bits_per_dim, log_prob (in nats and data units: of levels, the bound on their
                                  log-probability), each bound, class; one row an example
likelihood/<split>.png            their histogram
likelihood/<split>_extremes.png   the most likely examples, and below or beside them the least likely; of vectors, the
                                  least likely tenth; none where examples lack numbers
likelihood/<split>_latents.npz    where the trajectories end, if asked for
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.files import write_atomically
from score_sde.common.interruption import keeping
from score_sde.common.plots import save_examples
from score_sde.common.progress import Progress
from score_sde.common.resumable import Part, batches_of, in_parts, rows_done
from score_sde.data import Dataset
from score_sde.data.dataset import has_gaps
from score_sde.evaluation.likelihood.bits_per_dim import BITS, NATS, Likelihoods, Unit, unit_of
from score_sde.evaluation.likelihood.measurement import Checked, Measurement
from score_sde.evaluation.provenance import as_text, remove_stale, replacing
from score_sde.evaluation.watched import Watched
from score_sde.models import rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the axis of each unit is called.
AXES = {BITS: "bits per dimension", NATS: "nats per dimension, in data units"}
_NUM_EXTREMES = 10
_SHARE_OF_EXTREMES = 0.1


def measure_likelihoods(
    measurement: Measurement,
    examples: Tensor,
    seeds: list[int],
    batch_size: int,
    folder: Path,
    about: dict[str, Any],
) -> Likelihoods:
    """Measure `examples` `(N, *shape)` in batches; those that an earlier run left in `folder` are not done again.

    What decides the numbers is in `about`; `about["levels"]` says in which unit the progress is told.

    Raises:
        UserError: a trajectory cannot be followed, or a file cannot be written.
        Stopped: a signal came.
    """

    def work(rows: range) -> Part:
        part = slice(rows.start, rows.stop)
        measured = rows_of(watched, part)(examples[part], seeds[part])
        beside = {f"bound {name}": terms for name, terms in measured.bounds.items()}
        if gaps:
            beside["numbers"] = numbers_of(examples[part])
        arrays = measured._asdict() | beside
        del arrays["bounds"]
        return {name: np.asarray(value) for name, value in arrays.items()}

    def report(part: Part, found: bool) -> None:
        log_weights = part["log_prob"] - part["log_q"]
        dimension = part.get("numbers", examples[0].numel())
        values.extend((-log_weights.mean(1) / (dimension * math.log(2)) * unit.per_bit).tolist())
        error = f" ± {np.std(values, ddof=1) / math.sqrt(len(values)):.4f}" if len(values) > 1 else ""
        bar.update(len(log_weights), f"{np.mean(values):.4f}{error} {unit.name}", found)

    def kept() -> str:
        done = rows_done(folder, len(examples), batch_size)
        return (
            f"stopped after {done} of {len(examples)} examples, which are kept in {folder}; repeat the command to go on"
        )

    values: list[float] = []
    gaps = has_gaps(examples)
    unit = unit_of(about["levels"])
    share = sum(map(len, distributed.share(batches_of(len(examples), batch_size))))
    with keeping(kept), Progress("likelihood", share, "example") as bar:
        watched = replace(measurement, model=Watched(measurement.model, bar.call))
        parts = in_parts(folder, about, len(examples), batch_size, work, report)
    joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in _arrays(parts[0])}
    sizes = [len(part["log_prob"]) for part in parts]
    return Likelihoods(
        joined["log_prob"],
        joined["log_q"],
        {name.removeprefix("bound "): terms for name, terms in joined.items() if name.startswith("bound ")},
        joined["latents"],
        float(np.average([part["nfe"] for part in parts], weights=sizes)),
        float(sum(part["seconds"] for part in parts)),
        joined.get("numbers"),
        examples[0].numel(),
    )


def numbers_of(examples: Tensor) -> Tensor:
    """Return how many numbers of each example `(N, *shape)` were observed, `(N,)`."""
    return (~examples.isnan()).flatten(1).sum(1)


def check_likelihoods(
    measurement: Measurement,
    likelihoods: Likelihoods,
    examples: Tensor,
    seeds: list[int],
    count: int,
) -> Checked | None:
    """Measure the first `count` examples again; return None for 0."""
    if count == 0:
        return None
    first = (likelihoods.log_prob - likelihoods.log_q)[:count, 0]
    with Progress("checks of the likelihood") as bar:
        watched = replace(measurement, model=Watched(measurement.model, bar.call))
        return rows_of(watched, slice(count)).check(examples[:count], seeds[:count], first)


def write_likelihoods(
    likelihoods: Likelihoods,
    summary: dict[str, Any],
    dataset: Dataset,
    examples: Tensor,
    folder: Path,
    name: str,
    latents: bool,
    class_of: list[str] | None = None,
) -> list[Path]:
    """Write the numbers, tables and pictures; return the paths.

    Args:
        likelihoods: what was measured.
        summary: numbers, and how they were computed: plain values for the JSON file; `settings` has all options.
        dataset: the data, which know how examples look.
        examples: the examples `(N, *shape)`, in data units.
        folder: where the files go.
        name: name of the part of the data.
        latents: whether to write the latents, too.
        class_of: name of each example's class, if examples have classes.

    Raises:
        UserError: a file cannot be written.
    """
    bits = likelihoods.bits_per_dim
    paths = [folder / f"{name}.json", folder / f"{name}.csv", folder / f"{name}.png"]
    with replacing(paths[0], summary.get("settings", {})), write_atomically(paths[0]) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    bounds = {bound: likelihoods.to_bits(-terms.sum(1)).tolist() for bound, terms in likelihoods.bounds.items()}
    table: dict[str, Any] = {"example": range(len(bits)), "bits_per_dim": bits.tolist()}
    table |= {"log_prob": (likelihoods.log_prob - likelihoods.log_q).mean(1).tolist(), **bounds}
    if class_of is not None:
        table["class"] = class_of
    with write_atomically(paths[1]) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    with write_atomically(paths[2]) as temporary:
        histogram(likelihoods, f"{dataset.name}, {name}", unit_of(dataset.levels)).savefig(temporary, format="png")
    settings, extremes = summary.get("settings", {}), folder / f"{name}_extremes.png"
    if likelihoods.numbers is None:
        paths.append(extremes)
        save_extremes(extremes, dataset, examples, bits.argsort())
    else:
        # Examples that lack numbers are not shown.
        remove_stale(extremes, settings)
    ends = folder / f"{name}_latents.npz"
    if not latents:
        remove_stale(ends, settings)
    else:
        paths.append(ends)
        arrays = {"latents": likelihoods.latents.numpy(), "bits_per_dim": bits.numpy(), "settings": as_text(settings)}
        if class_of is not None:
            arrays["classes"] = np.array(class_of)
        with write_atomically(ends) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    return paths


def save_extremes(path: Path, dataset: Dataset, examples: Tensor, order: Tensor) -> None:
    """Write a picture of the most likely and the least likely examples; `order` `(N,)` begins with the most likely."""
    if dataset.kind == "vectors":
        least = examples[order.flip(0)[: math.ceil(len(order) * _SHARE_OF_EXTREMES)]]
        names = ("least likely tenth", "all examples")
        save_examples(path, dataset.kind, least.numpy(), examples.numpy(), names=names)
        return
    count = min(_NUM_EXTREMES, len(order))
    most, least = examples[order[:count]], examples[order.flip(0)[:count]]
    if dataset.is_image:
        both = dataset.levels_to_uint8(torch.cat([most, least])).numpy()
        save_examples(path, dataset.kind, both, columns=count)
    else:
        save_examples(path, dataset.kind, least.numpy(), most.numpy(), names=("least likely", "most likely"))


def histogram(likelihoods: Likelihoods, title: str, unit: Unit) -> Figure:
    """Draw how likelihoods are spread over examples, in a unit, with the means of the bounds."""
    from matplotlib.figure import Figure

    values = likelihoods.bits_per_dim * unit.per_bit
    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(values.numpy(), bins="auto", color="#0b6aa2", alpha=0.7)
    axes.axvline(values.mean().item(), color="black", label=f"mean {values.mean():.3f}")
    for index, (name, terms) in enumerate(likelihoods.bounds.items()):
        mean = likelihoods.to_bits(-terms.sum(1)).mean().item() * unit.per_bit
        axes.axvline(mean, color=f"C{index + 1}", linestyle="--", label=f"{name} bound {mean:.3f}")
    axes.set(xlabel=AXES[unit], ylabel="examples", title=title)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _arrays(part: Part) -> list[str]:
    return [name for name in part if name not in ("nfe", "seconds")]
