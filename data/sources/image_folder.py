"""Published datasets of photographs, as folders of images that users have downloaded.

datasets/celeba/train/…, test/…
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from score_sde.common.errors import UserError
from score_sde.data.sources.image_files import find_image_files
from score_sde.data.sources.pictures import load_pictures
from score_sde.data.sources.reading import Reading
from score_sde.data.split import Parts

# Where the images of each dataset are found.
SOURCES = {
    "images": "put images there, or say where they are: path=FOLDER",
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

# The side of the square that is cut out of the middle of images, where it is not the largest possible.
_CROPS = {"celeba": 140}


def load_image_folder(name: str, folder: Path, reading: Reading) -> Parts:
    """Load the images `(N, 3, image_size, image_size)`, 256 levels, of a dataset.

    Args:
        name: the name of the dataset, a key of `SOURCES`.
        folder: the folder that contains one of this name; what was read is kept there, too.
        reading: how images are read, except that they are in colour, of 256 levels, and those to test on lie apart.

    Raises:
        UserError: there are no images, some are damaged, or no size is given.
    """
    if reading.image_size is None:
        raise UserError(f"images of {name} are resized: give their height and width, as in image_size=64")
    train = folder / name / "train"
    if not train.is_dir() or not any(train.rglob("*")):
        test = folder / name / "test"
        raise UserError(f"there are no images in {train}; {SOURCES[name]} (those to test on, if any, in {test})")
    whole = replace(reading, num_channels=3, levels=256, crop=_CROPS.get(name), test_share=0.0)
    return load_pictures(find_image_files(folder / name), name, whole)
