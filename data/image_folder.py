"""Images in a folder: PNG or JPEG files below `train/`, and below `test/` if there is one.

Each is cropped to the largest square in its middle and resized. The first reading writes the result beside the files as
one array, which later readings map into memory: a dataset may be larger than that.

    datasets/celeba/train/…, test/…                 what was downloaded
    datasets/celeba/train_64x64_162770.npy          (N, C, H, W) uint8, for this size and number of files
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from data.split import Parts
from errors import UserError
from files import write_atomically

# Where the images of each dataset are found.
SOURCES = {
    "images": "put images there",
    "celeba": (
        "download img_align_celeba from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and put its images there"
    ),
    "lsun_bedroom": "download bedroom_train from https://www.yf.io/p/lsun, export its images, and put them there",
    "lsun_church": "download church_outdoor_train from https://www.yf.io/p/lsun, export its images, and put them there",
    "ffhq": "download images1024x1024 from https://github.com/NVlabs/ffhq-dataset and put its images there",
    "celebahq": (
        "make CelebA-HQ as https://github.com/tkarras/progressive_growing_of_gans says and put its images there"
    ),
}

# Side of the square that is cut out of the middle, where it is not the largest possible.
_CROPS = {"celeba": 140}
_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_image_folder(name: str, folder: Path, image_size: int | None) -> Parts:
    """The images `(N, 3, image_size, image_size)`, 256 levels, of the dataset `name`, a key of `SOURCES`.

    Args:
        name: of the dataset.
        folder: contains a folder of this name.
        image_size: height and width to resize to.

    Raises:
        UserError: there are no images, one of them is damaged, or no size is given.
    """
    if image_size is None:
        raise UserError(f"images of {name} are resized: give their height and width, as in --config.data.image_size=64")
    train, test = folder / name / "train", folder / name / "test"
    if not _images_in(train):
        raise UserError(
            f"there are no PNG or JPEG images in {train}; {SOURCES[name]} (those to test on, if any, in {test})"
        )
    crop = _CROPS.get(name)
    return Parts(_read(train, image_size, crop), _read(test, image_size, crop), 256)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _read(folder: Path, size: int, crop: int | None) -> Tensor:
    """All images of a folder, `(N, 3, size, size)`; mapped from a file, which is written first if need be."""
    paths = _images_in(folder)
    if not paths:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    stored = folder.with_name(f"{folder.name}_{size}x{size}_{len(paths)}.npy")
    if not stored.exists():
        with write_atomically(stored) as temporary:
            array = open_memmap(temporary, "w+", np.uint8, (len(paths), 3, size, size))
            for row, path in enumerate(tqdm(paths, desc=f"reading {folder}", disable=None)):
                array[row] = _read_image(path, size, crop)
            array.flush()
    try:
        return torch.from_numpy(np.load(stored, mmap_mode="c"))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {stored}: {error}; remove it, and it is made again") from error


def _read_image(path: Path, size: int, crop: int | None) -> np.ndarray:
    """One image `(3, size, size)`."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            side = min(width, height, crop or max(width, height))
            left, top = (width - side) // 2, (height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"cannot read the image {path}: {error}; remove or replace it") from error
    if side != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square).transpose(2, 0, 1)
