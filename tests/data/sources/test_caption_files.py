"""Captions beside one's own pictures are read, whatever way they are kept, or refused in one line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score_sde.common.errors import UserError
from score_sde.data import arrays_dataset, load_dataset


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of twenty pictures, of which the brightness is the number."""
    (tmp_path / "a").mkdir()
    for number in range(20):
        Image.new("L", (8, 8), 10 * number).save(tmp_path / "a" / f"{number}.png")
    return tmp_path


def text(number: int) -> str:
    """Return a caption of words that other captions have, too."""
    return f"grey of {number // 10} and {number % 10}"


def of(dataset) -> dict[str, int]:
    """Return the brightness of each picture by its caption."""
    found: dict[str, int] = {}
    for part in ("train", "test"):
        captions = dataset.condition_units["caption"].text(dataset.conditions[part]["caption"])
        pictures = getattr(dataset, part)
        found |= {caption: int(picture.flatten()[0]) for caption, picture in zip(captions, pictures, strict=True)}
    return found


WANTED = {text(number): 10 * number for number in range(20)}


def written_beside(folder: Path) -> None:
    for number in range(20):
        (folder / "a" / f"{number}.txt").write_text(f"{text(number)}\n", encoding="utf-8")


def written_as_lines(folder: Path) -> None:
    rows = [{"file_name": f"a/{number}.png", "text": text(number)} for number in range(20)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def written_as_table(folder: Path) -> None:
    rows = [f'{number}.png,"{text(number)}"' for number in range(20)]
    (folder / "a" / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]), encoding="utf-8")


@pytest.mark.parametrize("write", [written_beside, written_as_lines, written_as_table])
def test_each_picture_has_its_own_caption(write, pictures):
    write(pictures)
    dataset = load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)
    assert (len(dataset.train), len(dataset.test)) == (18, 2)
    assert of(dataset) == WANTED


def test_captions_are_packed_with_the_pictures(pictures, tmp_path):
    """Of both kinds in one archive, the text beside a picture is the nearer; what is damaged is named."""
    written_as_table(pictures)
    (pictures / "a" / "7.txt").write_text("grey of\n0 and 7", encoding="utf-8")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", pictures))
    assert of(load_dataset(path=packed, folder=tmp_path / "kept", num_channels=1)) == WANTED
    (pictures / "a" / "metadata.csv").write_bytes(b"\xff\xfe")
    damaged = Path(shutil.make_archive(str(tmp_path / "damaged"), "zip", pictures))
    with pytest.raises(UserError, match=r"damaged.zip/a/metadata.csv: captions are text in UTF-8"):
        load_dataset(path=damaged, folder=tmp_path / "kept", num_channels=1)


def test_pictures_without_captions_have_none(pictures):
    assert not load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1).condition_units


def test_what_is_missing_or_damaged_is_named(pictures):
    written_beside(pictures)
    (pictures / "a" / "7.txt").unlink()
    with pytest.raises(UserError, match=r"7.png has no caption, and other pictures have: write it into 7.txt"):
        load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)
    (pictures / "metadata.jsonl").write_text('{"file_name": "a/7.png", "text": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="row 1: it has to say file_name and text"):
        load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)
    (pictures / "metadata.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: it is no JSON"):
        load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)
    (pictures / "metadata.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="captions are text in UTF-8"):
        load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)


def test_arrays_have_captions_under_that_name(tmp_path):
    x = np.repeat(np.arange(0, 200, 10, dtype=np.uint8), 64).reshape(20, 8, 8)
    captions = [text(number) for number in range(20)]
    np.savez(tmp_path / "data.npz", x=x, captions=np.array(captions))
    for dataset in (
        load_dataset(path=tmp_path / "data.npz", folder=tmp_path),
        arrays_dataset(x, {"caption": captions}, folder=tmp_path),
    ):
        assert of(dataset) == WANTED
    with pytest.raises(UserError, match="has to hold captions, one text for each of 20 examples"):
        arrays_dataset(x, {"caption": np.arange(20.0)})


def test_captions_may_go_over_several_lines_and_those_of_other_pictures_are_refused(pictures):
    rows = [f'{number}.png,"grey of\n{number // 10} and {number % 10}"' for number in range(20)]
    table = pictures / "a" / "metadata.csv"
    table.write_text("\n".join(["\ufefffile_name,caption", *rows]), encoding="utf-8")
    assert of(load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)) == WANTED
    table.rename(pictures / "metadata.csv")
    with pytest.raises(UserError, match=r"metadata|are of 0.png and the like, and there is no such picture"):
        load_dataset(path=pictures, folder=pictures.parent / "kept", num_channels=1)


def written_as_parquet(path: Path, **columns) -> Path:
    """Write pictures of the same brightness, with columns beside, as the library datasets stores them."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    from pyarrow.parquet import write_table

    pictures = []
    for number in range(20):
        file = io.BytesIO()
        Image.new("L", (8, 8), 10 * number).save(file, "png")
        pictures.append({"bytes": file.getvalue(), "path": f"{number}.png"})
    write_table(pyarrow.table({"image": pictures, **columns}), path)
    return path


def test_a_column_of_a_table_of_pictures_has_the_captions(tmp_path):
    captions = [text(number) for number in range(20)]
    lines = ["grey of\n" + text(number).removeprefix("grey of ") for number in range(20)]
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"text": captions}, {}),
        ({"caption": lines, "text": ["other"] * 20}, {}),
        ({"prose": captions, "caption": ["other"] * 20}, {"condition": "prose"}),
    ]
    for columns, asked in cases:
        path = written_as_parquet(tmp_path / "own.parquet", **columns)
        dataset = load_dataset(path=path, folder=tmp_path / "kept", num_channels=1, **asked)
        assert of(dataset) == WANTED
        assert any("are not read, but those of" in note for note in dataset.notes) == (len(columns) == 2)
    plain = written_as_parquet(tmp_path / "own.parquet", caption=[None] * 20, text=[["a", "b"]] * 20)
    dataset = load_dataset(path=plain, folder=tmp_path / "kept", num_channels=1)
    assert not dataset.condition_units


def test_a_column_that_has_not_all_captions_or_no_texts_is_refused(tmp_path):
    captions = [text(number) for number in range(20)]
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"text": [None, *captions[1:]]}, {}, "column text has no caption for 1 of 20 rows, first row 0"),
        (
            {"prose": captions},
            {"condition": "pros"},
            r"one column of texts \(prose\), not on pros .did you mean 'prose'",
        ),
        ({"number": list(range(20))}, {"condition": "number"}, r"one column of texts \(it has none\), not on number"),
    ]
    for columns, asked, line in cases:
        path = written_as_parquet(tmp_path / "own.parquet", **columns)
        with pytest.raises(UserError, match=line):
            load_dataset(path=path, folder=tmp_path / "kept", num_channels=1, **asked)
