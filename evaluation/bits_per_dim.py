"""Likelihoods of examples, in bits per dimension, and writing them down.

Quantised data, with levels in bins of width `w` (see `data.dataset`), are dequantised with uniform noise; by Jensen's
inequality the density of the result bounds the probability of the levels (Theis et al. 2016, arXiv:1511.01844),

    -log2 P(k) / d <= E[-log2 p(x)] / d - log2 w,        x = low + w (k + u).

Vectors have densities of their own: `w = 1`, nothing is added, and the numbers may be negative.

    likelihood/<split>.json:  bits_per_dim, standard_error, num_examples, nfe, seconds, …, and how they were computed
    likelihood/<split>.csv:   example, bits_per_dim, log_prob; one row an example
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import distributed
from data import Dataset
from files import write_atomically
from sde.noise import SampleNoise

# Called as log_likelihood(x, seeds), with `x` `(B, *dims)` in model units; returns log-densities `(B,)` in nats, and
# network calls.
LogLikelihood = Callable[[Tensor, list[int]], tuple[Tensor, float]]


class Likelihoods(NamedTuple):
    """What `evaluate_likelihood` gives back.

    Attributes:
        log_prob: log-density of each dequantised example in model units, `(N,)`, in nats; float64.
        bits_per_dim: `(N,)`; float64.
        nfe: network calls an example; the mean over batches.
        seconds: all batches together; the longest of several processes.
    """

    log_prob: Tensor
    bits_per_dim: Tensor
    nfe: float
    seconds: float


def evaluate_likelihood(
    log_likelihood: LogLikelihood, dataset: Dataset, examples: Tensor, seeds: list[int], batch_size: int
) -> Likelihoods:
    """Bits/dim of `examples` `(N, *shape)`; `seeds[i]` decides the noise of example `i`. Processes divide the work."""
    rows = range(len(examples))
    batches = [rows[first : first + batch_size] for first in range(0, len(examples), batch_size)]
    own, started = [], time.perf_counter()
    hidden = None if distributed.rank() == 0 else True
    for batch in tqdm(distributed.share(batches), unit="batch", desc="likelihood", disable=hidden):
        batch_seeds = [seeds[row] for row in batch]
        x = dequantise(dataset, examples[batch.start : batch.stop], batch_seeds).to(distributed.device())
        log_prob, nfe = log_likelihood(x, batch_seeds)
        own.append((log_prob.double().cpu(), nfe))
    seconds = max(distributed.gather([time.perf_counter() - started]))
    parts = distributed.gather(own)
    log_prob = torch.cat([log_prob for log_prob, _ in parts])
    nats = -log_prob / examples[0].numel() - math.log(dataset.bin_width)
    mean_nfe = sum(nfe * len(part) for part, nfe in parts) / len(log_prob)
    return Likelihoods(log_prob, nats / math.log(2), mean_nfe, seconds)


def dequantise(dataset: Dataset, examples: Tensor, seeds: list[int]) -> Tensor:
    """Examples `(B, *shape)` in model units; levels get uniform noise, from one seed an example."""
    if dataset.levels is None:
        return examples
    levels = examples.float()
    return dataset.scale(levels + SampleNoise(seeds, stream="dequantisation").uniform(levels))


def write_likelihoods(
    likelihoods: Likelihoods, about: dict[str, Any], folder: Path, name: str
) -> tuple[dict[str, Any], list[Path]]:
    """Write `name.json` and `name.csv`; returns what the JSON file holds, and the paths.

    Args:
        likelihoods: what to write.
        about: how they were computed: plain values for the JSON file.
        folder: where the files go.
        name: of the part of the data.

    Raises:
        UserError: a file cannot be written.
    """
    bits = likelihoods.bits_per_dim
    count = len(bits)
    summary = {
        **about,
        "bits_per_dim": bits.mean().item(),
        "standard_error": (bits.std() / math.sqrt(count)).item() if count > 1 else None,
        "nats_per_dim": bits.mean().item() * math.log(2),
        "log_prob": likelihoods.log_prob.mean().item(),
        "num_examples": count,
        "nfe": likelihoods.nfe,
        "seconds": likelihoods.seconds,
    }
    with write_atomically(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    with write_atomically(folder / f"{name}.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["example", "bits_per_dim", "log_prob"])
        writer.writerows(zip(range(count), bits.tolist(), likelihoods.log_prob.tolist(), strict=True))
    return summary, [folder / f"{name}.json", folder / f"{name}.csv"]
