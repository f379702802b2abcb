"""Image files in a folder or a zip archive.

Folders' names say which part of the data is in them (`train/`, `Test/`, `images/val/`; see `data.words`), wherever on
the way to a picture they lie; without such folders, the names of the pictures themselves, if all of them do. If every
picture lies in a folder below, beside those that all have in common, these folders are its classes.

Links are followed. Files that look like pictures and are not read are counted.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from score_sde.common.errors import UserError
from score_sde.data.sources.found import Found, Pictures
from score_sde.data.sources.picture import MAX_BYTES
from score_sde.data.sources.picture_format import Unreadable
from score_sde.data.words import PARTS, Part, listed, parts_in, settle

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2"),
)
# Files of these names are pictures, too, but are not read.
_OTHER_SUFFIXES = (
    *(
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".svg",
        ".psd",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
    ),
    *(".exr", ".hdr", ".ico", ".xcf", ".j2k", ".jpx", ".dds", ".dcm", ".qoi"),
)
# What pictures of any name begin with. A container begins with its own four letters, and the letters 8 to 11 say what
# is in it.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_CONTAINER, _PICTURES_IN_IT, _LENGTH = b"RIFF", b"WEBP", 12
# What other systems leave in folders and archives, which is no picture.
_DEBRIS = ("__MACOSX", "._")


class _Entry(NamedTuple):
    """An entry is a picture in a folder or an archive.

    Attributes:
        name: the picture's path below the folder or within the archive.
        version: a value that changes when the file does.
        open: opens the picture.
    """

    name: PurePosixPath
    version: object
    open: Callable[[], Image.Image]


def find_image_files(path: Path) -> Found:
    """Find the pictures of a folder or a zip archive, by the part of the data that they belong to.

    Raises:
        UserError: there are no images, their parts cannot be told apart, or the archive is damaged.
    """
    entries, unread = _in_archive(path) if path.is_file() else _in_folder(path)
    if not entries:
        others = f" ({listed(unread)} cannot be read: save them as PNG or JPEG)" if unread else ""
        raise UserError(f"there are no images in {path}{others}; their names end in one of {', '.join(SUFFIXES)}")
    parts, outside, notes = _by_part(entries, path)
    unread += [str(entry.name) for entry in outside]
    if unread:
        notes.append(f"{len(unread)} files in {path} look like pictures and are not read: {listed(sorted(unread))}")
    inside = _without_common_folders({part: [below for _, below in rows] for part, rows in parts.items()})
    classes = _classes(inside, path, notes)
    found: dict[Part, Pictures] = {}
    for part, rows in parts.items():
        pictures = [entry for entry, _ in rows]
        found[part] = Pictures(
            [str(path / entry.name) for entry in pictures],
            # Names are whole paths, so that a first picture beside a common folder changes none of them.
            [str(entry.name) for entry in pictures],
            partial(_open, pictures),
            [str(path.resolve()), [[str(entry.name), entry.version] for entry in pictures]],
            classes[part],
        )
    return Found(found, notes=tuple(notes))


def count_unread(folder: Path) -> tuple[str, ...]:
    """Write a note on the pictures in a folder that is read as something else; nothing if there are none."""
    entries, unread = _in_folder(folder)
    names = sorted([str(entry.name) for entry in entries] + unread)
    return (f"{len(names)} files in {folder} look like pictures and are not read: {listed(names)}",) if names else ()


def _by_part(
    entries: Sequence[_Entry], path: Path
) -> tuple[dict[Part, list[tuple[_Entry, PurePosixPath]]], list[_Entry], list[str]]:
    """Return each part's pictures, with their paths less the folder that means the part; those in no part; and notes.

    Raises:
        UserError: two folders say that they are the same part.
    """
    told: dict[Part | None, list[tuple[_Entry, PurePosixPath]]] = {}
    # For a folder and a part, the name of the folder below it that means the part.
    chosen: dict[tuple[PurePosixPath, Part], str] = {}
    for entry in entries:
        part, depth = _part_of_folders(entry.name)
        below = entry.name
        if part is not None:
            name = entry.name.parts[depth]
            before = chosen.setdefault((PurePosixPath(*entry.name.parts[:depth]), part), name)
            if before != name:
                raise UserError(f"{path} has both {before} and {name} for its {part} part: keep one, or rename them")
            below = PurePosixPath(*entry.name.parts[:depth], *entry.name.parts[depth + 1 :])
        told.setdefault(part, []).append((entry, below))
    notes: list[str] = []
    if set(told) == {None}:
        told = _by_names_of_files(entries, path, notes)
    parts, rest = settle(told, str(path), notes)
    return parts, [entry for entry, _ in rest or ()], notes


def _part_of_folders(name: PurePosixPath) -> tuple[Part | None, int]:
    """Return the part that the outermost folder with such a meaning on the way to a picture means, and its place."""
    for depth, folder in enumerate(name.parts[:-1]):
        meant = parts_in(folder)
        if len(meant) == 1:
            return meant.pop(), depth
    return None, 0


def _by_names_of_files(
    entries: Sequence[_Entry], path: Path, notes: list[str]
) -> dict[Part | None, list[tuple[_Entry, PurePosixPath]]]:
    """Sort pictures into parts by their own names, which count if all have a word and some are to train on."""
    told: dict[Part | None, list[tuple[_Entry, PurePosixPath]]] = {}
    for entry in entries:
        meant = parts_in(entry.name.stem)
        told.setdefault(meant.pop() if len(meant) == 1 else None, []).append((entry, entry.name))
    named = [part for part in PARTS if part in told]
    if "train" in told and len(named) > 1:
        if None in told:
            some = listed(entry.name for entry, _ in told[None])
            raise UserError(
                f"{path} has pictures called {' or '.join(named)} beside {len(told[None])} others ({some}): which part "
                "of the data are these? Put each part in a folder of its name"
            )
        return told
    others = [entry.name for part in named if part != "train" for entry, _ in told[part]]
    if others:
        notes.append(
            f"{len(others)} pictures are called {listed(others)}, and read like all others: to have them as a part of "
            "their own, put them in a folder test or validation"
        )
    return {None: [(entry, entry.name) for entry in entries]}


def _without_common_folders(parts: Mapping[Part, list[PurePosixPath]]) -> dict[Part, list[PurePosixPath]]:
    """Return paths without the outer folders that all of them have in common."""
    every = [name.parts for names in parts.values() for name in names]
    depth = 0
    while all(len(name) > depth + 1 for name in every) and len({name[depth] for name in every}) == 1:
        depth += 1
    return {part: [PurePosixPath(*name.parts[depth:]) for name in names] for part, names in parts.items()}


def _classes(inside: Mapping[Part, list[PurePosixPath]], path: Path, notes: list[str]) -> dict[Part, list[str] | None]:
    """Return the class of each picture of each part, which is the folder it lies in; None where folders are none."""
    folders = {part: Counter(name.parts[0] for name in names if len(name.parts) > 1) for part, names in inside.items()}
    classes: dict[Part, list[str] | None] = {}
    for part, names in inside.items():
        loose = [name for name in names if len(name.parts) == 1]
        if loose or len(folders["train"]) < 2:
            classes[part] = None
            if loose and len(folders[part]) > 1:
                notes.append(
                    f"{path}: {len(loose)} {part} pictures lie in no folder ({listed(loose)}), so folders are not "
                    "taken for classes"
                )
            elif folders[part].keys() - folders["train"].keys():
                notes.append(
                    f"{path}: folders of the {part} part ({listed(folders[part])}) are not taken for classes, as those "
                    "of training pictures are none"
                )
        else:
            classes[part] = [name.parts[0] for name in names]
    return classes


def _open_file(path: Path) -> Image.Image:
    from PIL import Image

    return Image.open(path)


def _open(entries: Sequence[_Entry], row: int) -> Image.Image:
    return entries[row].open()


def _in_folder(root: Path) -> tuple[list[_Entry], list[str]]:
    """Return the pictures below a folder, and the names of files that look like pictures, but are not read."""
    entries, unread = [], []
    for path in _files(root, (os.path.realpath(root),)):
        name = PurePosixPath(path.relative_to(root).as_posix())
        if _is_debris(name):
            continue
        # Opening a link to nothing fails, and reading a pipe does not end.
        status = path.stat() if path.exists() else None
        is_file = status is None or stat.S_ISREG(status.st_mode)
        if _is_picture(name) and is_file:
            version = [status.st_size, status.st_mtime_ns] if status else None
            entries.append(_Entry(name, version, partial(_open_file, path)))
        elif name.suffix.lower() in (*SUFFIXES, *_OTHER_SUFFIXES) or (is_file and _begins_like_one(path)):
            unread.append(str(name))
    return entries, unread


def _files(folder: Path, ancestors: tuple[str, ...]) -> Iterator[Path]:
    """Yield all files below a folder, in order; links are followed, but not in circles."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    for path in inside:
        if not path.is_dir():
            yield path
            continue
        real = os.path.realpath(path)
        if real not in ancestors:
            yield from _files(path, (*ancestors, real))


def _in_archive(path: Path) -> tuple[list[_Entry], list[str]]:
    """Return the pictures in a zip archive, and the names of files that look like pictures, but are not read."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # damaged archives fail in many ways
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or no zip archive"
        raise UserError(f"cannot read the archive {path}: {reason}") from error
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    unread = []
    for info in archive.infolist():
        # Archives written on Windows have backslashes; PurePosixPath drops a `./` before a name.
        text = info.filename if "/" in info.filename else info.filename.replace("\\", "/")
        # Programs that unpack take a name from the root of the file system for one below the archive's root.
        name = PurePosixPath(text.lstrip("/"))
        if info.is_dir() or _is_debris(name):
            continue
        if _is_picture(name):
            if name in members:
                raise UserError(f"the archive {path} has {name} twice: which is it? Pack it again")
            members[name] = info
        elif name.suffix.lower() in (*SUFFIXES, *_OTHER_SUFFIXES) or _member_begins_like_one(archive, info):
            unread.append(str(name))
    entries = [
        _Entry(name, [info.file_size, info.CRC], partial(_open_member, archive, info))
        for name, info in sorted(members.items())
    ]
    return entries, unread


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Image.Image:
    from PIL import Image

    if info.flag_bits & 1:
        raise Unreadable("it is encrypted")
    if info.file_size > MAX_BYTES:
        raise Unreadable(f"it unpacks to {info.file_size:,} bytes")
    with archive.open(info) as member:
        # No more is read than the archive says, so that what unpacks to more does not fill the memory.
        return Image.open(io.BytesIO(member.read(info.file_size + 1)))


def _member_begins_like_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as member:
            return _is_head(member.read(_LENGTH))
    except Exception:  # damaged archives fail in many ways
        return False


def _is_picture(name: PurePosixPath) -> bool:
    return name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts if part != "..")


def _is_debris(name: PurePosixPath) -> bool:
    return any(part.startswith(_DEBRIS) for part in name.parts)


def _begins_like_one(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return _is_head(file.read(_LENGTH))
    except OSError:
        return False


def _is_head(content: bytes) -> bool:
    return content.startswith(_SIGNATURES) or (content[:4], content[8:]) == (_CONTAINER, _PICTURES_IN_IT)
