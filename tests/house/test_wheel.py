"""The package as it is installed: a wheel of the committed files, used beside a user's own modules of the same names.

It is built from what git knows, so that a file that was never added is missed here; and run by the interpreter of the
virtual environment's own Python, to which third-party packages are named and the checkout is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.house.sources import ROOMS, files
from tests.reading import ROOT

# What a user may well call modules and folders, and what ours were once called.
USERS_OWN = ("build", "checkpoints", "commands", "distributed", "errors", "files", "main", "runs", *ROOMS)
TINY = ("--config.model.channels=4", "--config.model.num_blocks=1", "--config.training.sample_every=0")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("git does not know what is committed here")
    for name in listed.stdout.decode().split("\0"):
        if name.endswith((".py", ".toml", ".html")) or name in ("README.md", "LICENSE"):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    run([*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, folder / "source"], folder)
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", *alone, "--target", folder / "site", wheel], folder)
    return folder / "site"


@pytest.fixture
def users_folder(tmp_path) -> Path:
    """A folder with modules of the user's own, each of which raises when it is imported."""
    for name in set(USERS_OWN) - {"score_sde"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is the user’s own')", encoding="utf-8")
    for name in ("control", "build"):
        shutil.rmtree(tmp_path / name)
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is the user’s own')", encoding="utf-8")
    return tmp_path


def run(command: list[object], folder: Path, **environment: str) -> str:
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def python(site: Path, folder: Path, *arguments: object) -> str:
    """Run the Python of the virtual environment without what the environment adds: a checkout, installed editably."""
    paths = dict.fromkeys([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    interpreter = getattr(sys, "_base_executable", sys.executable)
    alone = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}
    return run([interpreter, *arguments], folder, **alone)


def test_the_wheel_holds_the_package_and_nothing_else(site):
    assert {path.name for path in site.iterdir()} == {"score_sde", "score_sde-0.1.0.dist-info", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["score-sde"]
    there = {path.relative_to(site).as_posix() for path in site.rglob("*.py")}
    ours = {path.relative_to(ROOT).as_posix() for path in files()}
    assert there == {name if name.startswith("score_sde/") else f"score_sde/{name}" for name in ours}
    points = (site / "score_sde-0.1.0.dist-info" / "entry_points.txt").read_text(encoding="utf-8")
    assert points == "[console_scripts]\nscore-sde = score_sde.__main__:run\n"


def test_all_of_it_works_beside_modules_of_the_same_names(site, users_folder):
    """See `installed.py`: every module imports, a mixture is sampled, a likelihood measured, a network trained."""
    shutil.copy(Path(__file__).parent / "installed.py", users_folder)
    said = python(site, users_folder, "installed.py", site, *TINY, "--config.training.num_steps=20")
    assert "trained for 20 steps: run/checkpoints/step_0000020.pt" in said


@pytest.mark.slow
def test_two_processes_train_it_and_its_script_uses_what_they_trained(site, users_folder):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "score_sde"]
    training = ["--mode=train", "--config=vp/digits", "--workdir=run", "--config.training.num_steps=2", *TINY]
    assert "trained for 2 steps" in python(site, users_folder, *launcher, *training)
    few = ["--config.likelihood.num_examples=2", "--config.likelihood.num_checks=0", "--config.likelihood.bounds="]
    script = site / "bin" / "score-sde"
    said = python(site, users_folder, script, "--mode=likelihood", "--workdir=run", *few)
    assert "bits/dim of 2 test examples" in said
