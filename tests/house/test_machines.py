"""Windows by proxy, devices by name, and one process that is no group: what this machine alone would not show."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from types import FunctionType

import pytest
import torch

from score_sde.common import distributed
from score_sde.common.errors import UserError
from tests.house.sources import files, place, tree
from tests.house.windows import ABSENT, MODULES
from tests.modes.test_main import run
from tests.reading import ROOT

# A small DDPM of the digits.
DIGITS = (
    "--config vp/ddpm/cifar10 --config.data.dataset=digits --config.data.image_size=8 --config.data.num_channels=1 "
    "--config.data.levels=17 --config.model.channels=32 --config.model.channel_multipliers=1,1 "
    "--config.model.num_blocks=1 --config.model.attention_resolutions=4 --config.training.num_steps=2 "
    "--config.training.batch_size=4 --config.training.sample_every=0 --config.training.evaluate_every=0"
)
# The flags of a run of each mode; {0} is a folder.
RUNS = {
    "train": DIGITS,
    "sample": "--config.sampling.num_samples=2 --config.sampling.num_steps=2",
    "likelihood": "--config.likelihood.num_examples=2 --config.likelihood.method=adams --config.likelihood.num_steps=4 "
    "--config.likelihood.num_checks=0 --config.likelihood.bounds=",
    # A mixture, whose trajectories are quickly followed.
    "compare": "--workdir {0}/mixture --config vp/eight_gaussians --config.model.network=mixture "
    "--config.model.num_components=8 --config.compare.solvers=ddim --config.compare.budgets=4 "
    "--config.compare.num_samples=20 --config.compare.repetitions=2",
    "tune": "--workdir {0}/mixture --config vp/eight_gaussians --config.model.network=mixture "
    "--config.model.num_components=8 --config.tuning.num_steps=3 --config.tuning.iterations=0",
    "edit": "--config.edit.input=test:0 --config.edit.task=inpaint --config.edit.num_steps=2 "
    "--config.edit.num_samples=1",
    "export": "--folder {0}/pipeline",
}


def test_every_mode_runs_on_what_windows_has(tmp_path):
    """See `windows.py`."""
    from score_sde.__main__ import MODES

    lines = [f"--mode {mode} --workdir {tmp_path}/run {RUNS[mode].format(tmp_path)}" for mode in MODES]
    (tmp_path / "runs").write_text("\n".join(lines), encoding="utf-8")
    # ASCII is the encoding of files, and Windows's letters are those of the console.
    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "cp1252:strict"}
    ended = subprocess.run(
        [sys.executable, "tests/house/windows.py", tmp_path / "runs"],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="cp1252",
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_nothing_that_only_unix_has_is_imported_at_the_top_or_asked_for_by_name():
    """Also where no run comes by: `os.posix_fallocate` and the like are asked for where there are, by `hasattr`."""
    wrong = []
    for path in files():
        source = path.read_text(encoding="utf-8")
        for statement in tree(path).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            wrong += [f"{place(path, statement.lineno)} imports {name}" for name in names if name in MODULES]
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            module, name = node.value.id, node.attr
            if name in ABSENT.get(module, ()) and f'hasattr({module}, "{name}")' not in source:
                wrong.append(f"{place(path, node.lineno)} asks for {module}.{name}")
    assert not wrong


def test_text_files_name_their_encoding():
    """Windows's own is not UTF-8."""
    wrong = []
    for path in files():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            is_text = called in ("read_text", "write_text")
            if isinstance(node.func, ast.Name) and called == "open":
                mode = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else "r"
                is_text = "b" not in str(mode)
            if is_text and "encoding" not in {keyword.arg for keyword in node.keywords}:
                wrong.append(place(path, node.lineno))
    assert not wrong


@pytest.fixture
def two_gpus(monkeypatch):
    """Pretend that the machine has two GPUs, as far as torch is asked about them; forget the choice afterwards."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(distributed, "_chosen", None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize(
    ("name", "local_rank", "expected"),
    [
        (None, "1", "cuda:1"),
        ("cuda", "1", "cuda:1"),
        ("cuda", "0", "cuda:0"),
        ("cuda:1", "0", "cuda:1"),
        ("cpu", "1", "cpu"),
    ],
)
def test_a_device_is_chosen_by_name(two_gpus, monkeypatch, name, local_rank, expected):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    distributed.use_device(name)
    assert distributed.device() == torch.device(expected)
    assert two_gpus == ([] if expected == "cpu" else [torch.device(expected)])


def test_devices_that_are_not_there_are_refused_in_a_line(two_gpus, monkeypatch):
    with pytest.raises(UserError, match=r"no device 'cuda:2'; there are: cpu, cuda, cuda:0, cuda:1"):
        distributed.use_device("cuda:2")
    with pytest.raises(UserError, match="there is no device 'mps'; there are"):
        distributed.use_device("mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes cannot share cuda:1: take cuda, of which each has its own"):
        distributed.use_device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    distributed.use_device("cuda")
    with pytest.raises(UserError, match="process 3 of this machine has no GPU, of which there are 2: start fewer"):
        distributed.device()


def test_apples_gpu_is_used_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(distributed, "_chosen", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert distributed.device() == torch.device("cpu")
    distributed.use_device("mps")
    assert distributed.device() == torch.device("mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UserError, match="several processes compute on CUDA's GPUs or on the CPU, not on mps"),
        distributed.process_group(),
    ):
        pass


def test_the_command_line_passes_the_device_on(capsys):
    assert run("--mode=train", "--config=vp/eight_gaussians", "--device=tpu") == 1
    there = ", ".join(distributed.devices())
    assert capsys.readouterr().err == f"error: --device: there is no device 'tpu'; there are: {there}\n"


def test_one_process_asks_nothing_of_torch_distributed(tmp_path, monkeypatch):
    """Some builds of PyTorch have none: it trains, draws and measures where each of its functions raises for us."""

    def absent(function):
        def asked(*arguments, **options):
            asking = sys._getframe(1).f_globals["__name__"]
            assert not asking.startswith("score_sde"), f"{asking} asks for torch.distributed.{function.__name__}"
            return function(*arguments, **options)

        return asked

    for name, value in vars(torch.distributed).items():
        if type(value) is FunctionType and not name.startswith("_"):
            monkeypatch.setattr(torch.distributed, name, absent(value))
    folder = ["--workdir", str(tmp_path)]
    toy = ["--config=vp/eight_gaussians", "--config.model.width=8", "--config.model.num_blocks=1"]
    assert run("--mode=train", *toy, *folder, "--config.training.num_steps=2") == 0
    assert run("--mode=sample", *folder, "--config.sampling.num_samples=2", "--config.sampling.num_steps=2") == 0
    few = ("num_examples=2", "num_checks=0", "bounds=", "rtol=0.1", "atol=0.1")
    assert run("--mode=likelihood", *folder, *(f"--config.likelihood.{value}" for value in few)) == 0
