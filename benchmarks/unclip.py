"""Does unCLIP keep what pictures show, and draw what words say? `python -m benchmarks.unclip` trains and measures it.

The three parts, `configs/unclip/{embedding,prior,decoder}.py`, are trained in `--workdir` for so many `--steps`, where
they are not there already, and beside them the direct model of `configs/vp/glyphs.py`, unless `--direct` names a run of
it. Of seen pictures and captions, and of held-out compositions, as many of each, there are printed

    found        how often a picture's caption is the nearest of all held-out ones by their embeddings, and the reverse
    variations   samples of the decoder, told a picture's embedding
    words        samples of the decoder, told what the prior drew for a caption
    direct       samples of the direct model, told the caption
    ratio        retrieval of words, in parts of that of the direct model

with the columns of `benchmarks.glyphs`: retrieval, letter (a variation keeps the character), IoU of ink and spread. And
of variations of one picture each, how far they are apart: the mean distance of two seeds, in parts of that of two
pictures. Half way between two pictures' embeddings, on the sphere, how often the letter is that of either.

variations.png has pictures and seven variations of each, words.png captions' renderings and three samples of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import score_sde
from benchmarks.glyphs import PARTS, Judge, chosen
from score_sde.common.plots import save_examples
from score_sde.control import slerp
from score_sde.data.captions import CAPTION
from score_sde.experiment.run import Run

CALLED = dict(zip(PARTS, ("seen", "held-out"), strict=True))
# Rows of the pictures that are written.
_SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/unclip"))
    names = ("EMBEDDING", "PRIOR", "DECODER", "DIRECT")
    parser.add_argument("--steps", type=int, nargs=4, default=(1000, 3000, 6000, 6000), metavar=names)
    parser.add_argument(
        "--direct", type=Path, help="a run of configs/vp/glyphs.py, or its checkpoint, not trained then"
    )
    parser.add_argument("--device")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--scale", type=float, default=2.0, help="of guidance, of the decoder and the direct model")
    arguments = parser.parse_args()
    train = partial(trained, arguments.workdir, arguments.device)
    embedding = train("embedding", "unclip/embedding", arguments.steps[0])
    place = str(embedding.folder)
    prior = train("prior", "unclip/prior", arguments.steps[1], {"data.embedding": place})
    decoder = train("decoder", "unclip/decoder", arguments.steps[2], {"data.embed_condition": place})
    if arguments.direct is None:
        direct = train("direct", "vp/glyphs", arguments.steps[3])
    else:
        direct = score_sde.load(arguments.direct, device=arguments.device)
    report(embedding, prior, decoder, direct, arguments.captions, arguments.scale, arguments.workdir)


def trained(
    workdir: Path, device: str | None, name: str, config: str, num_steps: int, settings: dict[str, Any] | None = None
) -> Run:
    """Train a part in a folder of its own, or go on with it, and say how long it took."""
    more = {"training.sample_every": 0, "training.evaluate_every": 0, "data.folder": str(workdir / "data")}
    started = time.perf_counter()
    run = score_sde.fit(
        "glyphs",
        config=config,
        workdir=workdir / name,
        num_steps=num_steps,
        device=device,
        settings=more | (settings or {}),
    )
    print(f"{name}: {num_steps} steps, {time.perf_counter() - started:.0f} s", flush=True)
    return run


def report(embedding: Run, prior: Run, decoder: Run, direct: Run, count: int, scale: float, workdir: Path) -> None:
    """Print the table, and write the pictures."""
    judge = Judge(embedding)
    pictures, captions = chosen(embedding, "test", 10**9)
    likeness = embedding.embed(pictures) @ embedding.embed(captions).T
    found = [float((likeness.argmax(axis) == np.arange(len(captions))).mean()) for axis in (1, 0)]
    print(f"\nOf {len(captions)} held-out compositions {found[0]:.3f} captions and {found[1]:.3f} pictures are found.")
    print(f"Letters of renderings moved by up to a pixel are recognised {judge.accuracy:.3f} of the time.\n")
    print("| drawn of | pictures | retrieval | letter | IoU | spread |\n|---|---|---|---|---|---|", flush=True)
    for part in PARTS:
        pictures, captions = chosen(embedding, part, count)
        retrieved = {}
        for name, draw in drawers(embedding, prior, decoder, direct, pictures, captions, scale, workdir).items():
            values = judge(torch.from_numpy(draw(0)), pictures, captions)
            print(f"| {name} | {CALLED[part]} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)
            retrieved[name] = values[0]
        print(f"| ratio | {CALLED[part]} | {retrieved['words'] / retrieved['direct']:.3f} | | | |", flush=True)
    print(f"\nTwo variations are {apart(embedding, decoder, count, scale):.3f} as far apart as two pictures are.")
    print(
        f"Half way between two pictures {between(judge, embedding, decoder, count, scale):.3f} letters are of either."
    )
    write_pictures(embedding, prior, decoder, scale, workdir)


def drawers(
    embedding: Run,
    prior: Run,
    decoder: Run,
    direct: Run,
    pictures: Tensor,
    captions: list[str],
    scale: float,
    workdir: Path,
) -> dict[str, Callable[[int], np.ndarray]]:
    """Return, by name, what draws a sample of each picture or caption, from a first seed on."""
    prompts = workdir / "prompts.txt"
    prompts.write_text("\n".join(captions) + "\n", encoding="utf-8")
    count = len(captions)
    asked: dict[str, Any] = {"prompt": str(prompts), "prior": str(prior.folder)}
    return {
        "variations": lambda seed: decoder.sample(
            count, condition=embedding.embed(pictures), seed=seed, guidance=scale
        ),
        "words": lambda seed: decoder.sample(count, seed=seed, guidance=scale, **asked),
        "direct": lambda seed: direct.sample(count, condition={CAPTION: captions}, seed=seed, guidance=scale),
    }


def apart(embedding: Run, decoder: Run, count: int, scale: float) -> float:
    """Return the mean distance of two variations of a picture, in parts of that of two pictures."""
    pictures, _ = chosen(embedding, "test", count)
    told = embedding.embed(pictures)
    first, second = (decoder.sample(len(told), condition=told, seed=seed, guidance=scale) for seed in (0, 10**6))
    rows = [each.reshape(len(told), -1).astype(float) for each in (first, second, pictures.numpy())]
    of_two = np.linalg.norm(rows[2] - np.roll(rows[2], len(told) // 2, 0), axis=1).mean()
    return float(np.linalg.norm(rows[0] - rows[1], axis=1).mean() / of_two)


def between(judge: Judge, embedding: Run, decoder: Run, count: int, scale: float) -> float:
    """Return how often a sample half way between the embeddings of two pictures has the letter of one of them."""
    pictures, captions = chosen(embedding, "test", count)
    turn = len(captions) // 2
    a, b = (torch.from_numpy(np.roll(embedding.embed(pictures), shift, 0)) for shift in (0, turn))
    samples = torch.from_numpy(
        decoder.sample(len(captions), condition=slerp(a, b, torch.full((len(a),), 0.5)), seed=0, guidance=scale)
    )
    other = [captions[(row - turn) % len(captions)] for row in range(len(captions))]
    kept = [judge.knows(samples, of) for of in (captions, other)]
    return float((kept[0] | kept[1]).double().mean())


def write_pictures(embedding: Run, prior: Run, decoder: Run, scale: float, workdir: Path) -> None:
    """Write pictures beside their variations, and renderings beside what is drawn of their captions."""
    pictures, captions = chosen(embedding, "test", _SHOWN)
    made = drawers(embedding, prior, decoder, decoder, pictures, captions, scale, workdir)
    for name, columns in (("variations", 8), ("words", 4)):
        drawn = [pictures.numpy(), *(made[name](10**6 * (1 + column)) for column in range(columns - 1))]
        rows = np.moveaxis(np.stack(drawn, 1).reshape(-1, *pictures.shape[1:]), 1, -1)
        save_examples(workdir / f"{name}.png", "images", rows, columns=columns)
    print(f"pictures: {workdir / 'variations.png'}, {workdir / 'words.png'}")


if __name__ == "__main__":
    main()
