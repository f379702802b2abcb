"""Data that Python has in memory, found and loaded as from a file of the same arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.sources import arrays
from score_sde.data.sources.array_parts import load_arrays
from score_sde.data.sources.classes import names_of
from score_sde.data.sources.examples import as_array, gathered
from score_sde.data.sources.found import Arrays, Found
from score_sde.data.sources.given_conditions import taken_apart
from score_sde.data.sources.reading import Reading
from score_sde.data.sources.tables import found_in_frame
from score_sde.data.split import Parts
from score_sde.data.words import Part

# Bytes of a mapped array that are hashed at once.
_AT_ONCE = 2**24


def found_in_parts(given: Mapping[Part, tuple[Any, Any]], name: str, wanted: Sequence[str] = ()) -> Found:
    """Return what there is in examples and labels of each part, as a reader of files would; None for what is not given.

    Args:
        given: the examples and labels of each part.
        name: what the data are called.
        wanted: names of arrays or columns of the examples that these are conditioned on.

    Raises:
        UserError: these are no examples, or a part is given twice.
    """
    found = _found(*given["train"], name, wanted)
    for part, (examples, labels) in given.items():
        if part == "train" or examples is None:
            continue
        if part in found.parts:
            raise UserError(f"{name} has a {part} part already: give {part}_examples or that, not both")
        more = _found(examples, labels, f"{name}[{part}]", wanted)
        found = replace(found, parts={**found.parts, part: more.parts["train"]}, notes=(*found.notes, *more.notes))
    return found


def load_given(found: Found, name: str, reading: Reading) -> Parts:
    """Load what was found; nothing is written to files but the parts of what is mapped from one, and large."""
    given = {part: array for part, array in found.parts.items() if isinstance(array, Arrays)}
    large = any(isinstance(a.examples, np.memmap) and a.examples.nbytes > arrays.LARGE for a in given.values())
    if large:
        version = [name, [_digest(array.examples) for array in given.values()]]
        return load_arrays(found, name, reading, version)
    in_memory = {part: replace(array, examples=array.examples.view(np.ndarray)) for part, array in given.items()}
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        parts = load_arrays(replace(found, parts=in_memory), name, replace(reading, cache=Path(folder)), None)
        if not any(Path(folder).iterdir()):
            return parts
        # Pictures that were brought to another size lie in files.
        assert parts.validation is not None
        return parts._replace(train=parts.train.clone(), test=parts.test.clone(), validation=parts.validation.clone())


def _found(x: Any, labels: Any, where: str, wanted: Sequence[str]) -> Found:
    """Return what there is in `x`, as a reader of files would."""
    if type(x).__module__.split(".")[0] == "pandas" and hasattr(x, "columns"):
        found = found_in_frame(x, where, wanted)
    elif isinstance(x, Mapping):
        found = arrays.read_named({str(key): as_array(values) for key, values in x.items()}, where, wanted)
    elif wanted:
        raise UserError(f"{where} has no arrays or columns by name: give its condition beside it")
    else:
        array, own_classes, notes = gathered(x, where)
        examples = arrays.examples(array, where)
        names = None if own_classes is None else names_of(own_classes, len(examples), f"{where}, classes,")
        found = Found({"train": Arrays(where, examples, names)}, notes=notes)
    if labels is None:
        return found
    train = found.parts["train"]
    assert isinstance(train, Arrays)
    classes, conditions = taken_apart(labels, len(train), where)
    if train.classes is not None and classes is not None:
        raise UserError(f"{where} has classes already: give these, or those beside it, not both")
    if set(train.conditions) & set(conditions):
        raise UserError(f"{where} has conditions already: give these, or those beside it, not both")
    called = train.classes if classes is None else names_of(classes, len(train), f"{where}, classes,")
    told = replace(train, classes=called, conditions={**train.conditions, **conditions})
    return replace(found, parts={**found.parts, "train": told})


def _digest(array: np.ndarray) -> str:
    """Return a hash of a mapped array."""
    digest = blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    size = max(1, _AT_ONCE // max(1, array[:1].nbytes))
    for start in range(0, len(array), size):
        digest.update(array[start : start + size].tobytes())
    return digest.hexdigest()
