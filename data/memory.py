"""What a run remembers of its data, so that it can say what has changed since.

    <run>/data.npz      train, validation, test                                 a fingerprint of each example
                        train_classes, validation_classes, test_classes         a fingerprint of the class of each
                        train_conditions, validation_conditions, test_conditions     … of what it is conditioned on
                        earlier     fingerprints of what was trained on once, and is not in the training part any more

Fingerprints are 64 bits of a hash of the content, so that a file's new name or date is no change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.common.files import open_npz, write_atomically
from score_sde.data.captions import CAPTION
from score_sde.data.dataset import Dataset
from score_sde.data.embeddings import EMBEDDING
from score_sde.data.words import PARTS, Part

Memory = dict[str, np.ndarray]

# Bytes that are read at once, where data may be larger than memory.
_AT_ONCE = 2**22


def memory_of(dataset: Dataset) -> Memory:
    """Return the fingerprints of all parts of the data."""
    parts: dict[Part, tuple[Tensor, Tensor | None]] = {
        "train": (dataset.train, dataset.train_classes),
        "validation": (dataset.validation, dataset.validation_classes),
        "test": (dataset.test, dataset.test_classes),
    }
    memory: Memory = {}
    for part, (examples, classes) in parts.items():
        memory[part] = _fingerprints(examples)
        memory[f"{part}_classes"] = _of_classes(dataset.named(classes), len(examples))
        memory[f"{part}_conditions"] = _of_conditions(_said(dataset, part), len(examples))
    return memory


def recall(path: Path) -> Memory | None:
    """Read what a run remembers; None if nothing was written down.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with open_npz(path) as content:
            return {name: content[name] for name in content}
    except Exception as error:  # a damaged archive may fail in any way
        raise UserError(f"cannot read {path}: remove it, and changes of the data are no longer told") from error


def remember(memory: Memory, path: Path, before: Memory | None = None) -> None:
    """Write down the data that are trained on, beside those that were `before`.

    Raises:
        UserError: the file cannot be written.
    """
    earlier = np.setdiff1d(_trained_on(before), memory["train"])
    with write_atomically(path) as temporary:
        np.savez_compressed(temporary, **memory, earlier=earlier)  # type: ignore[arg-type]


def changes(memory: Memory, before: Memory, parts: Iterable[Part] = PARTS) -> list[str]:
    """Say what is different from `before` in these parts, a line for each difference."""
    lines = []
    for part in parts:
        now, then = memory[part], before[part]
        added, gone = _more_than(now, then), _more_than(then, now)
        if added or gone:
            lines.append(
                f"the {part} part has changed: {len(then)} examples before, {len(now)} now; {added} are new, {gone} "
                "are gone"
            )
        classes, classes_then = (_classes_by_example(each, part) for each in (memory, before))
        other = sum(classes_then.get(example, name) != name for example, name in classes.items())
        if other:
            lines.append(f"{other} examples of the {part} part have another class than before")
        other = _otherwise_conditioned(memory, before, part)
        if other:
            lines.append(f"{other} examples of the {part} part have another condition than before")
    return lines


def check_conditions(memory: Memory, before: Memory) -> None:
    """See that training examples that were trained on before have the conditions that they had.

    Raises:
        UserError: some have others.
    """
    other = _otherwise_conditioned(memory, before, "train")
    if other:
        raise UserError(
            f"{other} of {len(memory['train'])} training examples have another condition than the run was begun with: "
            "give the same, or another --workdir"
        )


def overlap(memory: Memory, before: Memory | None = None, parts: Iterable[Part] = ("validation", "test")) -> list[str]:
    """Say how many examples of these held-out parts are trained on, now or `before`; a line for each part with some."""
    trained = np.union1d(_trained_on(before), memory["train"])
    lines = []
    for part in parts:
        both = int(np.isin(memory[part], trained).sum())
        if both:
            lines.append(
                f"{both} of {len(memory[part])} {part} examples have been trained on, so that numbers measured on the "
                f"{part} part are too good"
            )
    return lines


def _trained_on(before: Memory | None) -> np.ndarray:
    return np.zeros(0, np.uint64) if before is None else np.union1d(before["train"], before["earlier"])


def _more_than(these: np.ndarray, those: np.ndarray) -> int:
    """Count the fingerprints of `these` that go beyond `those`, where copies count."""
    each, which = np.unique(np.concatenate([these, those]), return_inverse=True)
    counts = [np.bincount(which[rows], minlength=len(each)) for rows in (slice(len(these)), slice(len(these), None))]
    return int((counts[0] - counts[1]).clip(0).sum())


def _classes_by_example(memory: Memory, part: str) -> dict[int, int]:
    return dict(zip(memory[part].tolist(), memory[f"{part}_classes"].tolist(), strict=True))


def _otherwise_conditioned(memory: Memory, before: Memory, part: Part) -> int:
    """Count the examples that are there as before, but with another condition; 0 where no conditions are remembered.

    Of copies with conditions of their own, new ones count only where as many are gone.
    """
    key = f"{part}_conditions"
    if key not in before:
        return 0
    now, then = (Counter(zip(each[part].tolist(), each[key].tolist(), strict=True)) for each in (memory, before))
    new, gone = Counter[int](), Counter[int]()
    for counts, pairs in ((new, now - then), (gone, then - now)):
        for (example, _), count in pairs.items():
            counts[example] += count
    return (new & gone).total()


def _fingerprints(examples: Tensor) -> np.ndarray:
    """Return 64 bits of a hash of each example `(N, *shape)`; uint64 `(N,)`. Few are in memory at once."""
    array, fingerprints = examples.numpy(), np.empty(len(examples), np.uint64)
    width = array[:1].nbytes
    size = max(1, _AT_ONCE // max(1, width))
    for start in range(0, len(array), size):
        content = array[start : start + size].tobytes()
        hashes = [_hash(content[place : place + width]) for place in range(0, len(content), width)]
        fingerprints[start : start + size] = hashes
    return fingerprints


def _of_classes(names: list[str] | None, count: int) -> np.ndarray:
    """Return 64 bits of a hash of the name of each example's class, uint64 `(count,)`; 0 where there are no classes."""
    if names is None:
        return np.zeros(count, np.uint64)
    return np.array([_hash(name.encode()) for name in names], dtype=np.uint64)


def _said(dataset: Dataset, part: Part) -> Mapping[str, Tensor]:
    """Return what examples are conditioned on; of captions a hash of the text, as words may be numbered otherwise."""
    arrays = dataset.conditions.get(part, {})
    if dataset.embedded_by is not None:
        # Pictures and the run that embeds them decide embeddings, but for rounding; another run is refused by itself.
        arrays = {name: values for name, values in arrays.items() if name != EMBEDDING}
    if part not in dataset.captions:
        return arrays
    hashes = np.array([_hash(caption.encode()) for caption in dataset.captions[part]], dtype=np.uint64)
    return {**arrays, CAPTION: torch.from_numpy(hashes.view(np.int64).reshape(-1, 1).copy())}


def _of_conditions(conditions: Mapping[str, Tensor], count: int) -> np.ndarray:
    """Return 64 bits of a hash of what each example is conditioned on, uint64 `(count,)`; 0 where that is nothing."""
    if not conditions:
        return np.zeros(count, np.uint64)
    names = sorted(conditions)
    each = np.stack([_fingerprints(conditions[name]) for name in names], 1)
    called = ", ".join(names).encode()
    return np.array([_hash(called + row.tobytes()) for row in each], dtype=np.uint64)


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
