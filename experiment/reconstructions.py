"""How good an autoencoder is: what its latents cost, how well it reconstructs, and the bound that follows.

likelihood/<split>.json    bits_per_dim, a bound; rate and distortion, in bits/dim; the root mean squared error of
                           reconstructions, in levels or in standard deviations; codes in use, of `num_codes`
likelihood/<split>.csv     example, bits_per_dim, rate, distortion, error; one row an example
likelihood/<split>.png     examples and their reconstructions
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.errors import UserError, choose
from score_sde.common.files import write_atomically
from score_sde.common.plots import save_examples
from score_sde.data.units import Standardised
from score_sde.data.words import PARTS
from score_sde.evaluation.likelihood.bits_per_dim import mean_and_error
from score_sde.experiment.autoencoders import shown_reconstructions
from score_sde.experiment.experiment import Experiment
from score_sde.models.autoencoder import Autoencoder, VQAutoencoder
from score_sde.training.autoencoding import codes_in_use, measure_autoencoder

# What `bits_per_dim` is.
KIND = "bound of an autoencoder, one draw of its latents"


def rated(experiment: Experiment, examples: Tensor, seeds: list[int]) -> dict[str, Tensor]:
    """Return rate and distortion of examples in data units `(N, *shape)`, in bits a dimension of these, `(N,)` each.

    Beside them is the squared error of reconstructions, in model units; example `i` is encoded with `seeds[i]`.
    """
    units = experiment.dataset.units
    found = measure_autoencoder(experiment.model, units.encode(examples), seeds)
    if isinstance(units, Standardised):
        per_dimension = units.log_scales(examples) / (examples[0].numel() * math.log(2))
        found["distortion"] = found["distortion"] - per_dimension
    return found


def measure_reconstructions(experiment: Experiment, model: Autoencoder) -> tuple[list[str], list[Path]]:
    """Measure an autoencoder on the examples of the section `likelihood`, and write it; return lines, and the files.

    Raises:
        UserError: there are no such examples, or a file cannot be written.
    """
    config, dataset, settings = experiment.config, experiment.dataset, experiment.config.likelihood
    examples = getattr(dataset, choose("split", settings.split, {part: part for part in PARTS}))
    examples = examples[: settings.num_examples]
    if not len(examples):
        raise UserError(f"there are no {settings.split} examples: see data.validation")
    found = rated(experiment, examples, list(range(config.seed, config.seed + len(examples))))
    bits = found["rate"] + found["distortion"]
    error = found["error"].mean().sqrt().item() / dataset.units.spacing
    summary: dict[str, Any] = {
        **mean_and_error("bits_per_dim", bits),
        "kind": KIND,
        "rate": found["rate"].mean().item(),
        "distortion": found["distortion"].mean().item(),
        "reconstruction_error": error,
        "num_examples": len(examples),
        "split": settings.split,
        "dataset": dataset.name,
        "checkpoint": str(experiment.path),
        "seed": config.seed,
    }
    unit = "standard deviations" if dataset.levels is None else "levels"
    lines = [
        f"{summary['bits_per_dim']:.4f} bits/dim of {len(examples)} {settings.split} examples, a bound: rate "
        f"{summary['rate']:.4f}, distortion {summary['distortion']:.4f}; reconstructions are off by {error:.3f} {unit}"
    ]
    if isinstance(model, VQAutoencoder):
        summary |= {"codes_in_use": codes_in_use(model, dataset.units.encode(examples)), "num_codes": len(model.codes)}
        lines.append(f"{summary['codes_in_use']:.1f} of {summary['num_codes']} codes are in use (perplexity)")
    folder, name = experiment.folder / "likelihood", settings.split
    paths = [folder / f"{name}.{suffix}" for suffix in ("json", "csv", "png")]
    if distributed.rank() > 0:
        return lines, paths
    with write_atomically(paths[0]) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    rows = torch.stack([bits, found["rate"], found["distortion"], found["error"].sqrt() / dataset.units.spacing], 1)
    with write_atomically(paths[1]) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["example", "bits_per_dim", "rate", "distortion", "reconstruction_error"])
        writer.writerows([number, *row] for number, row in enumerate(rows.tolist()))
    preview = shown_reconstructions(dataset)(model)
    save_examples(paths[2], preview.kind, preview.samples, preview.reference)
    return lines, paths
