"""What is noticed of pictures while they are read, told in a few lines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from score_sde.data.words import listed

if TYPE_CHECKING:
    from score_sde.data.sources.picture import Converted


class Report:
    """Collects what is noticed of pictures while they are read, each with its place.

    Attributes:
        damaged: what is wrong with each picture that cannot be read.
        transparent: pictures that were laid on the background in places.
        more_frames: pictures with further frames, which are not read.
        changes: how many pictures were cropped, padded, stretched or enlarged.
        sizes: how many of these there were of each height and width, before.
    """

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}
        self.transparent: list[str] = []
        self.more_frames: list[str] = []
        self.changes: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.count = 0
        self.shape = (0, 0)

    def add(self, place: str, picture: Converted | str) -> None:
        """Note what there is to say of one picture."""
        if isinstance(picture, str):
            self.damaged[place] = picture
            return
        if picture.transparent:
            self.transparent.append(place)
        if picture.more_frames:
            self.more_frames.append(place)
        self.count += 1
        self.shape = picture.levels.shape[1], picture.levels.shape[2]
        if picture.changes:
            self.changes.update(picture.changes)
            self.sizes[picture.original] += 1

    def notes(self, background: tuple[int, int, int]) -> list[str]:
        """Return a line for each kind of thing that was noticed."""
        notes = []
        if self.damaged:
            notes.append(f"skipped {len(self.damaged)} pictures that cannot be read: {self.reasons()}")
        if self.transparent:
            colour = "#{:02x}{:02x}{:02x}".format(*background)
            notes.append(
                f"{len(self.transparent)} pictures are transparent in places, and were laid on {colour} "
                f"(background): {listed(self.transparent)}"
            )
        if self.more_frames:
            notes.append(
                f"{len(self.more_frames)} files have several frames, of which the first was read: "
                f"{listed(self.more_frames)}"
            )
        if self.changes:
            what = ", ".join(f"{number} {change}" for change, number in self.changes.most_common())
            sizes = listed(f"{height} x {width}" for (height, width), _ in self.sizes.most_common())
            height, width = self.shape
            notes.append(
                f"of {self.count} pictures, brought to {height} x {width} (height x width), {what}; these were {sizes}"
            )
        return notes

    def reasons(self) -> str:
        """List the damaged pictures, with what is wrong with them."""
        return listed(f"{place} ({reason})" for place, reason in self.damaged.items())
