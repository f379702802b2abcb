"""Any module on two processes, replicated and sharded: the weights of one process, to rounding; and a signal to one."""

from __future__ import annotations

import pytest
import torch

from score_sde.models import MLP, DiT, NCSNpp, ScoreModel
from score_sde.sde import VPSDE
from score_sde.training import checkpoint, late, parallel
from score_sde.training.trainer import Trainer
from tests.processes import as_one_of, run_together
from tests.training.least_squares import Line, Points, settings, squared_error
from tests.training.test_variational import trained

# Arguments: the folder. The second of the processes is sent a signal in step 4 of the last run.
SCRIPT = """
import os
import signal
import sys
from pathlib import Path

from score_sde.common import distributed
from score_sde.common.errors import Stopped
from score_sde.training.trainer import Trainer
from tests.training.least_squares import Line, Points, settings, squared_error
from tests.training.test_variational import trained

def train(folder, objective=squared_error, **values):
    Trainer(Line(), objective, Points(16), None, settings(schedule="constant", **values), folder).train()

def main(folder):
    train(folder / "replicated")
    train(folder / "sharded", shard=True, num_steps=10)
    train(folder / "sharded", shard=True)

    def interrupted(model, batch, noise):
        if model.steps == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return squared_error(model, batch, noise)

    try:
        train(folder / "stopped", interrupted, log_every=100)
    except Stopped as stopped:
        # In one piece: the two processes write into the same file.
        print(f"{distributed.rank()} {stopped}\\n", end="", flush=True)
    train(folder / "stopped")
    trained(folder / "schedule_replicated", 20)
    trained(folder / "schedule_sharded", 10, shard=True)
    trained(folder / "schedule_sharded", 20, shard=True)

with distributed.process_group():
    main(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes did, what they said, and what one does."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "script.py").write_text(SCRIPT)
    ended = run_together(2, folder / "script.py", folder)
    (folder / "said").write_text(ended.stdout)
    with as_one_of(2):
        Trainer(Line(), squared_error, Points(16), None, settings(schedule="constant"), folder / "one").train()
        trained(folder / "schedule_one", 20)
    return folder


@pytest.mark.parametrize("kind", ["replicated", "sharded", "stopped"])
def test_all_of_the_module_is_that_of_one_process(folder, kind):
    """Weights, averages and moments, of the parameter outside the network too; buffers, and what is not trained."""
    one, two = (checkpoint.load(checkpoint.path_at(folder / name / "checkpoints", 30)) for name in ("one", kind))
    for part in ("model", "ema"):
        assert list(two[part]) == list(one[part])
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=1e-5, atol=1e-6)
    assert two["model"]["steps"].item() == 30
    assert two["model"]["fixed"].item() == 1
    assert two["model"]["offset"].item() < -0.1
    assert one["optimizer"]["state"].keys() == two["optimizer"]["state"].keys() == {0, 1, 2}
    for number, moments in one["optimizer"]["state"].items():
        for name, tensor in moments.items():
            torch.testing.assert_close(two["optimizer"]["state"][number][name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_a_learned_schedule_is_that_of_one_process(folder, kind):
    one, two = (
        checkpoint.load(checkpoint.path_at(folder / f"schedule_{name}" / "checkpoints", 20)) for name in ("one", kind)
    )
    for part in ("model", "ema"):
        assert list(two[part]) == list(one[part])
        assert "sde.learned_ends" in one[part]
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_signal_to_one_stops_all_at_the_same_step(folder):
    """As soon as both have read of it."""
    lines = [line for line in (folder / "said").read_text().splitlines() if "stopped after" in line]
    expected = f"stopped after step {4 + late.DELAY}, which is saved"
    assert sorted(line.split(";")[0] for line in lines) == [f"0 {expected}", f"1 {expected}"]
    # What is saved has been read, too.
    saved = checkpoint.load(checkpoint.path_at(folder / "stopped" / "checkpoints", 4 + late.DELAY))
    assert len(saved["unlogged"]["losses"]) == 4 + late.DELAY


def test_networks_say_what_is_gathered_at_a_time():
    """A module within others; what says nothing is one unit."""
    line = Line()
    assert list(parallel.units(torch.nn.Sequential(line, torch.nn.Linear(2, 2)))) == [line.network[1]]
    assert list(parallel.units(torch.nn.Linear(2, 2))) == []
    # Two resolutions of one block: 2 blocks and a step down, 2 at the bottom, 4 blocks and a step up.
    u_net = NCSNpp(8, 1, channels=8, channel_multipliers=(1, 2), num_blocks=1)
    assert len(list(parallel.units(ScoreModel(u_net, VPSDE())))) == 10
    assert len(list(parallel.units(ScoreModel(MLP(2, width=8, num_blocks=3), VPSDE())))) == 3
    assert len(list(parallel.units(ScoreModel(DiT(4, 1, width=8, num_heads=2, num_blocks=5), VPSDE())))) == 5
