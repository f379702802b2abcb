"""What a run's folder holds, as a short table: `python -m score_sde.evaluation.summary runs/digits`."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from score_sde.common.errors import UserError
from score_sde.common.files import open_npz
from score_sde.evaluation.likelihood.bits_per_dim import unit_of

# Reading a damaged file may raise any of these.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


def summarise(folder: Path) -> str:
    """Return lines on the samples, likelihoods and comparison of solvers in a run's folder, and where pictures are.

    Raises:
        UserError: a file is damaged.
    """
    rows = [*_samples(folder), *_likelihoods(folder)]
    pictures = sorted(folder.glob("samples/*.png")) + sorted(folder.glob("compare/*.png"))
    lines = [f"{what:<28}{result:<34}{cost}" for what, result, cost in rows]
    table = folder / "compare" / "table.md"
    if table.exists():
        lines += [
            "",
            next((line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("Use ")), ""),
        ]
    lines += ["", *(f"picture: {path}" for path in pictures)]
    lines += [f"table:   {table}"] if table.exists() else []
    return "\n".join(lines)


def _samples(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for path in sorted(folder.glob("samples/*.npz")):
        try:
            with open_npz(path) as drawn:
                result = f"{len(drawn['seeds'])} drawn"
                rows.append((f"samples, {path.stem}", result, _cost(float(drawn["nfe"]), float(drawn["seconds"]))))
        except _DAMAGED as error:
            raise UserError(f"cannot read {path}: {error!r}; draw the samples again") from error
    return rows


def _likelihoods(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for path in sorted(folder.glob("likelihood/*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if "accuracy" in found:
                rows.append((f"classes, {path.stem}", f"{found['accuracy']:.3f} recognised by p(x | y)", ""))
                continue
            unit, error = unit_of(found["levels"]), found["standard_error"]
            told = "" if error is None else f" ± {error * unit.per_bit:.3f}"
            result = f"{found['bits_per_dim'] * unit.per_bit:.3f}{told} ({found['num_examples']} examples)"
            rows.append((f"{unit.name}, {path.stem}", result, _cost(found["nfe"], found["seconds"])))
        except _DAMAGED as damage:
            raise UserError(f"cannot read {path}: {damage!r}; run --mode likelihood again") from damage
    return rows


def _cost(nfe: float, seconds: float) -> str:
    return f"{nfe:.0f} network calls each, {seconds:.0f} s"


def main(arguments: list[str]) -> int:
    """Print the summary of the folder given, or of `runs/digits`; returns the exit code."""
    folder = Path(arguments[0] if arguments else "runs/digits")
    if not folder.is_dir():
        print(f"error: there is no workdir {folder}", file=sys.stderr)
        return 1
    try:
        print(summarise(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
