"""What a run has produced so far, as a short table: `python -m evaluation.summary runs/digits`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

from errors import UserError

PICTURES = ("samples/*.png", "compare/*.png")


def summary(folder: Path) -> str:
    """Samples, likelihoods and comparisons found in a workdir, and the paths of its pictures.

    Raises:
        UserError: there is no such workdir.
    """
    if not folder.is_dir():
        raise UserError(f"there is no workdir {folder}; first: make demo, or python main.py --mode train")
    rows = [*_likelihoods(folder), *_samples(folder), *_comparison(folder)]
    pictures = [str(path) for pattern in PICTURES for path in sorted(folder.glob(pattern))]
    lines = ["| what | result | network calls | seconds |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", "pictures: " + ", ".join(pictures)])


def _likelihoods(folder: Path) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for path in sorted((folder / "likelihood").glob("*.json")):
        result = json.loads(path.read_text())
        error = result["standard_error"]
        bits = f"{result['bits_per_dim']:.3f}" + ("" if error is None else f" ± {error:.3f}") + " bits/dim"
        what = f"likelihood of {result['num_examples']} {path.stem} examples"
        rows.append((what, bits, f"{result['nfe']:.0f}", f"{result['seconds']:.0f}"))
    return rows


def _samples(folder: Path) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for path in sorted((folder / "samples").glob("*.npz")):
        with np.load(path) as result:
            what = f"{len(result['seeds'])} samples by {path.stem}"
            rows.append((what, path.name, f"{float(result['nfe']):.0f}", f"{float(result['seconds']):.0f}"))
    return rows


def _comparison(folder: Path) -> list[tuple[str, ...]]:
    path = folder / "compare" / "results.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        results = list(csv.DictReader(file))
    rows: list[tuple[str, ...]] = []
    for result in results:
        if result["frechet"]:
            name = " ".join(part for part in (result["solver"], result["options"]) if part)
            value = f"Fréchet {float(result['frechet']):.3g}"
            if result["endpoint_error"]:
                value += f", endpoint error {float(result['endpoint_error']):.2g}"
            rows.append((name if name != "data" else "training data", value, result["nfe"], result["seconds"][:6]))
    return rows


if __name__ == "__main__":
    try:
        print(summary(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits")))
    except UserError as error:
        sys.exit(f"error: {error}")
