"""Image files in a folder or a zip archive: those below `train/` and `test/`, if there are such folders, or all.

If every picture lies in a folder below that, these folders are its classes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import torch
from PIL import Image

from data.pictures import Pictures
from errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_HIDDEN = ("__MACOSX",)

# A path below the folder or within the archive, and what changes when the file does.
_Entry = tuple[PurePosixPath, object]


def find_image_files(path: Path) -> tuple[Pictures, Pictures | None]:
    """The training pictures and the test pictures, if these are apart, of a folder or a zip archive.

    Raises:
        UserError: there are no images, or the archive is damaged.
    """
    entries, opener = _in_archive(path) if path.is_file() else _in_folder(path)
    if not entries:
        raise UserError(f"there are no images in {path}; their names end in one of {', '.join(_SUFFIXES)}")
    for root in _roots(entries):
        train, test = (_below(entries, (*root, part)) for part in ("train", "test"))
        if train:
            return _pictures(path, train, opener), _pictures(path, test, opener) if test else None
    return _pictures(path, _below(entries, ()), opener), None


def _roots(entries: list[_Entry]) -> list[tuple[str, ...]]:
    """Where `train/` may be: at the top, or in the one folder that there is, as in many archives."""
    top = {name.parts[0] for name, _ in entries}
    return [(), (top.pop(),)] if len(top) == 1 else [()]


def _below(entries: list[_Entry], prefix: tuple[str, ...]) -> list[tuple[PurePosixPath, PurePosixPath, object]]:
    """Entries below a folder: each whole path, the path from there, and the version."""
    depth = len(prefix)
    return [
        (name, PurePosixPath(*name.parts[depth:]), version)
        for name, version in entries
        if name.parts[:depth] == prefix and len(name.parts) > depth
    ]


def _pictures(
    root: Path,
    entries: list[tuple[PurePosixPath, PurePosixPath, object]],
    opener: Callable[[PurePosixPath], Image.Image],
) -> Pictures:
    folders = sorted({inside.parts[0] for _, inside, _ in entries if len(inside.parts) > 1})
    classes = None
    if len(folders) > 1 and all(len(inside.parts) > 1 for _, inside, _ in entries):
        number = {folder: place for place, folder in enumerate(folders)}
        classes = torch.tensor([number[inside.parts[0]] for _, inside, _ in entries])
    names = [name for name, _, _ in entries]
    version = [[str(name), stamp] for name, _, stamp in entries]
    return Pictures(
        [str(root / name) for name in names],
        lambda row: opener(names[row]),
        [str(root.resolve()), version],
        classes,
        tuple(folders) if classes is not None else (),
    )


def _in_folder(root: Path) -> tuple[list[_Entry], Callable[[PurePosixPath], Image.Image]]:
    entries: list[_Entry] = []
    for path in sorted(root.rglob("*")):
        name = PurePosixPath(path.relative_to(root).as_posix())
        if _is_image(name) and path.is_file():
            status = path.stat()
            entries.append((name, [status.st_size, status.st_mtime_ns]))
    return entries, lambda name: Image.open(root / name)


def _in_archive(path: Path) -> tuple[list[_Entry], Callable[[PurePosixPath], Image.Image]]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the archive {path}: {error}") from error
    infos = sorted(archive.infolist(), key=lambda info: info.filename)
    entries: list[_Entry] = [
        (PurePosixPath(info.filename), [info.file_size, info.CRC])
        for info in infos
        if not info.is_dir() and _is_image(PurePosixPath(info.filename))
    ]
    return entries, lambda name: Image.open(io.BytesIO(archive.read(str(name))))


def _is_image(name: PurePosixPath) -> bool:
    visible = not any(part.startswith(".") or part in _HIDDEN for part in name.parts)
    return visible and name.suffix.lower() in _SUFFIXES
