"""Captions that lie beside pictures in a folder or a zip archive, as people keep them.

    picture.txt         beside picture.png: all of its text is the caption
    metadata.jsonl      a line for each picture of its folder and those below: {"file_name": "a/b.png", "text": "…"}
    metadata.csv        the same as a table with these columns

The second kind is what the library datasets calls an imagefolder; `text` may be called `caption`, too. Captions are
there for all pictures of the data, or for none.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from score_sde.common.errors import UserError
from score_sde.data.captions import CAPTION
from score_sde.data.sources.found import Arrays, Found, Pictures
from score_sde.data.sources.picture import MAX_BYTES
from score_sde.data.words import Part

_NAME, _TEXTS = "file_name", ("text", CAPTION)


@dataclass(frozen=True)
class _Files:
    """The files of text in a place, by their paths there.

    Attributes:
        place: the folder or archive.
        tables: the paths of tables.
        read: returns the content of a file of this path, or None if there is no such file.
    """

    place: Path
    tables: list[PurePosixPath]
    read: Callable[[PurePosixPath], bytes | None]

    def text(self, name: PurePosixPath) -> str | None:
        """Return the text of a file; None if there is no such file.

        Raises:
            UserError: it cannot be read.
        """
        try:
            content = self.read(name)
            return None if content is None else content.decode("utf-8-sig")
        except UserError:
            raise
        except Exception as error:  # damaged archives fail in many ways
            raise UserError(f"cannot read {self.place / name}: captions are text in UTF-8 ({error})") from error


def with_captions(found: Found, place: Path) -> Found:
    """Return the pictures that were found in a folder or archive, with their captions, if there are any.

    Raises:
        UserError: a picture has none, and others have; or a file with captions cannot be read.
    """
    files = _in_folder(place) if place.is_dir() else _in_archive(place)
    tables = {path.parent: _of_table(files, path) for path in files.tables}
    captions = {
        part: [_caption(PurePosixPath(name), files, tables) for name in pictures.names]
        for part, pictures in found.parts.items()
    }
    said = [caption for of_part in captions.values() for caption in of_part]
    if all(caption is None for caption in said):
        for above, named in tables.items():
            if named:
                raise UserError(
                    f"the captions in {place / above} are of {next(iter(named))} and the like, and there is no such "
                    "picture: file_name is its path from there"
                )
        return found
    parts: dict[Part, Pictures | Arrays] = {}
    for part, pictures in found.parts.items():
        for name, caption in zip(pictures.names, captions[part], strict=True):
            if caption is None:
                raise UserError(
                    f"{place / name} has no caption, and other pictures have: write it into "
                    f"{Path(name).with_suffix('.txt').name} beside it, or into metadata.jsonl"
                )
        texts = np.array(captions[part], dtype=np.str_)
        parts[part] = replace(pictures, conditions={**pictures.conditions, CAPTION: texts})
    return replace(found, parts=parts)


def _in_folder(folder: Path) -> _Files:
    tables = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("metadata.*"))

    def read(name: PurePosixPath) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    return _Files(folder, [path for path in map(PurePosixPath, tables) if path.suffix in _READERS], read)


def _in_archive(path: Path) -> _Files:
    archive = zipfile.ZipFile(path)
    # Names are those of `image_files`.
    members = {
        PurePosixPath((name if "/" in name else name.replace("\\", "/")).lstrip("/")): name
        for name in archive.namelist()
    }

    def read(name: PurePosixPath) -> bytes | None:
        if name not in members:
            return None
        info = archive.getinfo(members[name])
        if info.file_size > MAX_BYTES:
            raise UserError(f"{path / name} unpacks to {info.file_size:,} bytes, which are no captions")
        return archive.read(info)

    tables = [name for name in sorted(members) if name.stem == "metadata" and name.suffix in _READERS]
    return _Files(path, tables, read)


def _caption(picture: PurePosixPath, files: _Files, tables: Mapping[PurePosixPath, Mapping[str, str]]) -> str | None:
    """Return the caption of a picture, by the file beside it or the nearest table above; None if it has none."""
    beside = files.text(picture.with_suffix(".txt"))
    if beside is not None:
        return " ".join(beside.split())
    for above in picture.parents:
        name = picture.relative_to(above).as_posix()
        if name in tables.get(above, {}):
            return tables[above][name]
    return None


def _of_table(files: _Files, path: PurePosixPath) -> dict[str, str]:
    """Return the caption of each picture that a table names.

    Raises:
        UserError: it cannot be read, or a row lacks the picture's name or its text.
    """
    captions, where = {}, files.place / path
    for number, row in enumerate(_READERS[path.suffix](files.text(path) or "", where), 1):
        text = next((row[key] for key in _TEXTS if isinstance(row.get(key), str)), None)
        if not isinstance(row.get(_NAME), str) or text is None:
            raise UserError(f"{where}, row {number}: it has to say file_name and text, which are words")
        captions[Path(row[_NAME]).as_posix()] = text
    return captions


def _json_lines(text: str, where: Path) -> Iterable[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f'{where}, line {number}: it is no JSON, such as {{"file_name": …}}: {error}') from error
        if not isinstance(row, dict):
            raise UserError(f'{where}, line {number}: it is no JSON object, such as {{"file_name": …}}')
        yield row


def _table(text: str, where: Path) -> Iterable[Mapping[str, Any]]:
    try:
        yield from csv.DictReader(StringIO(text, newline=""))
    except csv.Error as error:
        raise UserError(f"{where} is no table: {error}") from error


_READERS = {".jsonl": _json_lines, ".csv": _table}
