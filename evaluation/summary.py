"""What a run's folder holds, as a short table: `python -m evaluation.summary runs/digits`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def summarise(folder: Path) -> str:
    """Lines on the samples, the likelihoods and the comparison of solvers in a run's folder, and where pictures are."""
    rows = [*_samples(folder), *_likelihoods(folder)]
    pictures = sorted(folder.glob("samples/*.png")) + sorted(folder.glob("compare/*.png"))
    lines = [f"{what:<28}{result:<34}{cost}" for what, result, cost in rows]
    table = folder / "compare" / "table.md"
    if table.exists():
        lines += ["", next(line for line in table.read_text().splitlines() if line.startswith("Use "))]
    lines += ["", *(f"picture: {path}" for path in pictures)]
    lines += [f"table:   {table}"] if table.exists() else []
    return "\n".join(lines)


def _samples(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for path in sorted(folder.glob("samples/*.npz")):
        drawn = np.load(path)
        result = f"{len(drawn['seeds'])} drawn"
        rows.append((f"samples, {path.stem}", result, _cost(float(drawn["nfe"]), float(drawn["seconds"]))))
    return rows


def _likelihoods(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for path in sorted(folder.glob("likelihood/*.json")):
        found = json.loads(path.read_text())
        error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.3f}"
        result = f"{found['bits_per_dim']:.3f}{error} ({found['num_examples']} examples)"
        rows.append((f"bits/dim, {path.stem}", result, _cost(found["nfe"], found["seconds"])))
    return rows


def _cost(nfe: float, seconds: float) -> str:
    return f"{nfe:.0f} network calls each, {seconds:.0f} s"


def main(arguments: list[str]) -> int:
    """Print the summary of the folder given, or of `runs/digits`; returns the exit code."""
    folder = Path(arguments[0] if arguments else "runs/digits")
    if not folder.is_dir():
        print(f"error: there is no workdir {folder}", file=sys.stderr)
        return 1
    print(summarise(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
