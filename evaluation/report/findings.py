"""What there is in a run's folder, as a page shows it.

Nothing but files of the folder is read, so that a page can be made at any time. A file that is damaged is named, and
the others are shown.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from score_sde.common.files import open_npz
from score_sde.common.metrics import by_panel, read_rows
from score_sde.evaluation.likelihood.bits_per_dim import number, unit_of, value_in_words

_Value = TypeVar("_Value")
# Reading a damaged file may raise any of these.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile)


class Picture(NamedTuple):
    """A picture has a file and a caption."""

    path: Path
    caption: str


class Cell(NamedTuple):
    """A cell of a table has a text, which may be bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Entry:
    """What was measured or drawn once: a heading, lines of text, and pictures."""

    title: str
    lines: list[str]
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """What a run's folder has to show.

    Attributes:
        data: lines on the data, and on what was done to them.
        curves: numbers by training step, by name, by panel.
        training: lines on how far training has come.
        samples: samples of each solver.
        likelihoods: likelihoods of each part of the data.
        advice: which solver to take; empty without a comparison.
        table: the solvers side by side, the first row a heading.
        method: lines on how they were compared.
        pareto: the picture of the comparison.
        damaged: files that cannot be read.
    """

    data: list[str]
    curves: dict[str, dict[str, dict[int, float]]]
    training: list[str]
    samples: list[Entry]
    likelihoods: list[Entry]
    advice: str
    table: list[list[Cell]]
    method: list[str]
    pareto: list[Picture]
    damaged: list[str]


def find(folder: Path) -> Findings:
    """Read what there is in a run's folder."""
    damaged: list[str] = []

    def read(path: Path, reader: Callable[[Path], _Value]) -> list[_Value]:
        """Return what the reader makes of a file, or nothing, if there is none or it cannot be read."""
        try:
            return [reader(path)] if path.exists() else []
        except _DAMAGED:
            damaged.append(str(path.relative_to(folder)))
            return []

    rows = read_rows(folder / "metrics.csv")
    table = folder / "compare" / "table.md"
    lines = [line for text in read(table, lambda path: path.read_text(encoding="utf-8")) for line in text.splitlines()]
    return Findings(
        data=[line for found in read(folder / "data.json", _data) for line in found],
        curves=by_panel(rows),
        training=_training(rows),
        samples=[entry for path in sorted(folder.glob("samples/*.npz")) for entry in read(path, _samples)],
        likelihoods=[entry for path in sorted(folder.glob("likelihood/*.json")) for entry in read(path, _likelihood)],
        advice=next((_plain(line) for line in lines[1:] if line and not line.startswith(("|", "-"))), ""),
        table=[_cells(line) for line in lines if line.startswith("|") and not line.startswith("|---")],
        method=[_plain(line[2:]) for line in lines if line.startswith("- ")],
        pareto=_pictures({table.parent / "pareto.png": "error against network calls"}),
        damaged=damaged,
    )


def _data(path: Path) -> list[str]:
    about = _json(path)
    shape = " x ".join(map(str, about["shape"]))
    levels = "" if about["levels"] is None else f" of {about['levels']} levels"
    counts = [f"{about[f'num_{part}']:,} {part}" for part in ("train", "validation", "test") if about[f"num_{part}"]]
    return [f"{about['name']}: {about['kind']} of shape {shape}{levels}; {', '.join(counts)} examples", *about["notes"]]


def _training(rows: dict[int, dict[str, str]]) -> list[str]:
    if not rows:
        return []
    last = max(rows)
    held_out = {step: float(values["held_out_loss"]) for step, values in rows.items() if "held_out_loss" in values}
    losses = [f"loss {rows[step]['loss']} at step {step}" for step in sorted(rows) if "loss" in rows[step]]
    lines = [f"{last:,} steps" + (f"; {losses[-1]}" if losses else "")]
    if held_out:
        best = min(held_out, key=lambda step: held_out[step])
        lines.append(f"lowest held-out loss {held_out[best]:.4f}, at step {best:,}")
    return lines


def _samples(path: Path) -> Entry:
    with open_npz(path) as drawn:
        nfe, seconds = float(drawn["nfe"]), float(drawn["seconds"])
        lines = [f"{len(drawn['seeds'])} samples; {nfe:g} network calls each, {seconds:.1f} s in all"]
    metrics, copies = (path.with_name(f"{path.stem}_{name}.json") for name in ("metrics", "copies"))
    if metrics.exists():
        numbers = _json(metrics)
        told = [f"{name} {numbers[name]:.4g}" for name in ("fid", "kid", "is") if name in numbers]
        lines.append(f"{', '.join(told)}; of {numbers['num_samples']} samples and {numbers['num_real']} images")
    pictures = {path.with_suffix(".png"): "samples"}
    if copies.exists():
        numbers = _json(copies)
        value = f"{numbers['farther_than_test']:.3f} ± {numbers['standard_error']:.3f}"
        lines.append(
            f"copies? A sample is farther from its nearest training example than a test example is with probability "
            f"{value} (0.5: as new as test examples; near 0: copies)"
        )
        pictures[copies.with_suffix(".png")] = "samples, and test examples: how near training examples are to them"
    return Entry(path.stem, lines, _pictures(pictures))


def _likelihood(path: Path) -> Entry:
    found = _json(path)
    if "accuracy" in found:
        recognised = f"{found['accuracy']:.3f}{_plus_minus(found, 3)} of {found['num_examples']} examples recognised"
        return Entry(path.stem, [f"{recognised} by the densities given their classes"])
    unit = unit_of(found["levels"])
    lines = [f"{value_in_words(found)} of {found['num_examples']} {found.get('split', path.stem)} examples"]
    bounds = [f"{name} {number(bound, unit)}" for name, bound in found["bounds"].items()]
    if bounds:
        lines.append(f"bounds for the reverse SDE: {', '.join(bounds)}")
    if "solver_error" in found:
        lines.append(f"the solver's own error: {found['solver_error']['mean'] * unit.per_bit:+.4f} {unit.name}")
    levels = [] if found["levels"] is None else [f"{found['levels']} levels", f"{found['dequantisation']} noise"]
    probes = "" if found["divergence"] == "exact" else f", {found['num_probes']} {found['probe']} probe"
    how = [f"t_min = {found['t_min']:g}", f"{found['method']}, {found['nfe']:.0f} network calls"]
    lines.append("; ".join(["probability flow", *levels, f"{found['divergence']} divergence{probes}", *how]))
    histogram, extremes = path.with_suffix(".png"), path.with_name(f"{path.stem}_extremes.png")
    return Entry(path.stem, lines, _pictures({histogram: "over examples", extremes: "most and least likely"}))


def _plus_minus(value: dict[str, Any], digits: int = 4) -> str:
    error = value["standard_error"]
    return "" if error is None else f" ± {error:.{digits}f}"


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} has no names")
    return found


def _pictures(captions: dict[Path, str]) -> list[Picture]:
    return [Picture(path, caption) for path, caption in captions.items() if path.exists()]


def _cells(line: str) -> list[Cell]:
    """Return the cells of a row of a Markdown table."""
    texts = [text.strip() for text in line.strip().strip("|").split("|")]
    return [Cell(_plain(text), text.startswith("**")) for text in texts]


def _plain(text: str) -> str:
    """Return a text without Markdown's marks."""
    return text.replace("`", "").replace("*", "")
