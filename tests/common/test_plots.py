"""Every pixel of a grid is where it should be; what is written is read back."""

from __future__ import annotations

import numpy as np
import pytest

from score_sde.common.pictures.vectors import scatter_figure
from score_sde.common.plots import image_grid, save_examples, save_grid
from tests.reading import image


def test_grid_places_every_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    grid = image_grid(images)
    assert grid.shape == (2 * 4 + 1, 3 * 5 + 1, 3)
    for index, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        np.testing.assert_array_equal(grid[1 + 4 * row : 4 + 4 * row, 1 + 5 * column : 5 + 5 * column], images[index])
    pixels = images.sum() + 128 * (grid.size - images.size)
    assert grid.sum() == pixels, "everything else is the gap's grey"


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_grid_is_the_grid_enlarged(tmp_path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    save_grid(tmp_path / "grid.png", images)
    read = image(tmp_path / "grid.png").reshape(19 * 6, 19 * 6, channels)
    for offset in (0, 5):
        np.testing.assert_array_equal(read[offset::6, offset::6], image_grid(images))


def test_bad_images_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"uint8 images of shape \(N, H, W, C\), not float64"):
        image_grid(np.zeros((2, 8, 8, 1)))
    with pytest.raises(ValueError, match="1, 3 or 4 channels, not 2"):
        save_grid(tmp_path / "grid.png", np.zeros((2, 8, 8, 2), dtype=np.uint8))
    assert not list(tmp_path.iterdir())


def test_scatter_shows_all_points_and_counts_those_outside(tmp_path) -> None:
    reference = np.array([[0.0, 0.0], [1.0, 1.0]])
    points = np.array([[0.5, 0.5], [9.0, 0.0], [1.05, -0.05]])
    axes = scatter_figure(points, reference).axes[0]
    np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets()), reference)
    np.testing.assert_allclose(np.asarray(axes.collections[1].get_offsets()), points)
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[-0.1, 1.1]] * 2)
    assert axes.get_title() == "1 of 3 samples lie outside"
    save_examples(tmp_path / "scatter.png", "vectors", points, reference)
    assert image(tmp_path / "scatter.png").shape[:2] == (600, 600)
    with pytest.raises(ValueError, match=r"shape \(N, 2\), not \(3, 4\)"):
        scatter_figure(np.zeros((3, 4)))
