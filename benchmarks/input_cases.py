"""Malformed and unusual inputs, made from a seed, each with what is true of it.

A case is written into a folder, and says which examples it holds, of which part and class, what notes have to say, or
that it has to be refused. Nothing here uses the code that is tested.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from benchmarks.input_pictures import BROKEN, UNUSUAL, Form, Made, plain, resized, truth

# Users call each part by many names.
_SPELT = {
    "train": ("train", "Train", "TRAIN", "training", "Training set", "train2017", "trainset", "my_train"),
    "test": ("test", "Test", "TEST", "testing", "test_images", "t10k", "T10K-images", "testset"),
    "validation": ("val", "VAL", "valid", "Validation", "dev", "val2017"),
}
_CLASSES = ("cat", "dog", "ant bear", "köln", "-dash", "a,b", "new\nline", "日本", "O'Hare", "#7", "[x]*", "1%", "Cat")
_STEMS = ("IMG {}", "{}", "ñandú{}", "a,b {}", "-{}", "two\nlines{}", "dots.in.name.{}", "[{}]", "{} (copy)")


class Example(NamedTuple):
    """An example has numbers, and the name of its class."""

    content: np.ndarray
    name: str | None = None


@dataclass(frozen=True)
class Case:
    """A case is an input, and what must come of it.

    Attributes:
        what: a description of the input.
        place: the path that is loaded.
        parts: the examples of each part that the input tells apart; whatever else is asked for comes from `train`.
        options: options of `load_dataset`.
        notes: regular expressions; of each there must be a note.
        refused: whether it has to be refused.
        named: words of which a refusal has one.
        then: a function that checks what else must hold, and returns a complaint if it does not.
    """

    what: str
    place: str
    parts: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    refused: bool = False
    named: Sequence[str] = ()
    then: Callable[[Any, Callable[[], Any]], str | None] | None = None


Make = Callable[[Generator, Path], Case]


# Folders and archives.


@dataclass
class Entry:
    """An entry is a file of a folder or an archive.

    Attributes:
        name: path of the file.
        made: what is in the file.
        part: the part of the data.
        label: the class of the picture.
        fate: "read"; "unread", of which a note tells; "nothing", which is no picture.
    """

    name: str
    made: Made
    part: str = "train"
    label: str | None = None
    fate: str = "read"


def _form(rng: Generator) -> Form:
    return Form(
        int(rng.integers(1, 9)),
        int(rng.choice([1, 3])),
        int(rng.choice([256, 256, 16, 2])),
        str(rng.choice(["white", "black", "#10f080", "grey"])),
    )


def _word(rng: Generator, part: str) -> str:
    return str(rng.choice(_SPELT[part]))


def _file(rng: Generator, number: int) -> tuple[str, Made]:
    suffix, mode = [("png", "RGB"), ("jpg", "RGB"), ("bmp", "RGB"), ("webp", "RGB"), ("png", "L"), ("PNG", "RGB"),
                    ("JPEG", "RGB"), ("Tiff", "RGB"), ("gif", "P"), ("ppm", "RGB")][rng.integers(10)]  # fmt: skip
    made = plain(rng, suffix.lower(), mode)
    return f"{str(rng.choice(_STEMS)).format(number)}.{suffix}", made


def _classes(rng: Generator, count: int) -> list[str]:
    return [str(name) for name in rng.choice(_CLASSES, count, replace=False)]


def _flat(rng: Generator) -> list[Entry]:
    return [Entry(*_file(rng, number)) for number in range(rng.integers(4, 14))]


def _flat_by_names(rng: Generator) -> list[Entry]:
    train, test = str(rng.choice(["train", "Train-"])), str(rng.choice(["test", "TEST ", "t10k-"]))
    return [
        Entry(f"{test if number % 3 == 0 else train}_{number}.png", plain(rng), "test" if number % 3 == 0 else "train")
        for number in range(9)
    ]


def _in_classes(rng: Generator) -> list[Entry]:
    entries = []
    for label in _classes(rng, int(rng.integers(2, 5))):
        for number in range(rng.integers(2, 6)):
            name, made = _file(rng, number)
            deep = str(rng.choice(["", "more/", "a b/c/"]))
            entries.append(Entry(f"{label}/{deep}{name}", made, label=label))
    return entries


def _in_parts(rng: Generator, order: str = "part class") -> list[Entry]:
    """Return entries at `part/…`, `part/class/…`, or `class/part/…`."""
    parts = ["train", *[part for part in ("test", "validation") if rng.random() < 0.7]]
    words = {part: _word(rng, part) for part in parts}
    labels: list[str | None] = [None] if order == "part" else [*_classes(rng, int(rng.integers(2, 4)))]
    entries = []
    for part in parts:
        for label in labels:
            for number in range(rng.integers(2, 5)):
                name, made = _file(rng, number)
                folders = [words[part], label] if order == "part class" else [label, words[part]]
                path = "/".join(folder for folder in folders if folder)
                entries.append(Entry(f"{path}/{name}", made, part, label))
    return entries


def _numbered(rng: Generator) -> list[Entry]:
    """Return entries in twelve folders, called 1 to 12."""
    return [Entry(f"{k}/{n}.png", plain(rng), label=str(k)) for k in range(1, 13) for n in range(2)]


def _ten_folders(rng: Generator) -> list[Entry]:
    """Return thirty pictures in ten folders."""
    return [Entry(f"class {k}/{n}.png", plain(rng), label=f"class {k}") for k in range(10) for n in range(3)]


_LAYOUTS: tuple[Callable[[Generator], list[Entry]], ...] = (
    _flat,
    _flat_by_names,
    _in_classes,
    _in_parts,
    lambda rng: _in_parts(rng, "part"),
    lambda rng: _in_parts(rng, "class part"),
    _numbered,
    _ten_folders,
)

# In the other layouts what is added below would have no part, or be a class.
_TWISTED = (_flat, _in_classes, *_LAYOUTS[3:6])

# A twist returns what is added to a folder or an archive.
_Twist = Callable[[Generator, str], list[Entry]]


def _beside(first: str, name: str) -> str:
    return f"{first.rpartition('/')[0]}/{name}".lstrip("/")


_TWISTS: dict[str, _Twist] = {
    "plain": lambda rng, first: [],
    "hidden": lambda rng, first: [Entry(_beside(first, ".hidden.png"), plain(rng), fate="unread")],
    "hidden folder": lambda rng, first: [Entry(".thumbs/a.png", plain(rng), fate="unread")],
    "debris": lambda rng, first: [
        Entry(f"__MACOSX/{_beside(first, '._a.png')}", Made(b"debris", "png"), fate="nothing"),
        Entry(_beside(first, "._b.jpg"), Made(b"debris", "jpg"), fate="nothing"),
        Entry("Thumbs.db", Made(b"debris", "db"), fate="nothing"),
        Entry("labels.csv", Made(b"a,b", "csv"), fate="nothing"),
    ],
    "other types": lambda rng, first: [
        Entry(_beside(first, f"other.{suffix}"), Made(rng.bytes(30), suffix), fate="unread")
        for suffix in rng.choice(["heic", "HEIF", "avif", "svg", "psd", "dng", "jxl", "exr", "NEF"], 2, replace=False)
    ],
    "no suffix": lambda rng, first: [
        Entry(_beside(first, f"nameless{suffix}"), plain(rng, suffix), fate="unread") for suffix in ("png", "webp")
    ],
    "odd suffix": lambda rng, first: [
        Entry(_beside(first, f"picture.{odd}"), plain(rng, "jpg"), fate="unread")
        for odd in rng.choice(["jpg_large", "png.bak", "jpg~", "jpeg!d", "download", "dat"], 2, replace=False)
    ],
    "empty file": lambda rng, first: [Entry(_beside(first, "empty.png"), Made(b"", "png", True))],
    "text": lambda rng, first: [Entry(_beside(first, "text.JPG"), Made(b"not a picture", "jpg", True))],
}


def _with(rng: Generator, twist: str, entries: list[Entry]) -> list[Entry]:
    first = entries[0]
    more = [
        replace(entry, part=first.part, label=first.label if entry.name.count("/") == first.name.count("/") else None)
        for entry in _TWISTS[twist](rng, first.name)
    ]
    return [*entries, *more]


def _expected(entries: Sequence[Entry], form: Form, skip: bool) -> tuple[dict[str, list[Example]], list[str]]:
    """Return the examples of each part, and what notes must say."""
    parts: dict[str, list[Example]] = {}
    transparent = frames = 0
    for entry in entries:
        if entry.fate == "read":
            parts.setdefault(entry.part, [])
            if not entry.made.broken:
                picture = truth(entry.made.content, form)
                transparent, frames = transparent + picture.transparent, frames + picture.frames
                parts[entry.part].append(Example(picture.levels, entry.label))
    notes = [
        rf"^{transparent} pictures are transparent in places" if transparent else "",
        rf"^{frames} files have several frames" if frames else "",
    ]
    unread = sum(entry.fate == "unread" for entry in entries)
    notes.append(rf"^{unread} files .* look like pictures and are not read" if unread else "")
    broken = sum(entry.fate == "read" and entry.made.broken for entry in entries)
    notes.append(rf"^skipped {broken} pictures" if broken and skip else "")
    return parts, [note for note in notes if note]


def _case(what: str, rng: Generator, place: Path, entries: Sequence[Entry], **more: Any) -> Case:
    """Return the case of a folder or archive that has been written."""
    form, skip = _form(rng), bool(rng.random() < 0.5)
    parts, notes = _expected(entries, form, skip)
    damaged, test_share = "skip" if skip else "refuse", float(rng.choice([0, 0.1, 0.3]))
    options = {**form._asdict(), "damaged": damaged, "test_share": test_share}
    broken = [entry.name for entry in entries if entry.fate == "read" and entry.made.broken]
    if broken and not skip:
        return Case(what, str(place), options=options, refused=True, named=broken, **more)
    return Case(what, str(place), parts, options, notes, named=[place.name], **more)


def _write(folder: Path, entries: Sequence[Entry]) -> None:
    for entry in entries:
        path = folder / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.made.content)


def _folder(layout: Callable[[Generator], list[Entry]], twist: str) -> Make:
    def make(rng: Generator, folder: Path) -> Case:
        entries = _with(rng, twist, layout(rng))
        above = str(rng.choice(["", "photos/", "my photos/all of them/"]))
        entries = [replace(entry, name=above + entry.name) for entry in entries]
        place = folder / str(rng.choice(["photos", "my photos", "train", "données", "-x", "a,b", "two\nlines"]))
        _write(place, entries)
        return _case(f"{twist} in a folder", rng, place, entries)

    return make


def _modes(makers: Sequence[Callable[[Generator], Made]]) -> Iterator[Make]:
    """Make folders that have one unusual picture among ordinary ones."""
    for maker in makers:

        def make(rng: Generator, folder: Path, maker: Callable[[Generator], Made] = maker) -> Case:
            made = maker(rng)
            entries = [*_flat(rng), Entry(f"unusual.{made.suffix}", made)]
            _write(folder / "photos", entries)
            return _case(made.what, rng, folder / "photos", entries)

        yield make


_LINKS = (
    "a linked class folder",
    "a linked picture",
    "links in a circle",
    "a linked folder of all",
    "a link to nothing",
    "a link to itself",
)


def _links(kind: str) -> Make:
    def make(rng: Generator, folder: Path) -> Case:
        place, elsewhere = folder / "photos", folder / "elsewhere"
        labels = ["cat", "dog"]
        entries = [Entry(f"{label}/{n}.png", plain(rng), label=label) for label in labels for n in range(3)]
        _write(place, entries)
        other = [Entry(f"{n}.png", plain(rng), label="emu") for n in range(2)]
        _write(elsewhere, other)
        if kind == "a linked class folder":
            (place / "emu").symlink_to(elsewhere)
            entries += [replace(entry, name=f"emu/{entry.name}") for entry in other]
        elif kind == "a linked picture":
            (place / "cat" / "linked.png").symlink_to(elsewhere / "0.png")
            entries.append(replace(other[0], name="cat/linked.png", label="cat"))
        elif kind == "links in a circle":
            (place / "cat" / "up").symlink_to(place)
            (place / "dog" / "self").symlink_to(place / "dog")
            (place / "dog" / "loop.txt").symlink_to(place / "dog" / "loop.txt")
        elif kind == "a linked folder of all":
            (folder / "link").symlink_to(place)
            place = folder / "link"
        else:
            (place / "cat" / "gone.png").symlink_to("nowhere.png" if kind == "a link to nothing" else "gone.png")
            entries.append(Entry("cat/gone.png", Made(b"", "png", True), label="cat"))
        return _case(kind, rng, place, entries)

    return make


def _no_file(rng: Generator, folder: Path) -> Case:
    """Make a pipe, from which reading never ends."""
    entries = [*_flat(rng), Entry("pipe.png", Made(b"", "png"), fate="unread")]
    _write(folder / "photos", entries[:-1])
    os.mkfifo(folder / "photos" / "pipe.png")
    return _case("a pipe", rng, folder / "photos", entries)


def _undecodable(rng: Generator, folder: Path) -> Case:
    entries = [*_flat(rng), Entry("caf\udce9.png", plain(rng, mode="LA"))]
    _write(folder / "photos", entries)
    return _case("a name that is no text", rng, folder / "photos", entries)


def _fixed(what: str, entries: Callable[[Generator], list[Entry]], refused: bool = False, **more: Any) -> Make:
    def make(rng: Generator, folder: Path) -> Case:
        written = entries(rng)
        (folder / "photos").mkdir()
        _write(folder / "photos", written)
        if refused:
            return Case(what, str(folder / "photos"), options={"image_size": 4}, refused=True, named=["photos"])
        return _case(what, rng, folder / "photos", written, **more)

    return make


def _named(names: Sequence[str], **more: Any) -> Callable[[Generator], list[Entry]]:
    return lambda rng: [Entry(name, plain(rng), **more) for name in names]


_TRAINED = [f"train/{label}/{n}.png" for label in ("cat", "dog") for n in range(2)]


def _labelled(rng: Generator, names: Sequence[str], part: str, depth: int | None) -> list[Entry]:
    """Return pictures of a part, whose class is this folder of their names."""
    return [Entry(n, plain(rng), part, None if depth is None else n.split("/")[depth]) for n in names]


def folders() -> list[Make]:
    """Return the cases that are folders of images."""
    return [
        *[_folder(layout, "plain") for layout in _LAYOUTS],
        *[_folder(_TWISTED[k % len(_TWISTED)], twist) for k, twist in enumerate(list(_TWISTS)[1:])],
        *map(_links, _LINKS),
        _no_file,
        _undecodable,
        _fixed("empty", _named([]), refused=True),
        _fixed("no pictures", lambda rng: [Entry("a.txt", Made(b"a", "txt"))], refused=True),
        _fixed("only HEIC", lambda rng: [Entry("a.heic", Made(b"a", "heic"))], refused=True),
        _fixed("a class of the test part alone", _named([*_TRAINED, "test/emu/0.png"]), refused=True),
        _fixed("two folders of one part", _named([*_TRAINED, "Training/cat/0.png"]), refused=True),
        _fixed("test and validation alone", _named(["test/0.png", "val/1.png"]), refused=True),
        _fixed("one picture", lambda rng: _named(["0.png"])(rng), refused=True),
        _fixed(
            "pictures beside the parts",
            lambda rng: [*_labelled(rng, _TRAINED, "train", 1), Entry("stray.png", plain(rng), fate="unread")],
        ),
        _fixed(
            "a test part alone",
            lambda rng: _labelled(rng, [f"Test/{k}/{n}.png" for k in "ab" for n in range(3)], "train", 1),
        ),
        _fixed(
            "a test part without classes",
            lambda rng: [*_labelled(rng, _TRAINED, "train", 1), *_labelled(rng, ["test/0.png"], "test", None)],
        ),
        _fixed(
            "names that are the same number",
            lambda rng: _labelled(rng, [f"{k}/{n}.png" for k in ("1", "01", "001", "2") for n in range(2)], "train", 0),
        ),
        _fixed("pictures beside class folders", _named([*_TRAINED, "train/stray.png"])),
    ]


def unusual_pictures() -> list[Make]:
    """Return the cases of folders with one unusual picture, or one that is broken."""
    return [*_modes(UNUSUAL), *_modes(BROKEN)]


# Archives.


def _zip(entries: Sequence[Entry], rename: Callable[[str], str] = str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.writestr(zipfile.ZipInfo(rename(entry.name)), entry.made.content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _patched(content: bytes, member: int, offset: int, value: bytes) -> bytes:
    """Return an archive with other bytes in the directory's record of a member."""
    at = struct.unpack("<I", content[-6:-2])[0]
    for _ in range(member):
        at += 46 + sum(struct.unpack("<HHH", content[at + 28 : at + 34]))
    return content[: at + offset] + value + content[at + offset + len(value) :]


def _archive(layout: Callable[[Generator], list[Entry]], twist: str = "plain", prefix: str = "") -> Make:
    def make(rng: Generator, folder: Path) -> Case:
        entries = _with(rng, twist, layout(rng))
        place = folder / str(rng.choice(["photos.zip", "PHOTOS.ZIP", "my photos.zip", "train.zip"]))
        rename = (lambda name: name.replace("/", "\\")) if prefix == "\\" else (lambda name: prefix + name)
        place.write_bytes(_zip(entries, rename))
        return _case(f"{twist}, prefix {prefix!r}", rng, place, entries)

    return make


def _broken_archive(what: str, spoil: Callable[[Generator, bytes], bytes]) -> Make:
    """Make an archive that is refused as a whole."""

    def make(rng: Generator, folder: Path) -> Case:
        place = folder / "photos.zip"
        place.write_bytes(spoil(rng, _zip(_in_classes(rng))))
        return Case(what, str(place), options={"image_size": 4}, refused=True, named=["photos.zip"])

    return make


def _broken_member(what: str, spoil: Callable[[bytes, int], bytes]) -> Make:
    """Make an archive of which one member is damaged."""

    def make(rng: Generator, folder: Path) -> Case:
        entries = [Entry(f"{n}.png", plain(rng)) for n in range(5)]
        member = int(rng.integers(5))
        place = folder / "photos.zip"
        place.write_bytes(spoil(_zip(entries), member))
        entries[member] = replace(entries[member], made=Made(b"", "png", True))
        return _case(what, rng, place, entries)

    return make


def _spoilt_content(content: bytes, member: int) -> bytes:
    """Change the last byte of what is packed."""
    at = struct.unpack("<I", content[-6:-2])[0]
    for _ in range(member):
        at += 46 + sum(struct.unpack("<HHH", content[at + 28 : at + 34]))
    start = struct.unpack("<I", content[at + 42 : at + 46])[0]
    size = struct.unpack("<I", content[at + 20 : at + 24])[0]
    name, extra = struct.unpack("<HH", content[start + 26 : start + 30])
    last = start + 30 + name + extra + size // 2
    return content[:last] + bytes([content[last] ^ 0x55]) + content[last + 1 :]


def _twice(rng: Generator, content: bytes) -> bytes:
    entries = _flat(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _zip([*entries, replace(entries[0], made=plain(rng))])


def _absolute_and_relative(rng: Generator, folder: Path) -> Case:
    entries = [Entry(f"{label}/{n}.png", plain(rng), label=label) for label in ("cat", "dog") for n in range(2)]
    place = folder / "photos.zip"
    place.write_bytes(_zip(entries, lambda name: "/" + name if name.startswith("cat") else name))
    return _case("absolute beside relative names", rng, place, entries)


def _going_up(rng: Generator, folder: Path) -> Case:
    entries = [*_flat(rng), Entry("../../outside.png", plain(rng))]
    place = folder / "photos.zip"
    place.write_bytes(_zip(entries))
    return _case("names with ../", rng, place, entries)


def archives() -> list[Make]:
    """Return the cases that are zip archives of images."""
    return [
        *[_archive(_LAYOUTS[k], "plain", prefix) for k, prefix in enumerate(("", "./", "\\", "/", "photos/", "a/b/"))],
        *[_archive(_TWISTED[k % len(_TWISTED)], twist) for k, twist in enumerate(list(_TWISTS)[1:])],
        _broken_archive("truncated", lambda rng, content: content[: int(rng.uniform(0, 0.97) * len(content))]),
        _broken_archive("no zip", lambda rng, content: rng.bytes(300)),
        _broken_archive("nothing in it", lambda rng, content: _zip([])),
        _broken_archive("empty file", lambda rng, content: b""),
        _broken_archive("a member twice", _twice),
        _broken_archive("a damaged directory", lambda rng, content: _patched(content, 0, 0, b"XX")),
        _broken_archive("a version to come", lambda rng, content: _patched(content, 0, 6, b"\xff\0")),
        _broken_member("encrypted", lambda content, member: _patched(content, member, 8, b"\1\0")),
        _broken_member("damage in the middle", _spoilt_content),
        _broken_member("a wrong checksum", lambda content, member: _patched(content, member, 16, b"abcd")),
        _broken_member("unpacks to 4 GiB", lambda content, member: _patched(content, member, 24, b"\xfe\xff\xff\xff")),
        _broken_member("unpacks to more than told", lambda content, member: _patched(content, member, 24, b"\5\0\0\0")),
        _broken_member("packed in an unknown way", lambda content, member: _patched(content, member, 10, b"\x63\0")),
        _absolute_and_relative,
        _going_up,
    ]


# NumPy files.


def _pixels(rng: Generator, *shape: int, levels: int = 256) -> np.ndarray:
    return rng.integers(0, levels, shape, dtype=np.uint8)


def _examples(pixels: np.ndarray, labels: Sequence[str | None] | None = None, axis: int | None = None) -> list[Example]:
    """Return the examples of pictures `(N, H, W)`, or with channels on this axis."""
    pixels = pixels[:, None] if axis is None else np.moveaxis(pixels, axis, 1)
    return [Example(row, labels[n] if labels else None) for n, row in enumerate(pixels)]


def _read_array(what: str, make: Callable[[Generator], tuple[np.ndarray, list[Example]]], **options: Any) -> Make:
    def case(rng: Generator, folder: Path) -> Case:
        array, examples = make(rng)
        place = folder / "own.npy"
        np.save(place, array, allow_pickle=False)
        return Case(what, str(place), {"train": examples}, options, named=["own.npy"])

    return case


def refused_array(what: str, make: Callable[[Generator], np.ndarray], **options: Any) -> Make:
    def case(rng: Generator, folder: Path) -> Case:
        np.save(folder / "own.npy", make(rng), allow_pickle=True)
        return Case(what, str(folder / "own.npy"), options=options, refused=True, named=["own.npy"])

    return case


def refused_bytes(what: str, name: str, make: Callable[[Generator], bytes]) -> Make:
    def case(rng: Generator, folder: Path) -> Case:
        (folder / name).write_bytes(make(rng))
        return Case(what, str(folder / name), refused=True, named=[name])

    return case


def packed(save: Callable[..., None], *args: Any, **named: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **named)
    return buffer.getvalue()


def _as_is(layout: str, fortran: bool = False) -> Callable[[Generator], tuple[np.ndarray, list[Example]]]:
    def make(rng: Generator) -> tuple[np.ndarray, list[Example]]:
        count, side = int(rng.integers(4, 30)), int(rng.integers(4, 9))
        channels = int(rng.choice([1, 3]))
        shapes = {"NHW": (side, side), "NHWC": (side, side, channels), "NCHW": (channels, side, side)}
        pixels = _pixels(rng, count, *shapes[layout])
        axis = {"NHW": None, "NHWC": 3, "NCHW": 1}[layout]
        examples = _examples(pixels, axis=axis)
        return (np.asfortranarray(pixels) if fortran else pixels), examples

    return make


def _resized(rng: Generator, folder: Path) -> Case:
    form = _form(rng)._replace(levels=256)
    pixels = _pixels(rng, 6, 8, 8)
    np.save(folder / "own.npy", pixels)
    mode = "L" if form.num_channels == 1 else "RGB"
    examples = [Example(resized(np.asarray(Image.fromarray(row).convert(mode)), form)) for row in pixels]
    options = {"image_size": form.image_size, "num_channels": form.num_channels}
    return Case("resized", str(folder / "own.npy"), {"train": examples}, options, named=["own.npy"])


def _oblong(rng: Generator) -> tuple[np.ndarray, list[Example]]:
    pixels = _pixels(rng, 6, int(rng.integers(4, 9)), int(rng.integers(10, 15)))
    return pixels, _examples(pixels)


# Users call a part's examples and classes by these names.
_KEYS = {
    "train": (("x_train", "y_train"), ("X", "y"), ("trainX", "trainY"), ("train_images", "train_labels"),
              ("XTrain", "yTrain"), ("images", "labels"), ("xtrain", "ytrain"), ("data", "target")),
    "test": (("X_test", "y_test"), ("testX", "testY"), ("test_images", "test_labels"), ("xTest", "yTest"),
             ("xtest", "ytest"), ("images_test", "labels_test")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels"), ("XVal", "yVal"), ("xvalid", "yvalid"),
                   ("dev_data", "dev_target"), ("X_validation", "y_validation")),
}  # fmt: skip


def _labels(rng: Generator, count: int, how: str) -> tuple[np.ndarray, list[str]]:
    """Return classes as an array of some type, and their names; all of three are there."""
    numbers = np.concatenate([np.arange(3), rng.integers(0, 3, count - 3)])
    rng.shuffle(numbers)
    names = np.array(["zebra", "a b", "köln"])
    as_text = [str(number) for number in numbers]
    table: dict[str, tuple[np.ndarray, list[str]]] = {
        "int64": (numbers.astype(np.int64), as_text),
        "uint8": (numbers.astype(np.uint8), as_text),
        "big-endian": (numbers.astype(">i4"), as_text),
        "(N, 1)": (numbers[:, None], as_text),
        "words": (names[numbers], names[numbers].tolist()),
        "bytes": (np.char.encode(names, "utf-8")[numbers], names[numbers].tolist()),
        "floats": (numbers.astype(np.float32), as_text),
        "far apart": (numbers * 1000 + 7, [str(number * 1000 + 7) for number in numbers]),
        "bool": (numbers > 0, [str(int(number > 0)) for number in numbers]),
    }
    return table[how]


def _keys(how: str) -> Make:
    def case(rng: Generator, folder: Path) -> Case:
        chosen = ["train", *[part for part in ("test", "validation") if rng.random() < 0.6]]
        arrays: dict[str, np.ndarray] = {}
        parts = {}
        for part in chosen:
            x, y = _KEYS[part][rng.integers(len(_KEYS[part]))]
            count = int(rng.integers(5, 12))
            arrays[x] = _pixels(rng, count, 5, 5)
            arrays[y], names = _labels(rng, count, how)
            parts[part] = _examples(arrays[x], names)
        keys = list(arrays)
        rng.shuffle(keys)
        np.savez(folder / "own.npz", **{key: arrays[key] for key in keys})  # type: ignore[arg-type]
        return Case(f"classes as {how}", str(folder / "own.npz"), parts, named=["own.npz"])

    return case


def _named_arrays(
    what: str, make: Callable[[Generator], dict[str, np.ndarray]], parts: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (), **options: Any,
) -> Make:  # fmt: skip
    """Make an `.npz` file; `parts` says which arrays and classes each part has, or the file is refused."""

    def case(rng: Generator, folder: Path) -> Case:
        arrays = make(rng)
        np.savez(folder / "own.npz", **arrays)  # type: ignore[arg-type]
        truth = {}
        for part, (x, *y) in (parts or {}).items():
            truth[part] = _examples(arrays[x], [str(label) for label in arrays[y[0]].tolist()] if y else None)
        return Case(what, str(folder / "own.npz"), truth, options, notes, parts is None, ["own.npz"])

    return case


def _two(rng: Generator, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Return a training part with classes, a test part, and more, which may be instead of these."""
    labels = np.arange(8) % 3
    return {"x_train": _pixels(rng, 8, 5, 5), "y_train": labels, "x_test": _pixels(rng, 4, 5, 5), **more}


def _huge_head(rng: Generator) -> bytes:
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 10000, 1000), }".ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + rng.bytes(50)


def cut_off(content: bytes, rng: Generator) -> bytes:
    return content[: int(rng.uniform(0, 0.98) * len(content))]


def arrays() -> list[Make]:
    """Return the cases that are NumPy files of pictures."""
    dtypes = ("int8", "uint16", "int64", "complex64", "bool", "S3", "U2", "object")
    return [
        *[_read_array(layout, _as_is(layout)) for layout in ("NHW", "NHWC", "NCHW")],
        _read_array("Fortran order", _as_is("NHWC", fortran=True)),
        _read_array("one picture", lambda rng: (p := _pixels(rng, 1, 5, 5), _examples(p)), test_share=0.0),
        _read_array("17 levels", lambda rng: (p := _pixels(rng, 9, 5, 5, levels=17), _examples(p)), levels=17),
        _read_array("oblong", _oblong),
        _resized,
        *[
            refused_array(dtype, lambda rng, dtype=dtype: _pixels(rng, 6, 5, 5).astype(dtype))  # type: ignore[misc]
            for dtype in dtypes
        ],
        *[
            refused_array(str(shape), lambda rng, shape=shape: _pixels(rng, *shape))  # type: ignore[misc]
            for shape in ((), (7,), (7, 7), (6, 3, 3, 3), (6, 3, 5, 3), (6, 1, 7, 3), (6, 5, 5, 2), (6, 5, 5, 1, 3),
                          (32, 32, 3), (0, 5, 5), (6, 0, 0), (1, 5, 5))
        ],
        refused_array("too many levels", lambda rng: _pixels(rng, 9, 5, 5) | 128, levels=16),
        refused_array("levels resized", lambda rng: _pixels(rng, 9, 5, 5, levels=16), levels=16, image_size=3),
        *map(_keys, ["int64", "uint8", "big-endian", "(N, 1)", "words", "bytes", "floats", "far apart", "bool"]),
        _named_arrays("classes hidden by -1", lambda rng: _two(rng, y_test=np.full(4, -1)),
                      {"train": ("x_train", "y_train"), "test": ("x_test",)}),
        _named_arrays("other arrays", lambda rng: _two(rng, mean=np.ones(3), weights=np.ones(2)),
                      {"train": ("x_train", "y_train"), "test": ("x_test",)}, [r"mean, weights are not read"]),
        _named_arrays("levels above in the test part",
                      lambda rng: {"x_train": _pixels(rng, 8, 5, 5, levels=16), "x_test": _pixels(rng, 8, 5, 5) | 128},
                      levels=16),
        *[_named_arrays(f"y_train {what}", lambda rng, y=y: _two(rng, y_train=y)) for what, y in {  # type: ignore[misc]
            "negative": np.arange(8) - 2, "of another length": np.arange(7), "NaN": np.full(8, np.nan),
            "infinite": np.full(8, np.inf), "halves": np.arange(8) / 2, "one-hot": np.eye(8, dtype=int),
            "of shape (2, 4)": np.zeros((2, 4), int), "complex": np.ones(8, complex), "0-d": np.array(3),
            "huge": np.full(8, 1e30), "dates": np.zeros(8, "M8[D]")}.items()],
        *[_named_arrays(what, lambda rng, more=more: _two(rng, **more(rng))) for what, more in {  # type: ignore[misc]
            "a class of the test part alone": lambda rng: {"y_test": np.array([0, 1, 2, 7])},
            "-1 among the test part's classes": lambda rng: {"y_test": np.array([0, 1, 2, -1])},
            "words and numbers": lambda rng: {"y_test": np.array(["cat", "dog", "cat", "dog"])},
            "a test part of another size": lambda rng: {"x_test": _pixels(rng, 4, 6, 6)},
            "a test part in colour": lambda rng: {"x_test": _pixels(rng, 4, 5, 5, 3)},
            "a test part of floats": lambda rng: {"x_test": rng.random((4, 5, 5))},
            "an empty test part": lambda rng: {"x_test": _pixels(rng, 0, 5, 5)},
            "two arrays for a part": lambda rng: {"images": _pixels(rng, 4, 5, 5)},
            "two for the classes": lambda rng: {"labels": np.arange(8)},
            "a name of two parts": lambda rng: {"x_train_test": _pixels(rng, 4, 5, 5)},
            "Python objects": lambda rng: {"y_train": np.array([{}] * 8, dtype=object)}}.items()],
        _named_arrays("nothing to train on", lambda rng: {"x_test": _pixels(rng, 4, 5, 5)}),
        _named_arrays("unknown names", lambda rng: {"stuff": _pixels(rng, 4, 5, 5)}),
        _named_arrays("no arrays", lambda rng: {}),
        _named_arrays("classes of the test part alone",
                      lambda rng: {"x_train": _pixels(rng, 8, 5, 5), "x_test": _pixels(rng, 4, 5, 5),
                                   "y_test": np.arange(4)},
                      {"train": ("x_train",), "test": ("x_test",)}, ["class"]),
        refused_bytes("cut off", "own.npy", lambda rng: cut_off(packed(np.save, _pixels(rng, 6, 5, 5)), rng)),
        refused_bytes("cut off", "own.npz", lambda rng: cut_off(packed(np.savez, x=_pixels(rng, 6, 5, 5)), rng)),
        refused_bytes("packed and cut off", "own.npz",
                       lambda rng: cut_off(packed(np.savez_compressed, x=_pixels(rng, 6, 5, 5)), rng)),
        refused_bytes("terabytes by its head", "own.npy", _huge_head),
        refused_bytes("noise", "own.npy", lambda rng: rng.bytes(300)),
        refused_bytes("a pickle", "own.npy", lambda rng: pickle.dumps([1, 2, 3])),
        refused_bytes("a pickle", "own.npz", lambda rng: pickle.dumps({"x": [1, 2, 3]})),
        refused_bytes("nothing", "own.npz", lambda rng: b""),
    ]  # fmt: skip


# Vectors.


def normal(rng: Generator, dtype: str = "f8", columns: int = 3) -> np.ndarray:
    return rng.standard_normal((40, columns)).astype(dtype)


def good_numbers(what: str, make: Callable[[Generator], np.ndarray], notes: Sequence[str] = ()) -> Make:
    """Make an array without levels that has to be read number by number, in a dtype that holds it."""

    def case(rng: Generator, folder: Path) -> Case:
        array = make(rng)
        np.save(folder / "own.npy", array)
        single = array.dtype.itemsize < 8 if array.dtype.kind == "f" else array.dtype.itemsize < 4
        examples = [Example(row) for row in array.astype(np.float32 if single else np.float64)]
        return Case(what, str(folder / "own.npy"), {"train": examples}, {}, notes, named=["own.npy"])

    return case


def _with_column(column: Callable[[Generator], np.ndarray | float]) -> Callable[[Generator], np.ndarray]:
    def make(rng: Generator) -> np.ndarray:
        array = normal(rng)
        array[:, rng.integers(3)] = column(rng)
        return array

    return make


def _with_number(number: float) -> Callable[[Generator], np.ndarray]:
    def make(rng: Generator) -> np.ndarray:
        array = normal(rng)
        array[rng.integers(40), rng.integers(3)] = number
        return array

    return make


def vectors() -> list[Make]:
    """Return the cases that are NumPy files of vectors."""
    return [
        good_numbers("good", normal),
        good_numbers("float16", lambda rng: normal(rng, "f2")),
        good_numbers("float32, big-endian", lambda rng: normal(rng, ">f4")),
        good_numbers("Fortran order", lambda rng: np.asfortranarray(normal(rng))),
        good_numbers("one column", lambda rng: normal(rng, columns=1)),
        good_numbers("mean 100, deviation 10", lambda rng: 100 + 10 * normal(rng)),
        good_numbers("deviations 1 and 1000", lambda rng: normal(rng, columns=2) * [1, 1000]),
        good_numbers("1.7e9 + N(0, 1)", lambda rng: 1.7e9 + normal(rng)),
        good_numbers("deviation 1e-6", lambda rng: 1e-6 * normal(rng)),
        good_numbers("whole numbers", lambda rng: rng.integers(0, 9, (40, 3)), ["only in column 0, 1, 2"]),
        good_numbers("few bits, whole", lambda rng: rng.integers(-9, 9, (40, 3)).astype("i2"), ["whole numbers only"]),
        good_numbers("a whole column", _with_column(lambda rng: rng.integers(0, 9, 40)), ["whole numbers only"]),
        good_numbers("a nearly constant column", _with_column(lambda rng: 1 + 1e-9 * rng.random(40))),
        refused_array("1.7e9 + N(0, 1) in float32", lambda rng: (1.7e9 + normal(rng)).astype("f4")),
        refused_array("1000 + N(0, 1) in float16", lambda rng: (1000 + normal(rng)).astype("f2")),
        refused_array("1e39", _with_number(1e39)),
        refused_array("1e300", _with_number(1e300)),
        refused_array("NaN", _with_number(np.nan)),
        refused_array("infinite", _with_number(-np.inf)),
        refused_array("a constant column", _with_column(lambda rng: 0.1)),
        refused_array("complex", lambda rng: normal(rng).astype(complex)),
        refused_array("no columns", lambda rng: normal(rng, columns=0)),
        refused_array("one row", lambda rng: normal(rng)[:1]),
        refused_array("six dimensions", lambda rng: rng.standard_normal((2, 3, 4, 5, 6, 7))),
        _named_arrays(
            "NaN in the test part",
            lambda rng: {"x_train": normal(rng), "x_test": np.full((3, 3), np.nan)},
        ),
        _named_arrays("a test part of more columns",
                      lambda rng: {"x_train": normal(rng), "x_test": normal(rng, columns=4)}),
    ]  # fmt: skip


# IDX files.


def _idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


_IDX_NAMES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx1-ubyte",
     "qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx1-ubyte"),
    ("TRAIN-IMAGES-IDX3-UBYTE", "TRAIN-LABELS-IDX1-UBYTE", "T10K-IMAGES-IDX3-UBYTE", "T10K-LABELS-IDX1-UBYTE"),
    ("train-images.idx3-ubyte", "train-labels.idx1-ubyte", "t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
)  # fmt: skip


def _idx_folder(
    what: str, spoil: Callable[[Generator, list[str], dict[str, bytes]], Any] | None = None, refused: bool = False,
    notes: Sequence[str] = (), labelled: tuple[bool, bool] = (True, True),
) -> Make:  # fmt: skip
    """Make a folder of four files, then spoil it."""

    def case(rng: Generator, folder: Path) -> Case:
        names = list(_IDX_NAMES[rng.integers(4)])
        pixels = [_pixels(rng, 9, 5, 5), _pixels(rng, 4, 5, 5)]
        labels = [np.arange(9, dtype=np.uint8) % 4, rng.integers(0, 4, 4, dtype=np.uint8)]
        files = dict(zip(names, map(_idx, (pixels[0], labels[0], pixels[1], labels[1])), strict=True))
        if spoil is not None:
            spoil(rng, names, files)
        packed = rng.random() < 0.5
        (folder / "mnist").mkdir()
        for name, content in files.items():
            suffix = (".GZ" if name.isupper() else ".gz") if packed else ""
            (folder / "mnist" / (name + suffix)).write_bytes(gzip.compress(content) if packed else content)
        parts = {
            part: _examples(pixels[k], [str(number) for number in labels[k]] if labelled[k] else None)
            for k, part in enumerate(("train", "test"))
        }
        return Case(what, str(folder / "mnist"), {} if refused else parts, {}, notes, refused, ["mnist"])

    return case


def _drop(number: int) -> Callable[[Generator, list[str], dict[str, bytes]], Any]:
    return lambda rng, names, files: files.pop(names[number])


def _put(number: int, make: Callable[[Generator, bytes], bytes]) -> Callable[[Generator, list[str], dict], Any]:
    return lambda rng, names, files: files.update({names[number]: make(rng, files[names[number]])})


def _qmnist_labels(rng: Generator, names: list[str], files: dict[str, bytes]) -> None:
    """Put each class into the first of eight columns of whole numbers, which is another format."""
    for number in (1, 3):
        count = struct.unpack(">I", files.pop(names[number])[4:8])[0]
        name = names[number].replace("idx1-ubyte", "idx2-int").replace("IDX1-UBYTE", "IDX2-INT")
        files[name] = _idx(rng.integers(0, 9, (count, 8)).astype(">i4"), 12)


def _idx_bomb(rng: Generator) -> bytes:
    return gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 10, 5, 5) + bytes(20_000_000))


def idx_files() -> list[Make]:
    """Return the cases that are IDX files."""
    return [
        *[_idx_folder("good")] * 3,
        _idx_folder("no classes to train on", _drop(1), labelled=(False, False), notes=["class"]),
        _idx_folder("no classes to test on", _drop(3), labelled=(True, False)),
        _idx_folder("classes of another length", _put(1, lambda rng, old: _idx(np.zeros(7, np.uint8))), True),
        _idx_folder("a new class to test on", _put(3, lambda rng, old: _idx(np.full(4, 9, np.uint8))), True),
        _idx_folder("classes cut off", _put(1, lambda rng, old: old[:-2]), True),
        _idx_folder("pictures cut off", _put(0, lambda rng, old: cut_off(old, rng)), True),
        _idx_folder("more than it says", _put(0, lambda rng, old: old + b"\0"), True),
        _idx_folder("whole numbers for pictures", _put(0, lambda rng, old: _idx(np.zeros((9, 5, 5), ">i4"), 12)), True),
        _idx_folder("a test part of another size", _put(2, lambda rng, old: _idx(_pixels(rng, 4, 6, 6))), True),
        _idx_folder("terabytes by its head",
                    _put(0, lambda rng, old: old[:4] + struct.pack(">3I", 2**31, 2**12, 2**12) + old[16:]), True),
        _idx_folder("several to train on",
                    lambda rng, names, files: files.update({"emnist-train-images-idx3-ubyte": files[names[0]]}), True),
        _idx_folder("pictures to test on and choose by alone",
                    lambda rng, names, files: files.update({"val-images-idx3-ubyte": files.pop(names[0])}), True),
        _idx_folder("classes in QMNIST's format", _qmnist_labels, notes=["(?i)labels.*not read"],
                    labelled=(False, False)),
        refused_bytes("a gz bomb", "own-images-idx3-ubyte.gz", _idx_bomb),
        refused_bytes("no gz", "own-images-idx3-ubyte.gz", lambda rng: rng.bytes(300)),
        refused_bytes("cut off", "own-images-idx3-ubyte.gz",
                       lambda rng: cut_off(gzip.compress(_idx(_pixels(rng, 5, 5, 5))), rng)),
        refused_bytes("nothing", "own-images-idx3-ubyte", lambda rng: b""),
        refused_bytes("254 dimensions", "own-images-idx3-ubyte", lambda rng: bytes([0, 0, 8, 254]) + rng.bytes(100)),
    ]  # fmt: skip


# CIFAR-10's batches.

_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _cifar(what: str, spoil: Callable[[Generator], dict[bytes, Any] | bytes | None] | None = None) -> Make:
    """Make the six files; one of them has other content, or is missing."""

    def case(rng: Generator, folder: Path) -> Case:
        place = folder / "cifar"
        place.mkdir()
        parts: dict[str, list[Example]] = {"train": [], "test": []}
        names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
        for name in names:
            pixels, labels = _pixels(rng, 4, 3, 32, 32), rng.integers(0, 10, 4).tolist()
            (place / name).write_bytes(pickle.dumps({b"data": pixels.reshape(4, -1), b"labels": labels}, protocol=2))
            of_part = parts["test" if name == "test_batch" else "train"]
            of_part += _examples(pixels, [_CIFAR[k] for k in labels], axis=1)
        if spoil is None:
            return Case(what, str(place), parts, named=["cifar"])
        spoilt, content = place / names[rng.integers(1, 6)], spoil(rng)
        spoilt.unlink()
        if content is not None:
            spoilt.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
        return Case(what, str(place), refused=True, named=[spoilt.name])

    return case


def _batch(rng: Generator, **more: Any) -> dict[bytes, Any]:
    batch = {"data": _pixels(rng, 4, 3072), "labels": [0, 1, 2, 3], **more}
    return {key.encode(): value for key, value in batch.items() if value is not None}


def cifar_10() -> list[Make]:
    """Return the cases that are CIFAR-10's batches."""
    return [
        _cifar("good"),
        _cifar("a file is missing", lambda rng: None),
        _cifar("the class 10", lambda rng: _batch(rng, labels=[0, 1, 2, 10])),
        _cifar("the class -1", lambda rng: _batch(rng, labels=[0, 1, 2, -1])),
        _cifar("a class too few", lambda rng: _batch(rng, labels=[0, 1, 2])),
        _cifar("no classes", lambda rng: _batch(rng, labels=None)),
        _cifar("classes as words", lambda rng: _batch(rng, labels=["cat"] * 4)),
        _cifar("pictures of another size", lambda rng: _batch(rng, data=_pixels(rng, 4, 300))),
        _cifar("a list", lambda rng: pickle.dumps([1, 2], protocol=2)),
        _cifar("hostile", lambda rng: b"cos\nmkdir\n(S'sprung'\ntR."),
        _cifar("cut off", lambda rng: cut_off(pickle.dumps(_batch(rng), protocol=2), rng)),
        _cifar("noise", lambda rng: rng.bytes(100)),
    ]


# Parquet files.


def _parquet(
    what: str, columns: Callable[[Generator, str, list[Made]], tuple[dict[str, Any], dict[str, Any] | None]],
    named: Callable[[str, int], str | None], refused: bool = False, notes: Sequence[str] = (),
    spoil: Callable[[Generator, Path], Any] | None = None, pictures: Callable[[Generator], Made] = plain,
) -> Make:  # fmt: skip
    """Make a folder of two files; `columns` gives the columns of each part, and the class of each row."""

    def case(rng: Generator, folder: Path) -> Case:
        import datasets

        datasets.disable_progress_bars()
        place = folder / str(rng.choice(["parquet", "my [data]*", "a b,c"]))
        place.mkdir()
        form = _form(rng)
        parts: dict[str, list[Example]] = {}
        for part, count in (("train", 6), ("test", 4)):
            made = [pictures(rng) for _ in range(count)]
            table, features = columns(rng, part, made)
            described = None if features is None else datasets.Features(features)
            datasets.Dataset.from_dict(table, features=described).to_parquet(place / f"{part}-0-of-1.parquet")
            if not any(one.broken for one in made):
                parts[part] = [Example(truth(one.content, form).levels, named(part, n)) for n, one in enumerate(made)]
        if spoil is not None:
            spoil(rng, place)
        return Case(what, str(place), {} if refused else parts, form._asdict(), notes, refused, [place.name])

    return case


def _images(made: Sequence[Made]) -> list[dict[str, Any]]:
    return [{"bytes": one.content, "path": None} for one in made]


def _described(order: Mapping[str, Sequence[str]]) -> Callable[..., Any]:
    """Make pictures and numbered classes with the library's description; row `n` has the class `n % 2` of its part."""
    import datasets

    def columns(rng: Generator, part: str, made: list[Made]) -> tuple[dict[str, Any], dict[str, Any]]:
        table = {"image": _images(made), "label": [n % 2 for n in range(len(made))]}
        return table, {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(order[part]))}

    return columns


def _undescribed(label: Callable[[int], Any], name: str = "label") -> Callable[..., Any]:
    def columns(rng: Generator, part: str, made: list[Made]) -> tuple[dict[str, Any], None]:
        return {"image": _images(made), name: [label(n) for n in range(len(made))]}, None

    return columns


def parquet_files() -> list[Make]:
    """Return the cases that are Parquet files, if the library that reads them is installed."""
    try:
        import datasets  # noqa: F401
    except ImportError:
        return []
    same = {"train": ("cat", "dog"), "test": ("cat", "dog")}
    other = {"train": ("cat", "dog"), "test": ("dog", "cat")}
    more = {"train": ("cat", "dog"), "test": ("emu", "cat")}
    of = {"same": same, "other": other}
    words = ("zebra", "ant")

    def nothing(part: str, row: int) -> None:
        return None

    return [
        *[
            _parquet(f"{what} order of classes", _described(order), lambda part, n, o=order: o[part][n % 2])  # type: ignore[misc]
            for what, order in of.items()
        ],
        _parquet("a class of the test part alone", _described(more), nothing, refused=True),
        _parquet("numbers", _undescribed(lambda n: n % 3), lambda part, n: str(n % 3)),
        _parquet("words", _undescribed(lambda n: words[n % 2]), lambda part, n: words[n % 2]),
        _parquet("no classes", _undescribed(lambda n: "text", "caption"), nothing),
        _parquet("some classes missing", _undescribed(lambda n: None if n == 2 else 0), nothing, refused=True),
        _parquet("several columns of pictures",
                 lambda rng, part, made: ({"image": _images(made), "mask": _images(made)}, None), nothing, True),
        _parquet("no pictures", lambda rng, part, made: ({"text": ["a"] * len(made)}, None), nothing, refused=True),
        _parquet("a picture missing",
                 lambda rng, part, made: ({"image": [None, *_images(made)[1:]]}, None), nothing, refused=True),
        _parquet("text for pictures", _undescribed(lambda n: n), nothing, refused=True,
                 pictures=lambda rng: Made(b"text", "png", True)),
        _parquet("16-bit pictures", _described(same), nothing, refused=True, pictures=BROKEN[0]),
        _parquet("turned pictures", _described(same), lambda part, n: same[part][n % 2],
                 pictures=lambda rng: UNUSUAL[15](rng)),
        _parquet("moving pictures", _described(same), lambda part, n: same[part][n % 2],
                 notes=["files have several frames"], pictures=lambda rng: UNUSUAL[19](rng)),
        _parquet("cut off", _described(same), nothing, refused=True,
                 spoil=lambda rng, place: _shorten(place / "train-0-of-1.parquet", rng)),
        _parquet("empty file", _described(same), nothing, refused=True,
                 spoil=lambda rng, place: (place / "test-0-of-1.parquet").write_bytes(b"")),
        _parquet("a file of no part", _described(same), nothing, refused=True,
                 spoil=lambda rng, place: (place / "more.parquet").write_bytes(
                     (place / "train-0-of-1.parquet").read_bytes())),
        _empty_parquet_folder,
    ]  # fmt: skip


def _shorten(path: Path, rng: Generator) -> None:
    path.write_bytes(cut_off(path.read_bytes(), rng))


def _empty_parquet_folder(rng: Generator, folder: Path) -> Case:
    (folder / "own.parquet").mkdir()
    return Case("an empty folder", str(folder / "own.parquet"), refused=True, named=["own.parquet"])


# Splits, and paths that are nothing.


def _split(rng: Generator, folder: Path) -> Case:
    """Check that adding pictures moves none to another part, be they in folders that are there, or in a new one."""
    place = folder / "photos"
    form = Form()
    labels: list[str] = [["cat", "dog", "emu"], [""], ["2024"]][rng.integers(3)]
    new = rng.choice([*labels, "new"], 25 * len(labels)).tolist() if labels != [""] else [""] * 25
    entries = [
        Entry(f"{label}/{n}.png".lstrip("/"), plain(rng), label=label if len(labels) > 1 else None)
        for label in labels
        for n in range(40)
    ]
    _write(place, entries)
    parts, _ = _expected(entries, form, False)
    options = {**form._asdict(), "test_share": 0.2, "split_seed": int(rng.integers(9)), "validation": 0.15, "fold": 1}

    def then(before: Any, load: Callable[[], Any]) -> str | None:
        again = load()
        if not all(
            np.array_equal(getattr(before, part).numpy(), getattr(again, part).numpy())
            for part in ("train", "validation", "test")
        ):
            return "two readings differ"
        _write(place, [Entry(f"{label}/new {n}.png".lstrip("/"), plain(rng)) for n, label in enumerate(new)])
        after = load()
        for part in ("train", "validation", "test"):
            then, now = ({row.tobytes() for row in getattr(each, part).numpy()} for each in (before, after))
            if not then <= now:
                return f"{len(then - now)} examples left the {part} part"
        return None

    return Case("adding pictures", str(place), parts, options, named=["photos"], then=then)


def _no_place(what: str, place: str, named: str, **options: Any) -> Make:
    return lambda rng, folder: Case(what, place, options=options, refused=True, named=[named])


def _file_of(what: str, name: str, content: Callable[[Generator], bytes]) -> Make:
    return refused_bytes(what, name, content)


def splits_and_places() -> list[Make]:
    """Return the cases of splits, and of paths that are nothing we read."""
    return [
        *[_split] * 3,
        _no_place("nothing there", "/no/such place", "/no/such place"),
        _no_place("no such user", "~nobody-of-this-name/x", "~nobody-of-this-name"),
        _no_place("a long name", "x" * 5000, "xxx"),
        _no_place("a null byte", "a\0b", "a"),
        _no_place("two lines", "a\nb", "a\\nb"),
        _file_of("text", "notes.txt", lambda rng: b"text"),
        _file_of("a picture alone", "one.png", lambda rng: plain(rng).content),
        _file_of("a tar archive", "photos.tar.gz", lambda rng: rng.bytes(100)),
    ]
