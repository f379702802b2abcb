"""What is imported when: nothing but torch and NumPy for models, solvers and likelihoods; little more to train."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from benchmarks.imports import NAMES
from score_sde.solvers.ode.integrator import ADAMS_ON_NODES, ADAPTIVE_ADAMS, METHODS, Integrator
from tests.reading import ROOT

# Each takes from a third of a second to more than one.
SLOW = (
    "scipy",
    "sklearn",
    "matplotlib",
    "pandas",
    "pyarrow",
    "torchdiffeq",
    "torchsde",
    "PIL",
    "tensorboard",
    "diffusers",
)
# As far as the network's first call, in the folder that is named.
TRAINING = """
import sys
import torch

class Begun(BaseException):
    pass

def begin(*_):
    raise Begun

torch.nn.modules.module.register_module_forward_pre_hook(begin)
from score_sde import __main__ as program
try:
    program.main(program.parse(["main.py", "--mode=train", "--workdir", sys.argv[1]]))
except Begun:
    print("begun")
"""


@pytest.mark.parametrize("program", [NAMES, TRAINING], ids=["names", "training"])
def test_what_takes_long_to_import_is_imported_by_what_needs_it(program, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint('modules', *sys.modules)", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert ("begun" in lines) == (program == TRAINING)
    assert {name.split(".")[0] for name in lines[-1].split()[1:]}.isdisjoint(SLOW)


def test_methods_that_are_written_out_are_those_of_torchdiffeq():
    """So that it need not be imported to know them."""
    assert (*SOLVERS, ADAMS_ON_NODES, ADAPTIVE_ADAMS) == METHODS
    for name, solver in SOLVERS.items():
        assert Integrator(name).takes_fixed_steps == issubclass(solver, FixedGridODESolver), name
