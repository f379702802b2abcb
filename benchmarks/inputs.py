"""What is read of malformed and unusual inputs: `python -m benchmarks.inputs [--seed 0] [--count 200]`.

Inputs are made from a seed, and each is compared with an independent reading by PIL and NumPy alone. Of a dataset that
is returned, every example has to be in the right part, under the right class's name, with the right numbers, and what
was changed or left out has to be said in a note; all else is a silent change. What cannot be read has to be refused in
one line that names it, and what can must not be. The exit code is 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import score_sde
from benchmarks.input_cases import (
    Case,
    Example,
    Make,
    archives,
    arrays,
    cifar_10,
    folders,
    idx_files,
    parquet_files,
    splits_and_places,
    unusual_pictures,
    vectors,
)
from benchmarks.input_numbers import hdf5_files, shapes, sizes, tables
from score_sde.common.errors import UserError

# The cases of each kind, and how many inputs are made of it.
KINDS: Mapping[str, tuple[Callable[[], list[Make]], int]] = {
    "folders": (folders, 36),
    "zip archives": (archives, 24),
    "pictures": (unusual_pictures, 40),
    "sizes": (sizes, 8),
    "arrays": (arrays, 30),
    "vectors": (vectors, 14),
    "series, fields, volumes": (shapes, 10),
    "tables": (tables, 12),
    "HDF5 files": (hdf5_files, 4),
    "IDX files": (idx_files, 10),
    "CIFAR-10": (cifar_10, 4),
    "parquet files": (parquet_files, 4),
    "splits, paths": (splits_and_places, 4),
}

_READ, _REFUSED, _BADLY, _TRACEBACK, _SILENT = VERDICTS = (
    "read rightly",
    "refused in one line",
    "badly refused",
    "tracebacks",
    "silent changes",
)
_PARTS = ("train", "validation", "test")
# These words are of a programming language or a library, which users need not know.
_JARGON = re.compile(
    r"NoneType|object at 0x|Errno|out of range|codec|unpack requires|allow_pickle|<class|invalid literal|b'|KeyError"
    r"|Traceback|Error\b|keyword|argument|numpy\.|PIL|datasets\."
)


def judge(case: Case, cache: Path) -> tuple[str, str]:
    """Return the verdict on a case, and what is wrong."""

    def load() -> Any:
        return score_sde.load_dataset(path=case.place, folder=cache, **case.options)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset = load()
            complaint = _differs(case, dataset) or (case.then(dataset, load) if case.then else None)
    except UserError as error:
        complaint = _badly_told(case, str(error))
        return (_BADLY, f"{complaint}: {str(error)!r}") if complaint else (_REFUSED, str(error))
    except Exception:
        return _TRACEBACK, traceback.format_exc(limit=-3)
    return (_SILENT, complaint) if complaint else (_READ, "")


def _badly_told(case: Case, line: str) -> str | None:
    if not case.refused:
        return "this can be read"
    if not line.isprintable():
        return "not one line"
    if not any(repr(name)[1:-1].replace("\\\\", "\\") in line or name in line for name in case.named):
        return f"names none of {case.named}"
    jargon = _JARGON.search(line.replace(case.place, ""))
    return f"has {jargon.group()!r}" if jargon else None


def _differs(case: Case, dataset: Any) -> str | None:
    """Say what is different from the truth, or not said."""
    if case.refused:
        return "this cannot be read, and was"
    wrong = [note for note in dataset.notes if not note.isprintable()]
    if wrong:
        return f"a note is not one line: {wrong[0]!r}"
    for pattern in case.notes:
        if not any(re.search(pattern, note) for note in dataset.notes):
            return f"no note has {pattern!r}: {dataset.notes}"
    found = {part: _counted(dataset, part) for part in _PARTS}
    wanted = {part: Counter(map(_key, examples)) for part, examples in case.parts.items()}
    for part in ("test", "validation"):
        if part in wanted:
            if found[part] != wanted[part]:
                return _difference(part, found[part], wanted[part])
        else:
            found["train"] += found[part]
    if found["train"] != wanted["train"]:
        return _difference("train", found["train"], wanted["train"])
    share = case.options.get("test_share", 0.1)
    # The share that was taken to test on may have been damaged.
    skipped = any("skipped" in note for note in dataset.notes)
    if "test" not in wanted and not skipped and (len(dataset.test) > 0) != (share > 0):
        return f"{len(dataset.test)} test examples of a share of {share}"
    return None


def _counted(dataset: Any, part: str) -> Counter:
    """Count the examples of a part with the names of their classes."""
    examples, classes = getattr(dataset, part), getattr(dataset, f"{part}_classes")
    names = [None] * len(examples) if classes is None else [dataset.class_names[k] for k in classes.tolist()]
    if len(names) != len(examples):
        return Counter()
    return Counter(_key(Example(row, name)) for row, name in zip(examples.numpy(), names, strict=True))


def _key(example: Example) -> tuple:
    return example.content.shape, str(example.content.dtype), example.content.tobytes(), example.name


def _difference(part: str, found: Counter, wanted: Counter) -> str:
    has, should_have = (Counter(key[:3] for key in counted.elements()) for counted in (found, wanted))
    missing, added = should_have - has, has - should_have
    if not missing and not added:
        classes = sorted({str(key[3]) for key in found - wanted}), sorted({str(key[3]) for key in wanted - found})
        return f"{part}: classes {classes[0]} instead of {classes[1]}"
    return f"{part}: {_sum(missing)} examples are missing, {_sum(added)} are others, of {_sum(wanted)}"


def _sum(counted: Counter) -> int:
    return sum(counted.values())


def cases(seed: int, count: int) -> list[tuple[str, int, Make]]:
    """Return which input is made of which kind, with its number: each of a kind in turn."""
    shares = {kind: share for kind, (makers, share) in KINDS.items()}
    chosen = []
    for kind, (makers, share) in KINDS.items():
        wanted, made = round(count * share / sum(shares.values())), makers()
        order = np.random.default_rng((seed, 0)).permutation(len(made)).tolist()
        chosen += [(kind, number, made[order[number % len(made)]]) for number in range(wanted) if made]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    table: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(HF_HOME=f"{name}/hub", HF_HUB_OFFLINE="1")
        for kind, number, make in cases(arguments.seed, arguments.count):
            folder = Path(name) / "input"
            folder.mkdir()
            rng = np.random.default_rng((arguments.seed, *kind.encode(), number))
            case = make(rng, folder)
            verdict, why = judge(case, Path(name) / "cache")
            table.setdefault(kind, Counter())[verdict] += 1
            if verdict not in (_READ, _REFUSED):
                print(f"{kind} {number}, {case.what}: {verdict}: {why}", file=sys.stderr)
            shutil.rmtree(folder)
    print(f"| kind | inputs | {' | '.join(VERDICTS)} |")
    print("|" + "---|" * (2 + len(VERDICTS)))
    total = sum(table.values(), Counter())
    for kind, verdicts in {**table, "all": total}.items():
        print(f"| {kind} | {_sum(verdicts)} | {' | '.join(str(verdicts[verdict]) for verdict in VERDICTS)} |")
    sys.exit(1 if total[_BADLY] + total[_TRACEBACK] + total[_SILENT] else 0)


if __name__ == "__main__":
    main()
