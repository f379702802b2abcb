"""Every key of the configuration with values that are wrong, or nearly so: it works, or it is refused in one line.

The walk goes over the keys of `configs/default.py`, so that a new key is walked by itself. Here it ends with what is
checked before any work; `make slow` does the work, too, of the values that fit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from score_sde.common.errors import UserError
from score_sde.configs.default import get_config
from score_sde.experiment import checks, configuration, rules
from tests.modes.test_main import run

DEFAULTS = get_config()
KEYS = dict(configuration.flatten(DEFAULTS))

# What somebody may write after `--config.KEY=`.
_NUMBERS = ["0", "1", "3", "-1", "1000000000000"]
_TEXTS = {
    int: [*_NUMBERS, "1.5", "word", "", "nan", "none"],
    float: [*_NUMBERS, "0.5", "1e-300", "1e300", "nan", "inf", "-inf", "word", "", "none"],
    bool: ["true", "false", "2", "word", "", "none"],
    str: ["", " ", "wrod", "0", "-1", "nan", ",", "1,0.5", "a=b", "a=1,b", "\0", "x" * 300, "none"],
    tuple: ["", "()", "0", "-1", "1,wrod", "1,2,3,4,5,6,7,8,9", "0.5", "nan,1", "inf", "1,1", "0,0,0,0", "none"],
}

# A model of 64 pictures, and as little work as each mode can have.
TINY = {
    "data.levels": "4",
    "data.test_share": "0.3",
    "data.validation": "6",
    "model.channels": "4",
    "model.num_blocks": "1",
    "training.num_steps": "2",
    "training.batch_size": "4",
    "training.evaluate_every": "2",
    "training.sample_every": "2",
    "training.measure_every": "2",
    "training.checkpoint_every": "1",
    "training.num_measured": "5",
    "sampling.num_steps": "3",
}
WORK = {
    "train": {},
    "sample": {"sampling.num_samples": "2"},
    "likelihood": {
        "likelihood.num_examples": "2",
        "likelihood.num_checks": "1",
        "likelihood.bound_calls": "2",
        "likelihood.flow_steps": "2",
        "likelihood.rtol": "0.1",
        "likelihood.atol": "0.1",
    },
    "edit": {"edit.input": "test:0", "edit.num_samples": "2", "edit.num_steps": "3"},
    "compare": {
        "compare.solvers": "default,ddim",
        "compare.budgets": "3",
        "compare.repetitions": "1",
        "compare.num_samples": "5",
        "compare.num_trajectories": "1",
    },
    "tune": {"tuning.num_steps": "3"},
}


# So that solvers are rehearsed quickly.
SHORT = {"sampling.num_steps": "3", "likelihood.method": "adams", "likelihood.num_steps": "2"}


def texts(key: str) -> list[str]:
    """Return values to walk over, of the type of the key and of others."""
    *path, name = key.split(".")
    section = DEFAULTS
    for part in path:
        section = section[part]
    own = section[name]
    written = ",".join(map(str, own)) if isinstance(own, tuple) else str(own)
    return [*_TEXTS[section.get_type(name)], written]


def flags(values: dict[str, str]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


def test_every_key_has_a_rule_but_those_that_are_true_or_false():
    others = {key for key in KEYS if "false" not in texts(key)}
    assert set(rules.RULES) == others


def complaint(key: str, text: str, mode: str) -> str:
    """Return what is said of a configuration for a mode with this value; nothing, if it will do."""
    config = get_config()
    try:
        values = WORK[mode] | ({} if key in SHORT else SHORT)
        configuration.override(config, [*values.items(), (key, text)])
        checks.check(config, mode)
    except UserError as error:
        return str(error)
    return ""


# Of keys of other sections.
_MODES = {"sampling": "sample", "likelihood": "likelihood", "edit": "edit", "compare": "compare", "tuning": "tune"}


def test_a_value_is_refused_in_one_line_that_names_its_key_or_fits():
    for key in KEYS:
        found = {text: complaint(key, text, _MODES.get(key.split(".")[0], "train")) for text in texts(key)}
        for line in filter(None, found.values()):
            assert key in line or all(part.rstrip("s") in line for part in key.split(".")), line
            assert "\n" not in line
        assert {bool(line) for line in found.values()} == {False, True}, found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A folder with the pictures, and a run on them."""
    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    np.save(folder / "pictures.npy", generator.integers(0, 4, (64, 8, 8, 1), dtype=np.uint8))
    data = {"data.path": str(folder / "pictures.npy"), "data.folder": str(folder / "datasets")}
    assert run("--mode=train", "--config=configs/vp/digits.py", *flags(data | TINY), "--workdir", folder / "run") == 0
    return folder


# Compiling takes a minute each time.
_LONG = ("training.compile",)
_MANY = 1000


def bearable(key: str, text: str) -> bool:
    """Return whether what a value asks for is done within seconds, if it is accepted."""
    kind = type(KEYS[key]) if KEYS[key] is not None else str
    return key not in _LONG and not (kind is int and text.isdecimal() and int(text) > _MANY and key != "seed")


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_value_that_fits_works_or_is_refused_before_any_work(tiny, tmp_path, capsys, key):
    """In the mode that the key's section is for; others are refused by the test above."""
    mode = _MODES.get(key.split(".")[0], "train")
    data = {"data.path": str(tiny / "pictures.npy"), "data.folder": str(tiny / "datasets")}
    values = (data | TINY if mode == "train" else {}) | WORK[mode]
    newest = tiny / "run" / "checkpoints" / "step_0000002.pt"
    start = ["--config=configs/vp/digits.py"] if mode == "train" else ["--checkpoint", newest]
    for text in texts(key):
        if complaint(key, text, mode) or not bearable(key, text):
            continue
        workdir = tmp_path / "work"
        shutil.rmtree(workdir, ignore_errors=True)
        code = run(f"--mode={mode}", *start, "--workdir", workdir, *flags(values | {key: text}))
        errors = capsys.readouterr().err.splitlines()
        if code:
            assert code == 1, text
            assert [line.split(":")[0] for line in errors] == ["error"], (text, errors)
            # A rate can be too high for one network and not for another.
            diverged = "so training stopped" in errors[0]
            assert diverged or not [path for path in workdir.rglob("*") if path.is_file()], (text, errors)
        else:
            assert all(line.startswith("note: ") for line in errors), (text, errors)
