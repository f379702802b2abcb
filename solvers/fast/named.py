"""The named solvers of the fast family: a method, the output it is written in, and what is fixed."""

from __future__ import annotations

from collections.abc import Callable

from score_sde.solvers.fast import methods, singlestep
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.table import TableSolver
from score_sde.solvers.fast.table import solver_from_method as solver
from score_sde.solvers.fast.tuned import tuned

FAST_SOLVERS: dict[str, Callable[..., TableSolver]] = {
    "default": recommended,
    "tuned": tuned,
    "ddim": solver(methods.ddim, "noise", calls_a_step=1),
    "euler": solver(singlestep.heun, "noise", "karras", calls_a_step=1, second_order=False),
    "heun": solver(singlestep.heun, "noise", "karras", calls_a_step=2, second_order=True),
    # Noise prediction.
    "dpm_1": solver(methods.adams, "noise", calls_a_step=1, order=1, variable="log_snr", eta=0.0),
    "dpm_2": solver(singlestep.dpm_2, "noise", calls_a_step=2),
    "dpm_3": solver(singlestep.dpm_3, "noise", calls_a_step=3),
    "dpm_1_sde": solver(methods.adams, "noise", calls_a_step=1, order=1, variable="log_snr", eta=1.0),
    "dpm_2m_sde": solver(methods.adams, "noise", order=2, variable="log_snr", eta=1.0),
    "deis": solver(methods.adams, "noise", eta=0.0),
    # Data prediction.
    "dpmpp_1": solver(methods.adams, "data", calls_a_step=1, order=1, variable="log_snr", eta=0.0),
    "dpmpp_2s": solver(singlestep.dpmpp_2s, "data", calls_a_step=2, eta=0.0),
    "dpmpp_2m": solver(methods.dpmpp_2m, "data", eta=0.0),
    "dpmpp_3m": solver(methods.adams, "data", order=3, variable="log_snr", eta=0.0),
    "dpmpp_3m_published": solver(methods.dpmpp_3m_published, "data", eta=0.0),
    "dpmpp_1_sde": solver(methods.adams, "data", calls_a_step=1, order=1, variable="log_snr", eta=1.0),
    "dpmpp_2s_sde": solver(singlestep.dpmpp_2s, "data", calls_a_step=2, eta=1.0),
    "dpmpp_2m_sde": solver(methods.dpmpp_2m, "data", eta=1.0),
    "dpmpp_3m_sde": solver(methods.adams, "data", order=3, variable="log_snr", eta=1.0),
    "unipc": solver(methods.unipc, "data"),
}
