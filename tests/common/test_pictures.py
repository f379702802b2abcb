"""Pictures of every kind of data show the numbers they are given, on axes that can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from score_sde.common.errors import UserError
from score_sde.common.pictures.fields import middle_slices, mosaic
from score_sde.common.plots import examples_figure, examples_pixels, frames, image_grid, save_examples
from tests.reading import image

RANDOM = np.random.default_rng(0)
# Samples, and data to compare them with.
EXAMPLES: dict[str, tuple[Any, Any]] = {
    "vectors": (RANDOM.normal(5000, 700, (30, 1)), RANDOM.normal(5000, 700, (50, 1))),
    "series": (RANDOM.normal(size=(5, 2, 16)), RANDOM.normal(size=(6, 2, 16))),
    "images": (RANDOM.integers(0, 256, (4, 8, 6, 1), dtype=np.uint8), None),
    "fields": (RANDOM.normal(size=(5, 1, 6, 8)), RANDOM.normal(size=(3, 1, 6, 8))),
    "volumes": (RANDOM.normal(size=(3, 1, 4, 6, 8)), RANDOM.normal(size=(2, 1, 4, 6, 8))),
}


def test_histograms_are_densities_on_the_datas_bins():
    """Of uniform numbers on [0, 1] all lie at density 1 within; a half that lies outside is not drawn, but counted."""
    data = (np.arange(1200) + 0.5)[:, None] / 1200
    samples = np.concatenate([data, data + 10])
    axes = examples_figure("vectors", samples, data).axes[0]
    np.testing.assert_allclose(axes.get_xlim(), (-0.1, 1.1), atol=1e-3)
    bars: list[Any] = list(axes.patches)
    inner = [bar for bar in bars if hasattr(bar, "get_x") and 0.02 < bar.get_x() < 0.95]
    assert [bar.get_height() for bar in inner] == pytest.approx([1.0] * len(inner), abs=0.04)
    outline = bars[-1].get_xy()
    within = outline[(outline[:, 0] > 0.05) & (outline[:, 0] < 0.95) & (outline[:, 1] > 0)]
    np.testing.assert_allclose(within[:, 1], 0.5, atol=0.02)
    assert axes.get_title() == "1200 of 2400 samples lie outside"


def test_a_corner_has_the_first_columns_against_each_other():
    vectors = RANDOM.normal(0, [1, 1000, 1, 1, 1, 1, 1], (40, 7))
    figure = examples_figure("vectors", vectors, vectors + 1)
    panels = np.array(figure.axes, dtype=object).reshape(5, 5)
    assert [[axes.axison for axes in row] for row in panels] == np.tri(5, dtype=bool).tolist()
    for row in range(5):
        for column in range(row):
            data, samples = panels[row, column].collections
            np.testing.assert_array_equal(samples.get_offsets(), vectors[:, [column, row]])
            np.testing.assert_array_equal(data.get_offsets(), vectors[:, [column, row]] + 1)
    # Each column has axes of its own scale, in its row and in its column.
    assert np.ptp(panels[1, 0].get_ylim()) > 500 * np.ptp(panels[1, 0].get_xlim())
    assert panels[4, 1].get_xlim() == panels[1, 0].get_ylim() == panels[1, 1].get_xlim()
    assert [axes.get_xlabel() for axes in panels[4]] == [f"column {k}" for k in range(5)]
    assert figure.legends[0].get_title().get_text() == "the first 5 of 7 columns"


def test_points_whose_columns_differ_in_scale_fill_the_picture():
    points = RANDOM.normal(0, [1, 1000], (100, 2))
    axes = examples_figure("vectors", points).axes[0]
    assert axes.get_aspect() == "auto"
    np.testing.assert_allclose(axes.get_xlim(), limits(points[:, 0]))
    np.testing.assert_allclose(axes.get_ylim(), limits(points[:, 1]))


def limits(values):
    low, high = values.min(), values.max()
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


def test_series_are_curves_a_row_for_each_channel():
    samples, data = EXAMPLES["series"]
    panels = np.array(examples_figure("series", samples, data).axes, dtype=object).reshape(2, 4)
    for channel, row in enumerate(panels):
        drawn = [axes.lines[0].get_ydata() for axes in row]
        expected = [data[0, channel], data[1, channel], samples[0, channel], samples[1, channel]]
        np.testing.assert_array_equal(drawn, expected)
        np.testing.assert_allclose([axes.get_ylim() for axes in row], [limits(data[:, channel])] * 4)
    alone = examples_figure("series", samples[:, :1]).axes
    np.testing.assert_array_equal([axes.lines[0].get_ydata() for axes in alone[:5]], samples[:, 0])


def test_fields_share_colours_which_are_the_datas():
    samples, data = EXAMPLES["fields"]
    left, right, bar = examples_figure("fields", 100 * samples, data).axes
    ends = np.quantile(data, [0.005, 0.995])
    for axes, fields in ((left, data), (right, 100 * samples)):
        np.testing.assert_allclose(axes.images[0].get_clim(), ends)
        drawn: Any = axes.images[0].get_array()
        np.testing.assert_array_equal(drawn.filled(np.nan), mosaic(fields[:3, 0]))
    np.testing.assert_allclose(bar.get_ylim(), ends)


def test_a_mosaic_places_every_field():
    pictures = RANDOM.normal(size=(5, 10, 20))
    laid = mosaic(pictures, columns=2)
    assert laid.shape == (3 * 11 - 1, 2 * 21 - 1)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, 2)
        np.testing.assert_array_equal(laid[11 * row : 11 * row + 10, 21 * column : 21 * column + 20], picture)
    assert np.isfinite(laid).sum() == pictures.size


def test_volumes_are_seen_by_their_middle_slices():
    (volume,) = RANDOM.normal(size=(1, 1, 4, 6, 8))
    (seen,) = middle_slices(volume[None])[0]
    assert seen.shape == (6, 8 + 1 + 8 + 1 + 6)
    np.testing.assert_array_equal(seen[:, :8], volume[0, 2])
    np.testing.assert_array_equal(seen[:4, 9:17], volume[0, :, 3])
    np.testing.assert_array_equal(seen[:4, 18:], volume[0, :, :, 4])
    assert np.isfinite(seen).sum() == 6 * 8 + 4 * 8 + 4 * 6


@pytest.mark.parametrize("kind", EXAMPLES)
def test_frames_have_the_axes_of_the_last_one(kind):
    """The last frame is the picture of the samples; the first, far off, is drawn where the last one's axes are."""
    samples, data = EXAMPLES[kind]
    start = samples // 2 if kind == "images" else 1000 * samples
    first, last = frames(kind, [start, samples], data)
    assert first.dtype == last.dtype == np.uint8
    assert first.shape == last.shape
    assert first.shape[2] == 3
    if kind == "images":
        np.testing.assert_array_equal(last[6::6, 6::6, 0][:8, :6], samples[0, ..., 0])
    else:
        figure = examples_figure(kind, start, data, frame=samples)
        # Colours need not show what lies beyond them; axes are fixed.
        of_frame = examples_figure(kind, samples, data, frame=samples)
        for one, other in zip(figure.axes, of_frame.axes, strict=True):
            assert one.get_ylim() == other.get_ylim()
            assert one.get_xlim() == other.get_xlim()
        assert (first != last).any()


def test_pictures_are_written_as_they_are_drawn(tmp_path):
    samples, data = EXAMPLES["vectors"]
    save_examples(tmp_path / "vectors.png", "vectors", samples, data)
    np.testing.assert_array_equal(image(tmp_path / "vectors.png")[..., :3], examples_pixels("vectors", samples, data))
    images = EXAMPLES["images"][0]
    grey = examples_pixels("images", images)
    np.testing.assert_array_equal(grey, np.repeat(image_grid(images), 3, axis=2))
    # Of two channels each is a grey image of its own, side by side.
    both = examples_pixels("images", np.concatenate([images, images // 2], axis=3))
    np.testing.assert_array_equal(both[1:9, 1:13, 0], np.concatenate([images[0], images[0] // 2], axis=1)[..., 0])
    with pytest.raises(UserError, match="kind of data"):
        examples_figure("words", samples)
