"""Do pictures show what was asked for in words? `python -m benchmarks.glyphs` measures a run of configs/vp/glyphs.py.

Captions of the training part and of held-out compositions, as many of each, one sample a caption and seed. Printed for
each scale of guidance:

    retrieval    the nearest of all renderings (Euclidean) is that of the caption; of a picture with several captions,
                 each is right
    letter       a convolutional network that was fitted to renderings alone, moved by up to a pixel and made noisy,
                 recognises letter and accent, whatever the style
    IoU          of ink (darker than the middle) in the sample and in the caption's rendering, mean
    spread       the standard deviation of the samples, in parts of the renderings' own

and how often a picture's own caption is the likeliest of 100 captions of its part, spread evenly or of the renderings
nearest to it, by a bound on `log p(x | caption)` with the same times and noise for all (one in a hundred by chance).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import score_sde
from score_sde.common import distributed
from score_sde.data.captions import CAPTION, Words
from score_sde.data.words import Part
from score_sde.experiment.run import Run

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
INK = 128
# By how many pixels the renderings are moved that a classifier of letters is fitted to.
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
PARTS: tuple[Part, ...] = ("train", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/vp_glyphs"))
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES)
    parser.add_argument("--ranked", type=int, default=0, help="pictures of which 100 captions are ranked")
    parser.add_argument("--calls", type=int, default=1, help="draws of the bound by which a caption is ranked")
    arguments = parser.parse_args()
    run = score_sde.load(arguments.workdir)
    parts = list(zip(("seen", "held-out compositions"), PARTS, strict=True))
    if arguments.scales:
        tabulate(run, parts, arguments.captions, arguments.scales)
    for called, part in parts if arguments.ranked else ():
        even, near = ranked_first(run, part, arguments.ranked, arguments.calls)
        print(f"{called}: own caption first among 100 {even:.3f}, among the 100 nearest {near:.3f}", flush=True)


def tabulate(run: Run, parts: list[tuple[str, Part]], count: int, scales: Sequence[float]) -> None:
    """Print the measures of samples of so many captions of each part, at each scale of guidance."""
    judge = Judge(run)
    print(
        f"Letters of renderings moved by up to a pixel are recognised {judge.accuracy:.3f} of the time.\n", flush=True
    )
    print("| captions | guidance | retrieval | letter | IoU | spread |\n|---|---|---|---|---|---|")
    for called, part in parts:
        pictures, captions = chosen(run, part, count)
        for scale in scales:
            samples = torch.from_numpy(run.sample(len(captions), condition={CAPTION: captions}, seed=0, guidance=scale))
            cells = " | ".join(f"{value:.3f}" for value in judge(samples, pictures, captions))
            print(f"| {called} | {scale:g} | {cells} |", flush=True)


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

    Attributes:
        accuracy: how often the classifier of letters knows a rendering that is moved by up to a pixel.
    """

    def __init__(self, run: Run) -> None:
        pairs = [chosen(run, part, 10**9) for part in PARTS]
        self.renderings = torch.cat([pictures for pictures, _ in pairs]).to(distributed.device())
        captions = [caption for _, captions in pairs for caption in captions]
        letters = same_letters(self.renderings, captions)
        self._number = {caption: letters[_letter(caption)] for caption in captions}
        numbers = torch.tensor([self._number[caption] for caption in captions], device=distributed.device())
        self._letters = Letters(self.renderings.shape[1:], len(set(letters.values()))).to(distributed.device())
        self._letters.fit(self.renderings, numbers)
        known = [self._letters.tell(self.renderings.roll(move, (2, 3))) == numbers for move in MOVES]
        self.accuracy = torch.cat(known).double().mean().item()

    def __call__(self, samples: Tensor, pictures: Tensor, captions: list[str]) -> list[float]:
        """Return the four measures of samples of captions, whose renderings are `pictures`."""
        samples, pictures = samples.to(distributed.device()), pictures.to(distributed.device())
        nearest = torch.cdist(_rows(samples), _rows(self.renderings)).argmin(1)
        found = (self.renderings[nearest] == pictures).flatten(1).all(1)
        ink, inked = samples < INK, pictures < INK
        iou = (ink & inked).flatten(1).sum(1) / (ink | inked).flatten(1).sum(1).clamp(min=1)
        spread = samples.double().std(0).square().mean().sqrt() / pictures.double().std(0).square().mean().sqrt()
        told = self.knows(samples, captions)
        return [float(value) for value in (found.double().mean(), told.double().mean(), iou.double().mean(), spread)]

    def knows(self, samples: Tensor, captions: list[str]) -> Tensor:
        """Return whether the letter of each sample is recognised as that of its caption, `(N,)`, bool."""
        wanted = torch.tensor([self._number[caption] for caption in captions], device=distributed.device())
        return self._letters.tell(samples.to(distributed.device())) == wanted


def same_letters(renderings: Tensor, captions: list[str]) -> dict[str, int]:
    """Return a number for each letter with its accent, the same for letters that share a picture in any style."""
    _, answers = torch.unique(renderings.flatten(1), dim=0, return_inverse=True)
    first: dict[int, str] = {}
    leads: dict[str, str] = {}

    def lead(letter: str) -> str:
        while leads.setdefault(letter, letter) != letter:
            letter = leads[letter]
        return letter

    for answer, caption in zip(answers.tolist(), captions, strict=True):
        letter = _letter(caption)
        leads[lead(letter)] = lead(first.setdefault(answer, letter))
    numbers: dict[str, int] = {}
    return {letter: numbers.setdefault(lead(letter), len(numbers)) for letter in list(leads)}


class Letters(nn.Sequential):
    """A small convolutional network tells letters from pictures of levels, whatever the style.

    Args:
        shape: the shape of a picture.
        count: the number of letters.
    """

    def __init__(self, shape: Sequence[int], count: int) -> None:
        channels, height, width = shape
        super().__init__(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * -(-height // 4) * -(-width // 4), count),
        )

    def fit(self, pictures: Tensor, numbers: Tensor, num_steps: int = 3000, batch_size: int = 128) -> None:
        """Fit the network to pictures, which are moved by up to a pixel and made noisy anew at every step."""
        optimizer = torch.optim.Adam(self.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
        generator = torch.Generator().manual_seed(0)
        for _ in range(num_steps):
            rows = torch.randint(0, len(pictures), (batch_size,), generator=generator).to(pictures.device)
            move = MOVES[int(torch.randint(0, len(MOVES), (), generator=generator))]
            batch = pictures[rows].roll(move, (2, 3)).float() / 255
            noisy = batch + 0.1 * torch.randn(batch.shape, generator=generator).to(batch)
            loss = nn.functional.cross_entropy(self(noisy), numbers[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.eval().requires_grad_(False)

    def tell(self, pictures: Tensor) -> Tensor:
        """Return the number of the letter of each picture."""
        return torch.cat([self(some.float() / 255).argmax(1) for some in pictures.split(512)])


def ranked_first(run: Run, part: Part, count: int, calls: int) -> tuple[float, float]:
    """Return the shares of pictures whose own caption is the likeliest of 100 of the same part.

    These lie evenly over the part, or are those whose renderings are nearest to the picture.
    """
    pictures, captions = chosen(run, part, 10**9)
    evenly = torch.linspace(0, len(pictures) - 1, 100).long()
    right = torch.zeros(2, dtype=torch.float64)
    for place, row in enumerate(evenly[torch.linspace(0, 99, count).long()].tolist()):
        nearest = torch.cdist(_rows(pictures[row : row + 1]), _rows(pictures))[0].argsort(stable=True)[:100]
        for which, others in enumerate((evenly, nearest)):
            asked = {CAPTION: [captions[other] for other in others.tolist()]}
            first = int(run.rank(pictures[row], asked, seed=place, bound_calls=calls).argmax())
            right[which] += torch.equal(pictures[others[first]], pictures[row])
    even, near = (right / count).tolist()
    return even, near


def _letter(caption: str) -> str:
    return caption.split(", ")[1]


def _rows(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).float() / 255


if __name__ == "__main__":
    main()
