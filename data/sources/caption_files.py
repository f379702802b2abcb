"""Captions that lie beside pictures in a folder, as people keep them.

    picture.txt         beside picture.png: all of its text is the caption
    metadata.jsonl      a line for each picture of its folder and those below: {"file_name": "a/b.png", "text": "…"}
    metadata.csv        the same as a table with these columns

The second kind is what the library datasets calls an imagefolder; `text` may be called `caption`, too. Captions are
there for all pictures of the data, or for none.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.captions import CAPTION
from score_sde.data.sources.found import Arrays, Found, Pictures
from score_sde.data.words import Part

_NAME, _TEXTS = "file_name", ("text", CAPTION)


def with_captions(found: Found, folder: Path) -> Found:
    """Return the pictures that were found in a folder, with their captions, if there are any.

    Raises:
        UserError: a picture has none, and others have; or a file with captions cannot be read.
    """
    tables = {path.parent: _of_table(path) for path in sorted(folder.rglob("metadata.*")) if path.suffix in _READERS}
    captions = {
        part: [_caption(folder / name, tables) for name in pictures.names] for part, pictures in found.parts.items()
    }
    said = [caption for of_part in captions.values() for caption in of_part]
    if all(caption is None for caption in said):
        for place, named in tables.items():
            if named:
                raise UserError(
                    f"the captions in {place} are of {next(iter(named))} and the like, and there is no such picture: "
                    "file_name is its path from there"
                )
        return found
    parts: dict[Part, Pictures | Arrays] = {}
    for part, pictures in found.parts.items():
        for name, caption in zip(pictures.names, captions[part], strict=True):
            if caption is None:
                raise UserError(
                    f"{folder / name} has no caption, and other pictures have: write it into "
                    f"{(folder / name).with_suffix('.txt').name} beside it, or into metadata.jsonl"
                )
        texts = np.array(captions[part], dtype=np.str_)
        parts[part] = replace(pictures, conditions={**pictures.conditions, CAPTION: texts})
    return replace(found, parts=parts)


def _caption(picture: Path, tables: Mapping[Path, Mapping[str, str]]) -> str | None:
    """Return the caption of a picture, by the file beside it or the nearest table above; None if it has none."""
    beside = picture.with_suffix(".txt")
    if beside.is_file():
        return " ".join(_text(beside).split())
    for above in picture.parents:
        name = picture.relative_to(above).as_posix()
        if name in tables.get(above, {}):
            return tables[above][name]
    return None


def _of_table(path: Path) -> dict[str, str]:
    """Return the caption of each picture that a table names.

    Raises:
        UserError: it cannot be read, or a row lacks the picture's name or its text.
    """
    captions = {}
    for number, row in enumerate(_READERS[path.suffix](path), 1):
        text = next((row[key] for key in _TEXTS if isinstance(row.get(key), str)), None)
        if not isinstance(row.get(_NAME), str) or text is None:
            raise UserError(f"{path}, row {number}: it has to say file_name and text, which are words")
        captions[Path(row[_NAME]).as_posix()] = text
    return captions


def _json_lines(path: Path) -> Iterable[Mapping[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f'{path}, line {number}: it is no JSON, such as {{"file_name": …}}: {error}') from error
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {number}: it is no JSON object, such as {{"file_name": …}}')
        yield row


def _table(path: Path) -> Iterable[Mapping[str, Any]]:
    return csv.DictReader(StringIO(_text(path), newline=""))


_READERS = {".jsonl": _json_lines, ".csv": _table}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: captions are text in UTF-8 ({error})") from error
