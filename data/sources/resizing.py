r"""A picture brought from `h x w` to a size `H x W`, in one of these ways; all but the last scale by Lanczos's filter:

crop    by s = max(H / h, W / w), so that it covers the size, of which the middle is cut
pad     by s = min(H / h, W / w), so that it lies within, in the middle of the background
fit     by H / h and W / w: stretched
none    not at all; it must have this size
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from score_sde.data.sources.picture_format import PictureFormat, Unreadable

if TYPE_CHECKING:
    from PIL import Image


def middle(picture: Image.Image, form: PictureFormat) -> Image.Image:
    """Return the middle of a picture that has the aspect asked for, if it is to be cropped; else all of it."""
    width, height = picture.size
    if form.crop is not None:
        width, height = min(width, height, form.crop), min(width, height, form.crop)
    if form.resize == "crop" and form.shape is not None:
        wanted_height, wanted_width = form.shape
        if width * wanted_height > height * wanted_width:
            width = max(1, round(height * wanted_width / wanted_height))
        else:
            height = max(1, round(width * wanted_height / wanted_width))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def resized(picture: Image.Image, form: PictureFormat) -> tuple[Image.Image, tuple[str, ...]]:
    """Bring a picture, which is cut already, to the size asked for; return it, and what was done.

    Raises:
        Unreadable: it has another size, and is not to be resized.
    """
    from PIL import Image

    if form.shape is None or picture.size == form.shape[::-1]:
        return picture, ()
    height, width = form.shape
    if form.resize == "none":
        raise Unreadable(f"it is {picture.height} x {picture.width}, not {height} x {width}")
    within = (width, height)
    if form.resize == "pad":
        scale = min(height / picture.height, width / picture.width)
        within = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    enlarged = ("enlarged",) if within[0] > picture.width or within[1] > picture.height else ()
    stretched = form.resize == "fit" and picture.width * height != picture.height * width
    if within != picture.size:
        picture = picture.resize(within, Image.Resampling.LANCZOS)
    if within == (width, height):
        return picture, (("stretched",) if stretched else ()) + enlarged
    behind = Image.new("RGB", (width, height), form.background).convert(picture.mode)
    behind.paste(picture, ((width - within[0]) // 2, (height - within[1]) // 2))
    return behind, ("padded", *enlarged)
