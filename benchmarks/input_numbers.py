"""Numbers of every shape, tables and HDF5 files, and pictures brought to sizes: cases as those of `input_cases`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageColor

from benchmarks.input_cases import Case, Example, Make, cut_off, good_numbers, refused_array, refused_bytes

# Shapes of an example.
_SHAPES = {"series": (2, 7), "fields": (1, 5, 6), "fields of 3 channels": (3, 5, 6), "volumes": (1, 3, 4, 5)}


def _draw(rng: Generator, shape: Sequence[int], count: int = 12) -> np.ndarray:
    return rng.standard_normal((count, *shape))


def shapes() -> list[Make]:
    """Return the cases that are NumPy files of series, fields and volumes."""

    def good(what: str, shape: Sequence[int], change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Make:
        notes = ["has series, of 2 channels and 7 steps"] if len(shape) == 2 else []
        return good_numbers(what, lambda rng: change(_draw(rng, shape)), notes)

    def levels(rng: Generator, folder: Path) -> Case:
        array = rng.integers(0, 256, (6, 1, 3, 4, 5), dtype=np.uint8)
        np.save(folder / "own.npy", array)
        return Case("volumes of levels", str(folder / "own.npy"), {"train": list(map(Example, array))}, named=["own"])

    def whole_numbers(dtype: str) -> Callable[[Generator], np.ndarray]:
        return lambda rng: rng.integers(0, 99, (6, 5, 5)).astype(dtype)

    return [
        *[good(what, shape) for what, shape in _SHAPES.items()],
        *[good(f"{what} in float16", shape, lambda z: z.astype("f2")) for what, shape in _SHAPES.items()],
        good("mean 5000, deviation 700", (1, 5, 6), lambda z: 5000 + 700 * z),
        good("channels of 1 and 1000", (2, 7), lambda z: z * [[1], [1000]]),
        good("Fortran order", (1, 3, 4, 5), np.asfortranarray),
        levels,
        *[
            good_numbers(f"whole {dtype}", whole_numbers(dtype), ["has series", "whole"])
            for dtype in ("f2", "f4", "f8")
        ],
        good_numbers("pictures divided by 255", lambda rng: rng.integers(0, 256, (6, 1, 5, 5)) / 255, ["1/255"]),
        refused_array("channels last", lambda rng: _draw(rng, (6, 6, 3))),
        refused_array("volumes with channels last", lambda rng: _draw(rng, (6, 6, 6, 1))),
        refused_array("a constant channel", lambda rng: _draw(rng, (2, 7)) * [[1], [0]]),
        refused_array("NaN", lambda rng: np.where(np.arange(7) == 3, np.nan, _draw(rng, (2, 7)))),
        refused_array("1e8 + N(0, 1) in float32", lambda rng: (1e8 + _draw(rng, (1, 5, 6))).astype("f4")),
        refused_array("whole numbers", lambda rng: rng.integers(0, 99, (6, 2, 5, 6))),
        refused_array("volumes of levels resized", lambda rng: rng.integers(0, 9, (6, 1, 3, 4, 5), "u1"), image_size=3),
        refused_array("fields resized", lambda rng: _draw(rng, (1, 5, 6)), image_size=3),
    ]


# Tables.

_NAMES = ("height", "a b", "köln", "x,y", "日本", "#7", '"', "Class of 1999")


def _table(
    what: str,
    spoil: Callable[[Generator, dict[str, Any]], Any] | None = None,
    refused: Sequence[str] = (),
    labels: tuple[str, Callable[[int], Any]] | None = None,
    notes: Sequence[str] = (),
) -> Make:
    """Make a table of some columns, as `.csv` or parquet; refusals must have one of the words."""

    def case(rng: Generator, folder: Path) -> Case:
        import pandas as pd

        names = [str(name) for name in rng.choice(_NAMES, int(rng.integers(2, 5)), replace=False)]
        numbers = _draw(rng, (len(names),), 20) * 10.0 ** rng.integers(-6, 7, len(names))
        columns: dict[str, Any] = {name: numbers[:, k] for k, name in enumerate(names)}
        if spoil is not None:
            spoil(rng, columns)
        if not refused:
            numbers = np.stack([np.asarray(column, dtype=np.float64) for column in columns.values()], 1)
        classes = None if labels is None else [labels[1](row) for row in range(20)]
        if labels is not None:
            at = int(rng.integers(len(columns) + 1))
            items = list(columns.items())
            columns = dict([*items[:at], (labels[0], classes), *items[at:]])
        frame = pd.DataFrame(columns)
        place = folder / ("own.csv" if rng.random() < 0.6 else "own.parquet")
        frame.to_csv(place, index=False) if place.suffix == ".csv" else frame.to_parquet(place)
        if refused:
            return Case(what, str(place), refused=True, named=refused)
        of_rows = [None] * 20 if classes is None else map(str, classes)
        examples = [Example(row, name) for row, name in zip(numbers, of_rows, strict=True)]
        return Case(what, str(place), {"train": examples}, {}, ["has vectors of", *notes], named=["own."])

    return case


def tables() -> list[Make]:
    """Return the cases that are tables, if the library that reads them is installed."""
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        return []

    def missing(rng: Generator, columns: dict[str, Any]) -> None:
        columns["age"] = [float(row) if row != 7 else None for row in range(20)]

    return [
        *[_table("numbers")] * 3,
        _table("words for classes", labels=("class", lambda row: ("cat", "köln")[row % 2]), notes=["as the class"]),
        _table("numbers for classes", labels=("Label", lambda row: row % 4 + 7), notes=["as the class"]),
        _table("whole numbers", lambda rng, columns: columns.update(n=np.arange(20) % 7), notes=["only in column n:"]),
        _table("text", lambda rng, columns: columns.update(who=["x", "y"] * 10), ["column who"]),
        _table("dates", lambda rng, columns: columns.update(day=["2020-01-02"] * 20), ["column day"]),
        _table("truths", lambda rng, columns: columns.update(is_on=[True, False] * 10), ["column is_on"]),
        _table("a missing number", missing, ["column age has no value in row 7"]),
        _table("infinite", lambda rng, columns: columns.update(big=[1.5, np.inf] * 10), ["column big"]),
        _table("a constant column", lambda rng, columns: columns.update(same=1.5), ["column same"]),
        refused_bytes("no head", "own.csv", lambda rng: b"1.5,2\n2.5,3\n3.5,4\n"),
        refused_bytes("semicolons", "own.csv", lambda rng: b"a;b\n1,5;2\n2,5;3\n"),
        refused_bytes("an index without a name", "own.csv", lambda rng: b",a\n0,1.5\n1,2.5\n2,0.5\n"),
        refused_bytes("a long line", "own.csv", lambda rng: b"a,b\n1,2.5\n2,3.5,4\n3,1.5\n"),
        refused_bytes("long lines", "own.csv", lambda rng: b"a,b\n1,2.5,7\n2,3.5,4\n3,1.5,2\n"),
        refused_bytes("nothing", "own.csv", lambda rng: b""),
        refused_bytes("noise", "own.csv", lambda rng: rng.bytes(300)),
        refused_bytes("noise", "own.parquet", lambda rng: rng.bytes(300)),
    ]


# HDF5 files.


def hdf5_files() -> list[Make]:
    """Return the cases that are HDF5 files, if the library that reads them is installed."""
    try:
        import h5py
    except ImportError:
        return []

    def written(folder: Path, **datasets: Any) -> str:
        with h5py.File(folder / "own.h5", "w") as file:
            for name, values in datasets.items():
                file[name.replace("__", "/")] = values
        return str(folder / "own.h5")

    def parts(rng: Generator, folder: Path) -> Case:
        z, labels = _draw(rng, (2, 7), 10), ["cat", "dog"] * 5
        place = written(folder, train__x=z[:6], train__y=labels[:6], test__x=z[6:], test__y=labels[6:], mean=3.0)
        examples = [Example(*row) for row in zip(z, labels, strict=True)]
        return Case("parts", place, {"train": examples[:6], "test": examples[6:]}, {}, ["mean are not read"])

    def pictures(rng: Generator, folder: Path) -> Case:
        pixels = rng.integers(0, 256, (8, 5, 7), dtype=np.uint8)
        return Case("pictures", written(folder, images=pixels), {"train": [Example(row[None]) for row in pixels]})

    def unknown(rng: Generator, folder: Path) -> Case:
        return Case("unknown names", written(folder, stuff=_draw(rng, (3,))), refused=True, named=["own.h5"])

    def cut(rng: Generator, folder: Path) -> Case:
        place = Path(written(folder, x=_draw(rng, (3,))))
        place.write_bytes(cut_off(place.read_bytes(), rng))
        return Case("cut off", str(place), refused=True, named=["own.h5"])

    return [parts, pictures, unknown, cut, refused_bytes("noise", "own.hdf5", lambda rng: rng.bytes(300))]


# Sizes.


def _brought(pixels: np.ndarray, height: int, width: int, resize: str, colour: tuple[int, ...]) -> np.ndarray:
    """Bring pixels `(h, w, 3)` to a size, with PIL and NumPy alone."""

    def scaled(array: np.ndarray, to: tuple[int, int]) -> np.ndarray:
        if array.shape[:2] == to:
            return array
        picture = Image.fromarray(np.ascontiguousarray(array))
        return np.asarray(picture.resize(to[::-1], Image.Resampling.LANCZOS))

    if resize == "fit":
        return scaled(pixels, (height, width))
    if resize == "crop":
        size = list(pixels.shape[:2])
        narrow = int(size[1] / size[0] > width / height)
        size[narrow] = max(1, round(size[1 - narrow] * (width / height if narrow else height / width)))
        corner = [(all_of_it - part) // 2 for all_of_it, part in zip(pixels.shape[:2], size, strict=True)]
        cut = pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        return scaled(cut, (height, width))
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    inner = scaled(pixels, (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))))
    whole = np.full((height, width, 3), colour, np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def _sized(resize: str) -> Make:
    def case(rng: Generator, folder: Path) -> Case:
        (folder / "photos").mkdir()
        height, width = int(rng.integers(2, 12)), int(rng.integers(2, 12))
        behind = str(rng.choice(["white", "#10f080"]))
        examples = []
        for number in range(6):
            pixels = rng.integers(0, 256, (*rng.integers(1, 20, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
            brought = _brought(pixels, height, width, resize, ImageColor.getrgb(behind))
            examples.append(Example(brought.transpose(2, 0, 1)))
        options = {"image_size": height, "image_width": width, "resize": resize, "background": behind}
        notes = [rf"^of 6 pictures, brought to {height} x {width} "]
        return Case(resize, str(folder / "photos"), {"train": examples}, options, notes, named=["photos"])

    return case


def _as_they_are(rng: Generator, folder: Path) -> Case:
    (folder / "photos").mkdir()
    pixels = rng.integers(0, 256, (6, *rng.integers(1, 20, 2), 3), dtype=np.uint8)
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(folder / "photos" / f"{number}.png")
    examples = [Example(one.transpose(2, 0, 1)) for one in pixels]
    return Case("as they are", str(folder / "photos"), {"train": examples}, named=["photos"])


def _of_two_sizes(rng: Generator, folder: Path) -> Case:
    (folder / "photos").mkdir()
    for number in range(6):
        pixels = rng.integers(0, 256, (5, 7 if number else 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return Case(
        "of two sizes", str(folder / "photos"), options={"test_share": 0.0}, refused=True, named=["0.png is 5 x 8"]
    )


def sizes() -> list[Make]:
    """Return the cases of pictures that are brought to a size, or keep theirs."""
    return [*[_sized(resize) for resize in ("crop", "pad", "fit")] * 2, _as_they_are, _of_two_sizes]
