"""Cascades of glyphs, 8 -> 16 -> 32: `python -m benchmarks.cascades --cascade A --without B --single C` measures runs.

    cascade      of configs/cascades/glyphs.py: the small pictures get noise in training, of which stages are told
    without      the same without noise (its stages 16 and 32 are trained; the first one is the cascade's)
    single       one model of 32 pixels, trained for as many seconds as the three stages together

Each draws a sample for the caption of every chosen picture, picture `i` with seed `i`. A classifier (gradient-boosted
trees on the leading principal components of pixels, scikit-learn's) is fitted to one half of the pairs (picture,
sample) and told the other half apart; a caption's picture and its sample lie in one half. Printed:

    accuracy     of the classifier on the held-out half, 0.5 if samples are like data (Lopez-Paz & Oquab 2017,
                 arXiv:1610.06545), with its standard error over pairs
    AUC          likewise, by the ranks of what it says; its standard error by Hanley and McNeil

and, of test pictures, bits/dim: that of the single model, and of the cascade `log p(x_8) + log p(x_16 | x_8) +
log p(x_32 | x_16)`, with the paired difference. `--picture` writes what stages draw of held-out captions, instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import score_sde
from benchmarks.columns import save_columns
from score_sde.data.captions import CAPTION, Words
from score_sde.data.low_resolution import LOW_RESOLUTION
from score_sde.experiment.cascade_run import Cascade
from score_sde.experiment.run import Run

COMPONENTS = 40
# Rows of the picture.
SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cascade", type=Path, default=Path("runs/cascades_glyphs"))
    parser.add_argument("--without", type=Path)
    parser.add_argument("--single", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--noise", type=float, nargs="*", default=(0.0, 0.1, 0.2))
    parser.add_argument("--measured", type=int, default=0, help="test pictures whose bits/dim are measured")
    parser.add_argument("--kept", type=Path, default=Path("runs/cascades_samples"), help="samples that are kept")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    cascade = score_sde.load(arguments.cascade)
    assert isinstance(cascade, Cascade)
    if arguments.picture is not None:
        show(cascade, arguments.picture)
        return
    pictures, captions = chosen(cascade, arguments.samples)
    systems: list[tuple[str, Run, dict[str, Any]]] = [
        (f"cascade, noise {noise:g}", cascade, later(cascade, low_resolution_noise=noise)) for noise in arguments.noise
    ]
    if arguments.without is not None:
        without = score_sde.load(arguments.without)
        assert isinstance(without, Cascade)
        systems.append(("cascade without noise in training", without, later(without, low_resolution_noise=0.0)))
    single = None if arguments.single is None else score_sde.load(arguments.single)
    if single is not None:
        systems.append(("single", single, {"num_steps": 20}))
    print("| system | accuracy | AUC |")
    print("|---|---|---|")
    for name, run, options in systems:
        samples = drawn(arguments.kept / f"{name.replace(' ', '_')}.npy", run, captions, options)
        accuracy, auc = told_apart(pictures, samples)
        print(f"| {name} | {accuracy[0]:.3f} ± {accuracy[1]:.3f} | {auc[0]:.3f} ± {auc[1]:.3f} |", flush=True)
    if single is not None and arguments.measured:
        compare_bits(cascade, single, arguments.measured)


def show(cascade: Cascade, path: Path) -> None:
    """Write held-out pictures, and what each stage draws of what the one before drew, in columns."""
    rows = torch.linspace(0, len(cascade.dataset.test) - 1, SHOWN).long()
    words = cascade.dataset.condition_units[CAPTION]
    assert isinstance(words, Words)
    told: dict[str, Any] = {CAPTION: words.text(cascade.dataset.conditions["test"][CAPTION][rows])}
    columns: dict[str, np.ndarray] = {}
    drawn: dict[str, Any] = {}
    for place, run in enumerate(cascade.stages.values()):
        # No two stages have the same noise.
        drawn = {LOW_RESOLUTION: run.sample(SHOWN, condition=told | drawn, seed=SHOWN * place)}
        columns[f"{run.dataset.shape[-1]} x {run.dataset.shape[-1]}"] = drawn[LOW_RESOLUTION]
    save_columns(path, columns | {"picture": cascade.dataset.test[rows].numpy()})


def later(cascade: Cascade, **options: Any) -> dict[str, Any]:
    """Return options of all stages but the first."""
    return dict.fromkeys(list(cascade.stages)[1:], options)


def chosen(run: Run, count: int) -> tuple[np.ndarray, list[str]]:
    """Return training pictures, spread evenly over them, and their captions."""
    words = run.dataset.condition_units[CAPTION]
    assert isinstance(words, Words)
    rows = torch.linspace(0, len(run.dataset.train) - 1, min(count, len(run.dataset.train))).long()
    return run.dataset.train[rows].numpy(), words.text(run.dataset.conditions["train"][CAPTION][rows])


def drawn(path: Path, run: Run, captions: list[str], options: dict[str, Any]) -> np.ndarray:
    """Draw a sample of each caption, or take those that were kept."""
    if not path.is_file():
        samples = run.sample(len(captions), condition={CAPTION: captions}, seed=0, guidance=1.0, **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, samples)
    return np.load(path, allow_pickle=False)


def told_apart(pictures: np.ndarray, samples: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return accuracy and AUC of a classifier on the half of the pairs that it was not fitted to, with errors."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    order = np.random.default_rng(0).permutation(len(pictures))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    x, y = zip(*(_both(pictures[rows], samples[rows]) for rows in halves), strict=True)
    reduce = PCA(COMPONENTS, random_state=0).fit(x[0])
    machine = HistGradientBoostingClassifier(random_state=0).fit(reduce.transform(x[0]), y[0])
    score = machine.predict_proba(reduce.transform(x[1]))[:, 1]
    right = ((score > 0.5) == y[1]).reshape(2, -1).mean(0)
    auc, count = float(roc_auc_score(y[1], score)), len(halves[1])
    # Hanley and McNeil 1982.
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (count - 1) * (first + second - 2 * auc**2)
    return (float(right.mean()), float(right.std() / count**0.5)), (auc, variance**0.5 / count)


def compare_bits(cascade: Cascade, single: Run, count: int) -> None:
    """Print bits/dim of test pictures under the cascade and under one model, and their paired difference."""
    words = cascade.dataset.condition_units[CAPTION]
    assert isinstance(words, Words)
    rows = torch.linspace(0, len(cascade.dataset.test) - 1, count).long()
    x, told = cascade.dataset.test[rows], words.text(cascade.dataset.conditions["test"][CAPTION][rows])
    bits = [run.bits_per_dim(x, condition={CAPTION: told}, seed=0) for run in (cascade, single)]
    difference = bits[0] - bits[1]
    for name, values in (("cascade", bits[0]), ("single", bits[1]), ("difference", difference)):
        print(f"{name}: {values.mean():.3f} ± {values.std() / count**0.5:.3f} bits/dim of {count} test pictures")


def _both(pictures: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([pictures, samples]).reshape(2 * len(pictures), -1) / 255
    return x, np.arange(len(x)) >= len(pictures)


if __name__ == "__main__":
    main()
