"""Folders of images: what is read of each, and what is said when there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde.common.errors import UserError
from score_sde.data import load_dataset
from score_sde.experiment import configuration
from tests.reading import ROOT


def save(path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def random_pixels(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_images_of_the_right_size_are_read_as_they_are(tmp_path):
    wanted = [random_pixels(seed, 4, 4) for seed in range(3)]
    for pixels, name in zip(wanted, ("a/0.png", "a/1.PNG", "b/0.png"), strict=True):
        save(tmp_path / "ffhq" / "train" / name, pixels)
    save(tmp_path / "ffhq" / "test" / "0.png", random_pixels(9, 4, 4))
    for _ in range(2):  # the second time from the array that the first time wrote
        dataset = load_dataset("ffhq", folder=tmp_path, image_size=4)
        assert np.array_equal(dataset.train.permute(0, 2, 3, 1).numpy(), np.stack(wanted))
        assert dataset.test.shape == (1, 3, 4, 4)
        assert dataset.levels == 256
    assert len(list((tmp_path / "prepared").glob("*/train.npy"))) == 1
    save(tmp_path / "ffhq" / "train" / "c.png", random_pixels(3, 4, 4))
    assert len(load_dataset("ffhq", folder=tmp_path, image_size=4).train) == 4


def test_other_images_are_cropped_and_resized(tmp_path):
    """The middle 8 x 8 of 8 x 12; grey ones get three channels."""
    small = random_pixels(0, 4, 4)
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 2:10] = small[..., :1].repeat(2, 0).repeat(2, 1)
    save(tmp_path / "images" / "train" / "wide.png", pixels)
    save(tmp_path / "images" / "train" / "wide_grey.png", pixels[..., 0])
    dataset = load_dataset("images", folder=tmp_path, image_size=8)
    assert np.array_equal(dataset.train[0].permute(1, 2, 0).numpy(), pixels[:, 2:10])
    assert torch.equal(dataset.train[0], dataset.train[1])
    flat = np.full((10, 6, 3), 77, np.uint8)
    save(tmp_path / "celeba" / "train" / "flat.png", flat)
    assert (load_dataset("celeba", folder=tmp_path, image_size=4).train == 77).all()


def test_celeba_is_cropped_to_its_middle_140(tmp_path):
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[39:179, 19:159] = 200
    save(tmp_path / "celeba" / "train" / "face.png", pixels)
    assert (load_dataset("celeba", folder=tmp_path, image_size=64).train == 200).all()


@pytest.mark.parametrize(
    ("config", "source"),
    [
        ("ve/celeba_ncsnpp", "mmlab.ie.cuhk.edu.hk"),
        ("ve/bedroom_ncsnpp_continuous", "bedroom_train"),
        ("vp/ddpm/church", "church_outdoor_train"),
        ("ve/ffhq_ncsnpp_continuous", "NVlabs/ffhq-dataset"),
        ("vp/ddpm/celebahq", "progressive_growing_of_gans"),
    ],
)
def test_missing_images_are_asked_for(config, source, tmp_path):
    data = configuration.load_file(ROOT / "configs" / f"{config}.py").data
    with pytest.raises(UserError, match=source) as error:
        load_dataset(data.dataset, folder=tmp_path, image_size=data.image_size)
    assert str(tmp_path / data.dataset / "train") in str(error.value)


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UserError, match="give their height and width"):
        load_dataset("images", folder=tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 1 train pictures .*broken.jpg \(not a picture\)"):
        load_dataset("images", folder=tmp_path, image_size=4)
    assert not list(tmp_path.rglob("*.npy"))
    save(tmp_path / "images" / "train" / "broken.jpg", random_pixels(0, 4, 4))
    load_dataset("images", folder=tmp_path, image_size=4)
    (array,) = tmp_path.rglob("train.npy")
    array.write_bytes(b"no array")
    with pytest.raises(UserError, match=r"cannot read .*: remove it"):
        load_dataset("images", folder=tmp_path, image_size=4)
