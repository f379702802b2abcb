"""Do pictures have the edges, and the small picture, that were asked for? Two controls beside one model of letters.

    python main.py --mode train --config configs/vp/glyphs.py
    python main.py --mode train --config configs/vp/glyphs_edges.py
    python main.py --mode train --config configs/vp/glyphs_edges.py --workdir runs/glyphs_low --config.data.edges=None \
        --config.data.low_resolution=4 --config.model.control=low_resolution
    python -m benchmarks.controls --workdir runs/vp_glyphs_edges --other runs/glyphs_low

Held-out pictures are asked for by their edges, by what they are on 4 x 4 pixels, by both (the two runs joined), by
their captions, and by nothing; one sample each. Printed for each:

    F1           of the samples' edges against those of the pictures, of all pixels together
    4 x 4        root of the mean square error of the samples on 4 x 4 pixels, in parts of black to white
    retrieval    the nearest of all held-out renderings is the picture

Beside them, as yardsticks, the pictures themselves with normal noise of 5 levels of 256, and other held-out pictures.
`--picture` writes some pictures, what is asked of them, and samples, instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import score_sde
from benchmarks.columns import save_columns
from score_sde.data.captions import CAPTION, Words
from score_sde.data.edges import EDGES, edges_of
from score_sde.data.low_resolution import LOW_RESOLUTION
from score_sde.experiment.run import Run

NOISE = 5.0
# Rows of the picture.
SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/vp_glyphs_edges"))
    parser.add_argument("--other", type=Path, default=Path("runs/glyphs_low"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    run = score_sde.load(arguments.workdir, settings={"sampling.controls": arguments.other})
    data, words = run.dataset, run.dataset.condition_units[CAPTION]
    assert isinstance(words, Words)
    rows = torch.linspace(0, len(data.test) - 1, min(arguments.count, len(data.test))).long()
    pictures, told = data.test[rows], {name: values[rows] for name, values in data.conditions["test"].items()}
    judge = Judge(data.test, rows, run.config.data.edges, told[LOW_RESOLUTION].shape[2:])
    captions = words.text(told[CAPTION])
    edges, low = {EDGES: told[EDGES].numpy()}, {LOW_RESOLUTION: told[LOW_RESOLUTION].numpy()}
    caption = {CAPTION: captions}
    if arguments.picture is not None:
        show(run, pictures, edges, low, arguments.picture)
        return
    print("| asked for by | scales of edges, 4 x 4 | F1 | 4 x 4 | retrieval |")
    print("|---|---|---|---|---|")
    noisy = pictures + NOISE * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    judge.row("pictures with noise", "", noisy.round().clamp(0, 255).to(torch.uint8))
    judge.row("other pictures", "", pictures.roll(1, 0))
    for called, condition, scales in (
        ("nothing", None, (1.0, 1.0)),
        ("caption", caption, (1.0, 1.0)),
        ("edges", edges, (1.0, 1.0)),
        ("4 x 4", low, (1.0, 1.0)),
        ("edges and 4 x 4", edges | low, (1.0, 1.0)),
        ("edges and 4 x 4", edges | low, (1.0, 0.5)),
        ("edges and 4 x 4", edges | low, (0.5, 1.0)),
        ("edges and caption", edges | caption, (1.0, 1.0)),
        ("edges, 4 x 4 and caption", edges | low | caption, (1.0, 1.0)),
    ):
        samples = run.sample(
            len(rows), condition=condition, seed=0, guidance=arguments.guidance if condition else 1.0,
            control_scales=scales, batch_size=100,
        )  # fmt: skip
        judge.row(called, ", ".join(f"{scale:g}" for scale in scales), torch.from_numpy(samples))


def show(run: Run, pictures: Tensor, edges: dict[str, np.ndarray], low: dict[str, np.ndarray], path: Path) -> None:
    """Write pictures, what is asked of them, and samples that were told it, in columns."""
    rows = np.linspace(0, len(pictures) - 1, SHOWN).astype(int)
    asked = {name: values[rows] for name, values in (edges | low).items()}

    def told(*names: str) -> np.ndarray:
        return run.sample(SHOWN, condition={name: asked[name] for name in names}, seed=0, guidance=1.0)

    columns = {
        "picture": pictures[rows].numpy(),
        "edges": 255.0 * asked[EDGES],
        "told edges": told(EDGES),
        "4 x 4": asked[LOW_RESOLUTION],
        "told 4 x 4": told(LOW_RESOLUTION),
        "told both": told(EDGES, LOW_RESOLUTION),
    }
    save_columns(path, columns)


class Judge:
    """Samples are compared with the pictures that they were to be like.

    Args:
        known: all pictures that may be retrieved.
        rows: which of them were asked for.
        threshold: of edges.
        small: the size of the small pictures.
    """

    def __init__(self, known: Tensor, rows: Tensor, threshold: float, small: torch.Size) -> None:
        self.known, self.rows, self.threshold, self.small = known, rows, threshold, tuple(small)

    def row(self, called: str, scales: str, samples: Tensor) -> None:
        """Print what is measured of samples."""
        wanted, made = (edges_of(x, 256, self.threshold).bool() for x in (self.known[self.rows], samples))
        f1 = 2 * (wanted & made).sum() / (wanted.sum() + made.sum())
        small = [F.interpolate(x.float() / 255, self.small, mode="area") for x in (self.known[self.rows], samples)]
        error = (small[0] - small[1]).square().mean().sqrt()
        nearest = torch.cdist(samples.flatten(1).float(), self.known.flatten(1).float()).argmin(1)
        found = (self.known[nearest] == self.known[self.rows]).flatten(1).all(1).double().mean()
        print(f"| {called} | {scales} | {f1:.3f} | {error:.3f} | {found:.3f} |", flush=True)


if __name__ == "__main__":
    main()
