"""GIFs are read back: their frames, how long each is shown, and that they begin again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageSequence

from score_sde.common.animation import animate, evenly
from score_sde.common.errors import UserError


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_are_read_back(tmp_path, channels: int) -> None:
    frames = [np.full((6, 9, channels), 50 * k, dtype=np.uint8) for k in range(5)]
    for k, frame in enumerate(frames):
        frame[k, k:] = 255
        if channels == 4:
            frame[..., 3] = 255
    animate(frames, tmp_path / "new" / "path.gif", seconds=3)
    with Image.open(tmp_path / "new" / "path.gif") as image:
        assert image.info["loop"] == 0
        read = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
    assert len(read) == 5
    for frame, (found, _) in zip(frames, read, strict=True):
        # Few colours, so that the palette has them all.
        assert (found == (np.repeat(frame, 3, axis=2) if channels == 1 else frame[..., :3])).all()
    durations = [duration for _, duration in read]
    assert durations == [200, 200, 200, 200, 2200]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["path.gif"]


def test_frames_are_not_shown_faster_than_browsers_can(tmp_path) -> None:
    animate([np.full((2, 2, 3), k, dtype=np.uint8) for k in (0, 255)], tmp_path / "quick.gif", seconds=1e-3)
    with Image.open(tmp_path / "quick.gif") as image:
        assert image.info["duration"] == 20


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((2, 2, 3))],
        [np.zeros((2, 2), dtype=np.uint8)],
        [np.zeros((2, 2, 2), dtype=np.uint8)],
        [np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((2, 3, 3), dtype=np.uint8)],
    ],
)
def test_what_is_no_frame_is_refused(tmp_path, frames) -> None:
    with pytest.raises(ValueError, match=r"an animation needs|a frame has shape"):
        animate(frames, tmp_path / "none.gif", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        animate([np.zeros((2, 2, 3), dtype=np.uint8)], tmp_path / "file" / "path.gif", 1)


def test_states_are_chosen_evenly_in_log_snr() -> None:
    # All are shown where they are few.
    assert evenly([-3.0, 0.0, math.inf], 5) == [0, 1, 2]
    # Steps of 1 from -10 to 10, then of 0.01: every fifth of the first, and no more than one of the rest.
    values = [*np.arange(-10.0, 10.0), *np.arange(10.0, 11.0, 0.01)]
    assert evenly([*values, math.inf], 6) == [0, 5, 10, 16, 119, 120]
    assert evenly(values, 5) == [0, 5, 10, 16, 119]
    assert evenly(values, 2) == [0, 119]
    assert evenly([*values, math.inf], 2) == [0, 120]
    with pytest.raises(ValueError, match="at least 2 frames: there are 1 states, and 3 are wanted"):
        evenly([0.0], 3)
    with pytest.raises(ValueError, match="and 1 are wanted"):
        evenly(values, 1)
