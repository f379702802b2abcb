"""Files are written whole or not at all."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Make writing more than this fail within the block, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text)


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "new"
    assert [child.name for child in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(TypeError):
        write(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_is_a_user_error(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with files_no_larger_than(10), pytest.raises(UserError, match=r"cannot write .*file\.txt"):
        write(path, "x" * 11)
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write"), write_atomically(tmp_path / "taken" / "file.txt"):
        pass


def test_files_are_readable_by_those_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "file.txt") as temporary:
            temporary.write_text("")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640
