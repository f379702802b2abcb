"""Published datasets of photographs, as folders of images that users have downloaded.

datasets/celeba/train/…, test/…
"""

from __future__ import annotations

from pathlib import Path

from data.image_files import find_image_files
from data.pictures import PictureFormat, prepare
from data.split import Parts
from errors import UserError

# Where the images of each dataset are found.
SOURCES = {
    "images": "put images there, or say where they are: --config.data.path=FOLDER",
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


def load_image_folder(name: str, folder: Path, image_size: int | None, skip_damaged: bool = False) -> Parts:
    """The images `(N, 3, image_size, image_size)`, 256 levels, of the dataset `name`, a key of `SOURCES`.

    Args:
        name: of the dataset.
        folder: contains a folder of this name; what was read is kept there, too.
        image_size: height and width to resize to.
        skip_damaged: leave out images that cannot be read.

    Raises:
        UserError: there are no images, some are damaged, or no size is given.
    """
    if image_size is None:
        raise UserError(f"images of {name} are resized: give their height and width, as in --config.data.image_size=64")
    train = folder / name / "train"
    if not train.is_dir() or not any(train.rglob("*")):
        test = folder / name / "test"
        raise UserError(f"there are no images in {train}; {SOURCES[name]} (those to test on, if any, in {test})")
    pictures, test_pictures = find_image_files(folder / name)
    form = PictureFormat(image_size, crop=_CROPS.get(name))
    return prepare(pictures, test_pictures, form, folder / "prepared", skip_damaged=skip_damaged)
