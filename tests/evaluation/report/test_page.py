"""A run's page shows the numbers of the run's files, and needs nothing else."""

from __future__ import annotations

import base64
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from score_sde.common.plots import save_examples
from score_sde.evaluation.report.charts import BOTTOM, LEFT, RIGHT, TOP, chart, log_ticks, ticks
from score_sde.evaluation.report.findings import find
from score_sde.experiment import configuration
from score_sde.experiment.report import report, write_report

LIKELIHOOD = {
    "bits_per_dim": 1.23456,
    "standard_error": 0.0123,
    "nats_per_dim": 0.8557,
    "num_examples": 40,
    "split": "test",
    "levels": 17,
    "dequantisation": "uniform",
    "divergence": "hutchinson",
    "num_probes": 1,
    "probe": "rademacher",
    "t_min": 1e-5,
    "method": "adams",
    "nfe": 24.0,
    "seconds": 3.0,
    "bounds": {"discrete": {"bits_per_dim": 1.3, "standard_error": 0.02}},
}
TABLE = """# Solvers on digits

Use `ddim` with 5 network calls.

| budget | solver | NFE | ms / sample | Fréchet |
|---|---|---:|---:|---:|
| 5 | `ddim` (num_steps=5) | 5 | 0.3 | **0.25 ± 0.02** |
| 5 | `heun` | 5 | 0.4 | 0.50 ± 0.03 |

- NFE: network calls a sample, counted.
"""


class Reader(HTMLParser):
    """Reads the text of a page, and the addresses that it names; tags must be closed as they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


@pytest.fixture
def folder(tmp_path):
    """The folder of a run with all that modes leave in it."""
    config = configuration.load_file("configs/vp/digits.py")
    config.unlock()
    config.data.path = "<script>alert(1)</script>"
    configuration.save(config, tmp_path / "config.json")
    about = {"name": "<b>digits</b>", "kind": "images", "shape": [1, 8, 8], "levels": 17}
    about |= {"num_train": 1337, "num_validation": 100, "num_test": 360, "notes": ["10 classes, & more"]}
    (tmp_path / "data.json").write_text(json.dumps(about))
    rows = ["step,loss,held_out_loss,learning_rate", "100,0.5,,0.001", "200,0.4,0.45,0.002", "300,0.3,0.55,0"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    for name in ("likelihood", "samples", "compare"):
        (tmp_path / name).mkdir()
    (tmp_path / "likelihood" / "test.json").write_text(json.dumps(LIKELIHOOD))
    for solver in ("ddim", "heun"):
        np.savez(tmp_path / "samples" / f"{solver}.npz", nfe=20, seconds=1.5, seeds=np.arange(64))
        images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
        save_examples(tmp_path / "samples" / f"{solver}.png", "images", images)
    copies = {"farther_than_test": 0.4821, "standard_error": 0.0312}
    (tmp_path / "samples" / "ddim_copies.json").write_text(json.dumps(copies))
    (tmp_path / "compare" / "table.md").write_text(TABLE, encoding="utf-8")
    return tmp_path


def test_the_page_has_the_numbers_of_the_files_and_is_one_file(folder):
    started = time.process_time()
    page = write_report(folder).read_text(encoding="utf-8")
    assert time.process_time() - started < 1
    reader = read(page)
    text = " ".join(reader.texts)
    for shown in (
        "<b>digits</b>: images of shape 1 x 8 x 8 of 17 levels; 1,337 train, 100 validation, 360 test examples",
        "10 classes, & more",
        "300 steps; loss 0.3 at step 300",
        "lowest held-out loss 0.4500, at step 200",
        "1.2346 ± 0.0123 bits/dim of 40 test examples",
        "discrete 1.3000 ± 0.0200",
        "17 levels; uniform noise; hutchinson divergence, 1 rademacher probe; t_min = 1e-05; adams, 24 network calls",
        "64 samples; 20 network calls each, 1.5 s in all",
        "probability 0.482 ± 0.031",
        "Use ddim with 5 network calls.",
        "0.25 ± 0.02",
    ):
        assert shown in text, shown
    assert "<script" not in page
    assert "<b>" not in page
    assert '<td class="bold">0.25 ± 0.02</td>' in page
    assert [entry.title for entry in find(folder).samples] == ["ddim", "heun"]
    prefix = "data:image/png;base64,"
    assert all(address.startswith(prefix) for address in reader.addresses)
    pictures = [base64.b64decode(address.removeprefix(prefix)) for address in reader.addresses]
    assert pictures == [(folder / "samples" / f"{solver}.png").read_bytes() for solver in ("ddim", "heun")]
    assert not re.search(r"https?:|@import|url\(", page)


def test_the_configuration_begins_with_what_is_not_the_default(folder):
    page = write_report(folder).read_text(encoding="utf-8")
    first, rest = page.split("<h2>Configuration</h2>")[1].split("All keys")
    defaults, config = (
        dict(configuration.flatten(configuration.load_file(f"configs/{name}.py"))) for name in ("default", "vp/digits")
    )
    keys = re.findall(r"<tr><td>([a-z_.0-9]+)</td>", first)
    assert keys == [key for key in config if config[key] != defaults[key] or key == "data.path"]
    assert re.findall(r"<tr><td>([a-z_.0-9]+)</td>", rest) == list(config)


def test_numbers_without_levels_are_in_nats(folder):
    (folder / "likelihood" / "test.json").write_text(json.dumps(LIKELIHOOD | {"levels": None, "standard_error": None}))
    (entry,) = find(folder).likelihoods
    assert entry.lines[0] == "0.8557 nats/dim in data units (1.2346 bits/dim) of 40 test examples"
    assert "levels" not in entry.lines[-1]
    (folder / "likelihood" / "test.json").write_text(json.dumps(LIKELIHOOD | {"levels": None}))
    (entry,) = find(folder).likelihoods
    # 0.0123 log 2 = 0.00853.
    assert entry.lines[0].startswith("0.8557 ± 0.0085 nats/dim in data units (1.2346 ± 0.0123 bits/dim) of 40")


def test_a_damaged_file_is_named_and_the_rest_is_shown(folder):
    (folder / "samples" / "ddim.npz").write_bytes(b"PK broken")
    (folder / "likelihood" / "test.json").write_text("[]")
    found = find(folder)
    assert found.damaged == ["samples/ddim.npz", "likelihood/test.json"]
    assert [entry.title for entry in found.samples] == ["heun"]
    assert "cannot be read: samples/ddim.npz, likelihood/test.json" in write_report(folder).read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_is_a_note_and_an_empty_folder_has_one(folder, tmp_path, capsys):
    (folder / "config.json").write_text("{")
    report(folder)
    assert capsys.readouterr().err.startswith(f"note: {folder / 'report.html'} is not written: ")
    assert not (folder / "report.html").exists()
    (tmp_path / "empty").mkdir()
    read(write_report(tmp_path / "empty").read_text(encoding="utf-8"))


def test_curves_lie_where_their_numbers_are():
    drawn = chart("loss", {"loss": {0: 0.0, 50: 5.0, 100: 10.0}, "a/held_out_loss": {100: float("nan"), 50: 2.5}})
    assert drawn is not None
    points = [[tuple(map(float, point.split(","))) for point in curve.points.split()] for curve in drawn.curves]
    middle, unit = (TOP + BOTTOM) / 2, (BOTTOM - TOP) / 11
    expected = [(LEFT, middle + 5 * unit), ((LEFT + RIGHT) / 2, middle), (RIGHT, middle - 5 * unit)]
    np.testing.assert_allclose(points[0], expected, atol=0.06)
    assert points[1][0] == pytest.approx(((LEFT + RIGHT) / 2, middle + 2.5 * unit), abs=0.06)
    assert [curve.name for curve in drawn.curves] == ["loss", "held out loss"]
    assert {tick.label: tick.place for tick in drawn.values}["4"] == pytest.approx(middle + unit)
    assert chart("loss", {"loss": {1: float("inf")}}) is None
    falling = chart("loss", {"loss": {k: 10.0 ** (2 - k) for k in range(5)}})
    assert falling is not None
    heights = [float(point.split(",")[1]) for point in falling.curves[0].points.split()]
    np.testing.assert_allclose(np.diff(heights), (heights[-1] - heights[0]) / 4, atol=0.11)


def test_ticks_are_round():
    assert ticks(0, 300) == [0, 100, 200, 300]
    assert ticks(-0.013, 0.031) == pytest.approx([-0.01, 0, 0.01, 0.02, 0.03])
    assert log_ticks(0.9, 3000) == [1, 10, 100, 1000]
    assert log_ticks(0.15, 3) == pytest.approx([0.2, 0.5, 1, 2])
