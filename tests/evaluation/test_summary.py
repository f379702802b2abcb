"""The summary quotes the files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from score_sde.evaluation.summary import main


def test_the_summary_quotes_the_files(tmp_path, capsys):
    for name in ("samples", "likelihood", "compare"):
        (tmp_path / name).mkdir()
    np.savez(
        tmp_path / "samples" / "pc.npz", images=np.zeros((3, 8, 8, 1), np.uint8), nfe=99, seconds=4.2, seeds=[0, 1, 2]
    )
    (tmp_path / "samples" / "pc.png").touch()
    found = {"bits_per_dim": 1.7512, "standard_error": 0.0123, "num_examples": 360, "nfe": 80.0, "seconds": 27.4}
    (tmp_path / "likelihood" / "test.json").write_text(json.dumps({**found, "levels": 17}))
    (tmp_path / "likelihood" / "train.json").write_text(json.dumps({**found, "levels": None}))
    (tmp_path / "likelihood" / "test_classes.json").write_text(json.dumps({"accuracy": 0.9917}))
    (tmp_path / "compare" / "table.md").write_text("# Solvers\n\nUse `default` with 10.\n")
    assert main([str(tmp_path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "samples, pc 3 drawn 99 network calls each, 4 s",
        "bits/dim, test 1.751 ± 0.012 (360 examples) 80 network calls each, 27 s",
        "classes, test_classes 0.992 recognised by p(x | y)",
        # 1.7512 log 2 and 0.0123 log 2.
        "nats/dim, train 1.214 ± 0.009 (360 examples) 80 network calls each, 27 s",
        "Use `default` with 10.",
        f"picture: {tmp_path}/samples/pc.png",
        f"table: {tmp_path}/compare/table.md",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("samples/pc.npz", b"PK damaged"),
        ("samples/pc.npz", b""),
        ("likelihood/test.json", b'{"bits_per_dim": 1.7'),
        ("likelihood/test.json", b"{}"),
    ],
)
def test_a_damaged_file_gets_one_line(tmp_path, capsys, name, content):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(content)
    assert main([str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: cannot read {tmp_path / name}: ")
    assert message.count("\n") == 1


def test_a_missing_folder_gets_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "missing")]) == 1
    assert capsys.readouterr().err == f"error: there is no workdir {tmp_path / 'missing'}\n"
