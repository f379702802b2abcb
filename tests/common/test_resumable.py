"""Work in parts: done once, found again, and done again where it was damaged or is of something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from score_sde.common.resumable import digest, in_parts, remove_parts


class Squares:
    """Computes squares of the rows; remembers what it was asked, and what was reported found."""

    def __init__(self) -> None:
        self.asked: list[range] = []
        self.found: list[bool] = []

    def __call__(self, folder: Path, about: str = "squares", stop_before: int = 99) -> list[float]:
        def work(rows: range) -> dict[str, np.ndarray]:
            if rows.start >= stop_before:
                raise KeyboardInterrupt
            self.asked.append(rows)
            return {"square": np.square(rows, dtype=float)}

        parts = in_parts(folder, {"about": about}, 7, 2, work, lambda part, found: self.found.append(found))
        return np.concatenate([part["square"] for part in parts]).tolist()


def test_a_second_run_does_the_rest(tmp_path):
    squares = Squares()
    with pytest.raises(KeyboardInterrupt):
        squares(tmp_path / "parts", stop_before=4)
    assert squares(tmp_path / "parts") == [0, 1, 4, 9, 16, 25, 36]
    assert squares.asked == [range(0, 2), range(2, 4), range(4, 6), range(6, 7)]
    assert squares.found == [False, False, True, True, False, False]
    remove_parts(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("keep", [0, 10, 100, -1])
def test_a_truncated_part_is_done_again(tmp_path, keep):
    Squares()(tmp_path)
    path = tmp_path / "0000002.npz"
    path.write_bytes(path.read_bytes()[:keep])
    again = Squares()
    assert again(tmp_path) == [0, 1, 4, 9, 16, 25, 36]
    assert again.asked == [range(2, 4)]


def test_parts_of_something_else_are_thrown_away(tmp_path):
    Squares()(tmp_path, about="others")
    again = Squares()
    again(tmp_path)
    assert len(again.asked) == 4


def test_a_pickle_among_the_parts_is_not_run(tmp_path):
    Squares()(tmp_path)
    np.savez(tmp_path / "0000002.npz", square=np.array([print], dtype=object))
    again = Squares()
    assert again(tmp_path)[2:4] == [4, 9]


def test_digest_tells_contents_apart():
    a, b = torch.arange(6.0), torch.arange(6.0)
    assert digest(a, b) == digest(b, a.clone())
    b[3] += 1e-6
    assert digest(a, a) != digest(a, b)
