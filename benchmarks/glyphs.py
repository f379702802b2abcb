"""Do pictures show what was asked for in words? `python -m benchmarks.glyphs` measures a run of configs/vp/glyphs.py.

Captions of the training part and of held-out compositions, as many of each, one sample a caption and seed. Printed for
each scale of guidance:

    retrieval    the nearest of all renderings (Euclidean) is that of the caption
    letter       a linear classifier that was fitted to renderings, moved by up to a pixel, recognises letter and
                 accent, whatever the style
    IoU          of ink (darker than the middle) in the sample and in the caption's rendering, mean
    spread       the standard deviation of the samples, in parts of the renderings' own

and how often the likelihood ranks a picture's own caption first among 100 (one in a hundred by chance).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import score_sde
from score_sde.data.captions import CAPTION, Words
from score_sde.data.words import Part
from score_sde.experiment.run import Run

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
INK = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/vp_glyphs"))
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES)
    parser.add_argument("--ranked", type=int, default=0, help="pictures whose captions are ranked by likelihood")
    arguments = parser.parse_args()
    run = score_sde.load(arguments.workdir)
    judge = Judge(run)
    print("| captions | guidance | retrieval | letter | IoU | spread |")
    print("|---|---|---|---|---|---|")
    parts: tuple[tuple[str, Part], ...] = (("seen", "train"), ("held-out compositions", "test"))
    for called, part in parts:
        pictures, captions = chosen(run, part, arguments.captions)
        for scale in arguments.scales:
            samples = torch.from_numpy(run.sample(len(captions), condition={CAPTION: captions}, seed=0, guidance=scale))
            cells = " | ".join(f"{value:.3f}" for value in judge(samples, pictures, captions))
            print(f"| {called} | {scale:g} | {cells} |", flush=True)
    for called, part in parts if arguments.ranked else ():
        print(f"{called}: {ranked_first(run, part, arguments.ranked):.3f} of {arguments.ranked} ranked first among 100")


def chosen(run: Run, part: Part, count: int) -> tuple[Tensor, list[str]]:
    """Return pictures of a part, spread evenly over it, and their captions."""
    examples, words = getattr(run.dataset, part), run.dataset.condition_units[CAPTION]
    assert isinstance(words, Words)
    rows = torch.linspace(0, len(examples) - 1, min(count, len(examples))).long()
    return examples[rows], words.text(run.dataset.conditions[part][CAPTION][rows])


class Judge:
    """Samples are compared with the renderings of all captions, by what saw no sample.

    Args:
        run: has the renderings.
    """

    def __init__(self, run: Run) -> None:
        from sklearn.linear_model import RidgeClassifier

        pairs = [chosen(run, part, 10**9) for part in ("train", "test")]
        self.renderings = torch.cat([pictures for pictures, _ in pairs])
        self.captions = [caption for _, captions in pairs for caption in captions]
        shifts = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
        moved = torch.cat([self.renderings.roll(shift, (2, 3)) for shift in shifts])
        self._machine = RidgeClassifier().fit(_rows(moved), [_letter(c) for c in self.captions] * len(shifts))

    def __call__(self, samples: Tensor, pictures: Tensor, captions: list[str]) -> list[float]:
        """Return the four measures of samples of captions, whose renderings are `pictures`."""
        nearest = torch.cdist(torch.from_numpy(_rows(samples)), torch.from_numpy(_rows(self.renderings))).argmin(1)
        found = [self.captions[row] == caption for row, caption in zip(nearest.tolist(), captions, strict=True)]
        letters = self._machine.predict(_rows(samples)) == np.array([_letter(caption) for caption in captions])
        ink, wanted = samples < INK, pictures < INK
        iou = (ink & wanted).flatten(1).sum(1) / (ink | wanted).flatten(1).sum(1).clamp(min=1)
        spread = samples.double().std(0).square().mean().sqrt() / pictures.double().std(0).square().mean().sqrt()
        return [float(np.mean(found)), float(letters.mean()), float(iou.double().mean()), float(spread)]


def ranked_first(run: Run, part: Part, count: int) -> float:
    """Return the share of pictures whose own caption has the highest likelihood among 100 of the same part."""
    pictures, captions = chosen(run, part, 100)
    right = 0
    for row in range(count):
        same = np.repeat(pictures[row : row + 1].numpy(), len(captions), axis=0)
        right += int(np.argmax(run.log_prob(same, condition={CAPTION: captions}, seed=0))) == row
    return right / count


def _letter(caption: str) -> str:
    return caption.split(", ")[1]


def _rows(pictures: Tensor) -> np.ndarray:
    return pictures.flatten(1).float().numpy() / 255


if __name__ == "__main__":
    main()
