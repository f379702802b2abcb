"""Solver `tuned`: tables that were fitted to a model (see `solvers.fast.tuning`), and the file they are kept in.

The file is JSON: for each number of calls its table's arrays, in float64, and the half log-SNR at its times, by which a
table made for another process is noticed; the Gaussian in whose axes all of them are; and a short name of the model
that they were tuned to, for whoever keeps the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from score_sde.common import gaussian
from score_sde.common.errors import UserError
from score_sde.common.files import write_atomically
from score_sde.common.gaussian import Gaussian
from score_sde.common.resumable import digest
from score_sde.sde import SDE
from score_sde.solvers.fast.default import recommended_table, rule_for
from score_sde.solvers.fast.table import Table
from score_sde.solvers.fast.table_solver import TableSolver
from score_sde.solvers.fast.thresholding import Threshold
from score_sde.solvers.options import check_at_least
from score_sde.solvers.process import last_time

_NOISY_ORDER = 2
# So many numbers of each weight tell whose they are.
_NAMED = 1024
_ARRAYS = ("times", "told", "state", "outputs", "noise", "blend")


def tuned(
    num_steps: int | None = None,
    path: str | Path | None = None,
    table: Table | None = None,
    threshold: Threshold | None = None,
    eta: float | Sequence[float] | Literal["learned"] = 0.0,
) -> TableSolver:
    """Return solver `tuned`.

    Args:
        num_steps: number of calls; needed with `path`, checked otherwise.
        path: a file written by `save_tables`.
        table: the table itself, instead of a path.
        threshold: see `solvers.fast.thresholding`.
        eta: amount of noise while pictures take shape, up to 1, none if 0; or that of each step; or "learned", for
            those in the file (see `solvers.fast.learned_noise`). The table is tuned without any.

    Raises:
        UserError: there is no such file, it has no table of so many steps, or it was made for another process.
    """
    if (path is None) == (table is None):
        raise UserError("the solver 'tuned' needs one of path= (a file of tuned tables) and table=")
    log_snr, learned = None, None
    if path is not None:
        kept = _table_in(Path(path), num_steps)
        table, log_snr, learned = kept.table, kept.log_snr, kept.amounts
    assert table is not None
    made = table
    if num_steps is not None and made.calls != num_steps:
        raise UserError(f"this table was tuned for {made.calls} steps, not {num_steps}: tune one for {num_steps}")
    amounts = learned if isinstance(eta, str) else eta
    if amounts is None:
        raise UserError("no noise was learned for this table: learn it, or give eta a number")
    for amount in amounts if isinstance(amounts, Sequence) else [amounts]:
        check_at_least("eta", amount, 0)
    if isinstance(amounts, Sequence) and len(amounts) != len(made.times):
        raise UserError(f"eta has {len(amounts)} amounts, for the {len(made.times)} steps of this table")

    def for_process(sde: SDE, known: Gaussian | None) -> Table:
        last_time(sde, None)
        if log_snr is not None and not torch.allclose(sde.log_snr(made.times), log_snr, rtol=0, atol=1e-6):
            raise UserError(f"the table {path} was tuned for another process than this model's: tune one for it")
        if abs(float(made.times[0]) - sde.T) > 1e-6:
            raise UserError(f"this table starts at t = {float(made.times[0]):g}, not at {sde.T:g}: take another solver")
        return with_noise(made, sde, amounts) if amounts else made

    return TableSolver(for_process, threshold)


def with_noise(table: Table, sde: SDE, eta: float | Sequence[float]) -> Table:
    """Return a tuned table with noise: what noise changes in the recommended solver's, it changes here.

    That solver is taken at order 2, since high orders amplify noise.

    Raises:
        UserError: the table is none along the axes of a Gaussian.
    """
    if table.gaussian is None:
        raise UserError("this table is not along the axes of a Gaussian, so that noise cannot be added to it")
    rule = rule_for(table.calls, True)._replace(order=_NOISY_ORDER, share=1.0, free=table.free)
    noisy, plain = (recommended_table(sde, table.times, None, table.gaussian, rule, amount) for amount in (eta, 0.0))
    outputs = table.outputs.clone()
    outputs[:, :_NOISY_ORDER] += noisy.outputs - plain.outputs
    return table._replace(state=table.state + noisy.state - plain.state, outputs=outputs, noise=noisy.noise)


class Kept(NamedTuple):
    """A table as it is kept in a file.

    Attributes:
        table: the table.
        log_snr: the log-SNR at its times, under the process that it was made for.
        amounts: the learned amount of noise of each step, or None.
        model: a short name of the weights that it was tuned to; empty if the file does not say.
    """

    table: Table
    log_snr: Tensor
    amounts: list[float] | None
    model: str


def weights_digest(model: Any) -> str:
    """Return a short name for a model's weights: the first numbers of each, so that the largest takes no time, and
    rounded, so that it is the same in half precision."""
    weights: Iterable[Tensor] = getattr(model, "state_dict", dict)().values()
    return digest(*(weight.flatten()[:_NAMED].float().bfloat16() for weight in weights))


def save_tables(
    path: str | Path,
    tables: Mapping[int, Table],
    sde: SDE,
    amounts: Mapping[int, Sequence[float]] | None = None,
    model: str = "",
) -> None:
    """Write tables by their numbers of calls, all along the axes of one Gaussian and tuned to one model, and learned
    amounts of noise.

    The file is written whole or not at all.
    """
    content: dict[str, Any] = {"model": model, "gaussian": None, "tables": {}}
    for number, table in sorted(tables.items()):
        arrays = {name: getattr(table, name) for name in _ARRAYS}
        written: dict[str, Any] = {name: None if array is None else array.tolist() for name, array in arrays.items()}
        written |= {"prediction": table.prediction, "free": table.free, "log_snr": sde.log_snr(table.times).tolist()}
        written["amounts"] = list(amounts[number]) if amounts and number in amounts else None
        content["tables"][str(number)] = written
        content["gaussian"] = None if table.gaussian is None else table.gaussian.describe(exactly=True)
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def load_tables(path: str | Path) -> dict[int, Kept]:
    """Read what `save_tables` wrote, by numbers of calls.

    Raises:
        UserError: there is no such file, or it holds no tables.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        axes = None if content["gaussian"] is None else gaussian.described(content["gaussian"])
        # Files of earlier versions do not say it.
        model = str(content.get("model", ""))
        tables = {int(number): _kept(written, axes, model) for number, written in content["tables"].items()}
    except FileNotFoundError as error:
        raise UserError(f"there are no tuned tables {path}: tune the model first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} does not hold tuned tables: tune the model again") from error
    if not tables or not all(map(_is_well_formed, tables.values())):
        raise UserError(f"{path} does not hold tuned tables: tune the model again")
    return tables


def _table_in(path: Path, num_steps: int | None) -> Kept:
    tables = load_tables(path)
    if num_steps is None and len(tables) == 1:
        return next(iter(tables.values()))
    have = ", ".join(map(str, tables))
    if num_steps is None:
        raise UserError(f"{path} has tables of {have} steps: say which num_steps is wanted")
    if num_steps not in tables:
        raise UserError(f"{path} has tables of {have} steps, none of {num_steps}: tune one of {num_steps}")
    return tables[num_steps]


def _kept(written: Mapping[str, Any], axes: Gaussian | None, model: str) -> Kept:
    arrays: dict[str, Any] = {
        name: None if written[name] is None else torch.tensor(written[name], dtype=torch.float64) for name in _ARRAYS
    }
    table = Table(prediction=written["prediction"], gaussian=axes, free=bool(written["free"]), **arrays)
    amounts = None if written["amounts"] is None else [float(amount) for amount in written["amounts"]]
    return Kept(table, torch.tensor(written["log_snr"], dtype=torch.float64), amounts, model)


def _is_well_formed(kept: Kept) -> bool:
    table, count = kept.table, len(kept.table.times)
    scales = () if table.gaussian is None else (len(table.gaussian.scales),)
    plain = [table.times, table.noise, kept.log_snr] + ([] if table.told is None else [table.told])
    return (
        table.prediction in ("noise", "data")
        and all(tuple(array.shape) == (count,) for array in plain)
        and all(tuple(array.shape) == (count, *scales) for array in (table.state, table.blend))
        and table.outputs.shape[:1] == (count,)
        and tuple(table.outputs.shape[2:]) == scales
        and len(kept.amounts or table.times) == count
    )
