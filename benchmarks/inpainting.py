"""Hidden parts of test digits, drawn by a trained mask condition and by an inverse-problem method.

    python main.py --mode train --config configs/vp/digits_masked.py
    python -m benchmarks.inpainting --workdir runs/digits --masked runs/vp_digits_masked

`--workdir` is an unconditional run, by which ΠGDM answers; `--masked` are runs of data.masks. Of each test digit three
parts are hidden in turn: the middle box of 4 x 4, the right half, and half of the pixels, at random; each method has 8
answers. Known pixels are those of the picture in all of them. What is measured is of hidden pixels, in levels of 17:

    likelihood   log-density, in nats a pixel, of the truth under normal kernels at the answers, all of one width
    energy       E|X - y| - E|X - X'| / 2 over sqrt(d), a proper score of the answers' joint distribution (smaller is
                 better; Gneiting & Raftery 2007)
    CRPS         the same pixel by pixel
    RMSE         of the mean of the answers
    spread       standard deviation of the answers of a picture
    recognised   share of answers that a support vector machine, which saw whole training digits, gives the true class

Widths, solvers and scales are chosen by the likelihood of the first 50 test digits, and numbers reported of others.
Differences are paired, picture by picture, with their standard errors. With `--density` the trained models' own
log-densities are measured, too: of the hidden levels given the known ones, by the probability flow, in bits a pixel.

About six minutes of one core for each part (`--hidden half` measures one).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import score_sde
from score_sde.control import EachMasked, Observation, PiGDM
from score_sde.experiment.run import Run
from score_sde.solvers import get_solver

NUM_CHOOSING, NUM_ANSWERS = 50, 8
WIDTHS = torch.linspace(0.5, 5, 46, dtype=torch.float64)
SOLVERS = {"default, 20": ("default", 20), "dpmpp_2s_sde, 50": ("dpmpp_2s_sde", 50)}

# Answers `(N, K, 1, 8, 8)`, levels, to pictures `(N, 1, 8, 8)` of which `known` is known.
Answers = Callable[[Tensor, Tensor], Tensor]
# Whether pictures `(N, 1, 8, 8)` have their classes `(N,)`, 1 or 0.
Recogniser = Callable[[Tensor, Tensor], Tensor]


class Scores(NamedTuple):
    """Holds what was measured of the answers to each picture, `(N,)`, float64; `log_kernels` for each width."""

    log_kernels: Tensor
    energy: Tensor
    crps: Tensor
    rmse: Tensor
    spread: Tensor
    recognised: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--masked", type=Path, nargs="*", default=[Path("runs/vp_digits_masked")])
    parser.add_argument("--pictures", type=int, default=150, help="how many numbers are reported of")
    parser.add_argument("--scales", type=float, nargs="*", default=(0.5, 1.0, 2.0), help="of ΠGDM's guidance")
    parser.add_argument("--hidden", choices=("box", "half", "pixels"), help="this part alone")
    parser.add_argument("--density", action="store_true", help="measure the trained models' own densities, too")
    arguments = parser.parse_args()
    base = score_sde.load(arguments.workdir)
    trained = [score_sde.load(path) for path in arguments.masked]
    assert base.dataset.test_classes is not None
    rows = slice(NUM_CHOOSING + arguments.pictures)
    x, classes = base.dataset.test[rows], base.dataset.test_classes[rows]
    recognise = recogniser(base)
    families: dict[str, dict[str, Answers]] = {
        f"trained, {path.name}": {name: by_trained(run, *solver) for name, solver in SOLVERS.items()}
        for path, run in zip(arguments.masked, trained, strict=True)
    }
    families["ΠGDM"] = {f"scale {scale:g}": by_pigdm(base, scale) for scale in arguments.scales}
    for name, known in masks(len(x)).items():
        if arguments.hidden not in (None, name):
            continue
        seen = recognise(x, classes)[NUM_CHOOSING:].mean()
        print(f"\nhidden: {name}; {seen:.3f} of the whole digits are recognised", flush=True)
        print("method (width)                             likelihood  energy  CRPS   RMSE   spread  recognised")
        found = {}
        for family, options in families.items():
            option, log_prob, scores = found[family] = chosen(options, x, known, classes, recognise)
            numbers = "  ".join(f"{part.mean():.3f}" for part in scores[1:])
            print(f"{family + ', ' + option:40}  {mean_and_error(log_prob)}  {numbers}", flush=True)
        _, log_prob, scores = found.pop("ΠGDM")
        for family, (_, better, of_better) in found.items():
            energy = mean_and_error(of_better.energy - scores.energy)
            print(f"{family} less ΠGDM: likelihood {mean_and_error(better - log_prob)}, energy {energy}", flush=True)
    if arguments.density:
        for path, run in zip(arguments.masked, trained, strict=True):
            densities(path.name, run, x[NUM_CHOOSING:])


def masks(count: int) -> dict[str, Tensor]:
    """Return, by name, which pixels of each picture are known, `(N, 1, 8, 8)`."""
    box, half = torch.ones(2, count, 1, 8, 8, dtype=torch.bool)
    box[..., 2:6, 2:6] = False
    half[..., 4:] = False
    order = torch.rand(count, 64, generator=torch.Generator().manual_seed(0)).argsort(1)
    return {"box": box, "half": half, "pixels": (order < 32).reshape(count, 1, 8, 8)}


def by_trained(run: Run, solver: str, num_steps: int) -> Answers:
    """Return what answers by a model that is told what is known."""

    def answers(x: Tensor, known: Tensor) -> Tensor:
        filled = run.fill(x, NUM_ANSWERS, given=known, seed=0, solver=solver, num_steps=num_steps)
        return torch.from_numpy(filled).transpose(0, 1)

    return answers


def by_pigdm(run: Run, scale: float) -> Answers:
    """Return what answers by a model of whole pictures, and the approximate score of what is known."""

    def answers(x: Tensor, known: Tensor) -> Tensor:
        units, found = run.dataset.units, []
        many, keep = (part.repeat_interleave(NUM_ANSWERS, 0) for part in (x, known))
        solver = get_solver("dpmpp_2s_sde", num_steps=50)
        for rows in torch.arange(len(many)).split(64):
            y = torch.where(keep[rows], units.encode(many[rows]), 0)
            model = PiGDM(run.model, Observation(EachMasked(keep[rows]), y), scale, data_std=0.7)
            seeds = rows.tolist()
            found.append(units.decode(solver(model, model.sde.prior_sample(y.shape, seeds=seeds), seeds=seeds).x))
        return torch.where(keep, many, torch.cat(found)).unflatten(0, (len(x), NUM_ANSWERS))

    return answers


def chosen(
    options: dict[str, Answers], x: Tensor, known: Tensor, classes: Tensor, recognise: Recogniser
) -> tuple[str, Tensor, Scores]:
    """Return the best option by the likelihood of the first pictures, with its likelihoods and scores of the others."""
    first, others = slice(NUM_CHOOSING), slice(NUM_CHOOSING, None)
    best = (-math.inf, "", 0)
    for name, answers in options.items():
        kernels = scored(answers(x[first], known[first]), x[first], known[first], classes[first], recognise).log_kernels
        value, widest = kernels.mean(0).max(0)
        best = max(best, (float(value), name, int(widest)))
    _, name, width = best
    made = options[name](x[others], known[others])
    scores = scored(made, x[others], known[others], classes[others], recognise)
    return f"{name} ({WIDTHS[width]:.1f})", scores.log_kernels[:, width], scores


def scored(answers: Tensor, x: Tensor, known: Tensor, classes: Tensor, recognise: Recogniser) -> Scores:
    """Measure answers `(N, K, 1, 8, 8)` to pictures `x` `(N, 1, 8, 8)`, of which `known` is known."""
    assert torch.equal(torch.where(known[:, None], answers, 0), torch.where(known, x, 0)[:, None].expand_as(answers))
    hidden = (~known).flatten(1).double()
    d, count = hidden.sum(1), answers.shape[1]
    error = (answers.double() - x[:, None].double()).flatten(2) * hidden[:, None]
    between = error[:, :, None] - error[:, None]
    pairs = count * (count - 1)
    energy = error.norm(dim=2).mean(1) - between.norm(dim=3).sum((1, 2)) / (2 * pairs)
    crps = error.abs().sum(2).mean(1) - between.abs().sum((1, 2, 3)) / (2 * pairs)
    squared = error.square().sum(2)[..., None]
    log_normal = -squared / (2 * WIDTHS**2) - d[:, None, None] * torch.log(WIDTHS * math.sqrt(2 * math.pi))
    return Scores(
        (torch.logsumexp(log_normal, 1) - math.log(count)) / d[:, None],
        energy / d.sqrt(),
        crps / d,
        (error.mean(1).square().sum(1) / d).sqrt(),
        (error.var(1).sum(1) / d).sqrt(),
        recognise(answers.flatten(0, 1), classes.repeat_interleave(count)).unflatten(0, (-1, count)).mean(1),
    )


def recogniser(run: Run) -> Recogniser:
    """Return what says whether pictures `(N, 1, 8, 8)` have their classes `(N,)`: 1 or 0."""
    from sklearn.svm import SVC

    dataset = run.dataset
    assert dataset.train_classes is not None
    machine = SVC(gamma=0.001).fit(dataset.train.flatten(1).numpy(), dataset.train_classes.numpy())
    return lambda x, classes: torch.from_numpy(machine.predict(x.flatten(1).numpy()) == classes.numpy()).double()


def densities(path: str, run: Run, x: Tensor) -> None:
    """Print the log-density of hidden levels given known ones, and of whole pictures, in bits a pixel."""
    print(f"\n{path}: p(x) {mean_and_error(torch.from_numpy(run.bits_per_dim(x)))} bits a pixel")
    for name, known in masks(len(x)).items():
        log_prob = torch.from_numpy(run.log_prob(x, given=known))
        bits = -log_prob / math.log(2) / (~known).flatten(1).sum(1)
        print(f"hidden: {name}, given the rest: {mean_and_error(bits)}", flush=True)


def mean_and_error(values: Tensor) -> str:
    return f"{values.mean():+.4f} ± {values.std() / np.sqrt(len(values)):.4f}"


if __name__ == "__main__":
    main()
