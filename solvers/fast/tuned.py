"""Solver `tuned`: a table that was fitted to a model (see `solvers.fast.tuning`), and the file it is kept in.

The file is JSON: the table's arrays, in float64, and the half log-SNR at its times, by which a table made for another
process is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.sde import SDE
from score_sde.solvers.fast.default import recommended_table
from score_sde.solvers.fast.table import Table, TableSolver
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.options import check_at_least, check_positive
from score_sde.solvers.process import last_time

_NOISY_ORDER = 2
_ARRAYS = ("times", "state", "outputs", "noise", "blend")


def tuned(
    num_steps: int | None = None,
    path: str | Path | None = None,
    table: Table | None = None,
    threshold: Threshold | None = None,
    eta: float = 0.0,
    data_std: float = 0.5,
) -> TableSolver:
    """Return solver `tuned`.

    Args:
        num_steps: number of calls; needed where `path` is a folder, checked otherwise.
        path: a file written by `save_table`, or a folder of them, named by `table_path`.
        table: the table itself, instead of a path.
        threshold: see `solvers.fast.thresholding`.
        eta: amount of noise while pictures take shape, up to 1; none if 0. The table is tuned without any.
        data_std: with noise: standard deviation of the data that the table was tuned with.

    Raises:
        UserError: there is no such file, it is not a table, or it was made for another number of steps, another
        process or other data.
    """
    if (path is None) == (table is None):
        raise UserError("the solver 'tuned' needs one of path= (a file or folder of tuned tables) and table=")
    check_at_least("eta", eta, 0)
    check_positive("data_std", data_std)
    log_snr = None
    if path is not None:
        table, log_snr = _read(Path(path), num_steps)
    assert table is not None
    made = table
    if num_steps is not None and len(made.times) != num_steps:
        raise UserError(f"this table was tuned for {len(made.times)} steps, not {num_steps}: tune one for {num_steps}")

    def for_process(sde: SDE) -> Table:
        last_time(sde, None)
        if log_snr is not None and not torch.allclose(sde.log_snr(made.times), log_snr, rtol=0, atol=1e-6):
            raise UserError(f"the table {path} was tuned for another process than this model's: tune one for it")
        if abs(float(made.times[0]) - sde.T) > 1e-6:
            raise UserError(f"this table starts at t = {float(made.times[0]):g}, not at {sde.T:g}: take another solver")
        return with_noise(made, sde, data_std, eta) if eta else made

    return TableSolver(for_process, threshold)


def with_noise(table: Table, sde: SDE, data_std: float, eta: float) -> Table:
    """Return a tuned table with noise: what noise changes in the recommended solver's, it changes here.

    That solver is taken at order 2, since high orders amplify noise.

    Raises:
        UserError: the table was tuned with another `data_std`.
    """
    noisy, plain = (recommended_table(sde, table.times, None, _NOISY_ORDER, data_std, amount) for amount in (eta, 0.0))
    if not torch.allclose(plain.blend, table.blend, atol=1e-6):
        raise UserError(f"this table was not tuned with data_std={data_std:g}: give the same, or tune one with it")
    state, outputs = table.state + noisy.state - plain.state, table.outputs + noisy.outputs - plain.outputs
    return table._replace(state=state, outputs=outputs, noise=noisy.noise)


def table_path(folder: str | Path, num_steps: int) -> Path:
    """Return where the table for a number of steps lies in a folder."""
    return Path(folder) / f"tuned_{num_steps}.json"


def save_table(path: str | Path, table: Table, sde: SDE) -> None:
    """Write a table, whole or not at all."""
    content = {name: getattr(table, name).tolist() for name in _ARRAYS}
    content |= {"prediction": table.prediction, "log_snr": sde.log_snr(table.times).tolist()}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def load_table(path: str | Path) -> Table:
    """Read a table that `save_table` wrote.

    Raises:
        UserError: there is no such file, or it is not a table.
    """
    return _read(Path(path), None)[0]


def _read(path: Path, num_steps: int | None) -> tuple[Table, torch.Tensor]:
    if path.is_dir():
        if num_steps is None:
            raise UserError(f"{path} is a folder: say for which num_steps the tuned table is wanted")
        path = table_path(path, num_steps)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        arrays = {name: torch.tensor(content[name], dtype=torch.float64) for name in _ARRAYS}
        table = Table(prediction=content["prediction"], **arrays)
        log_snr = torch.tensor(content["log_snr"], dtype=torch.float64)
    except FileNotFoundError as error:
        raise UserError(f"there is no tuned table {path}: tune the model first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a tuned table: tune the model again") from error
    count = len(table.times)
    shapes = [tuple(array.shape) for array in (table.times, table.state, table.noise, table.blend, log_snr)]
    well_formed = set(shapes) == {(count,)} and tuple(table.outputs.shape) == (count, count)
    if not well_formed or table.prediction not in ("noise", "data"):
        raise UserError(f"{path} is not a tuned table: tune the model again")
    return table, log_snr
