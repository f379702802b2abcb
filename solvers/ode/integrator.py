"""Integrating an ODE: with a step size for each example, or by any of torchdiffeq's methods."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from score_sde.common.arguments import checked_class, checked_value
from score_sde.common.errors import UserError, choose, nearest
from score_sde.common.float64 import widest_dtype
from score_sde.solvers.ode.adams import integrate_adams
from score_sde.solvers.ode.adaptive_adams import integrate_adaptive_adams
from score_sde.solvers.ode.flow import RESOLUTION, ProbabilityFlow
from score_sde.solvers.ode.recomputed import recomputed
from score_sde.solvers.ode.runge_kutta import (
    Field,
    Norm,
    StepFailureError,
    Visit,
    integrate_per_example,
    root_mean_square,
)
from score_sde.solvers.ode.tableaus import TABLEAUS
from score_sde.solvers.ode.visits import AcceptedSteps, FixedSteps, ScipySteps
from score_sde.solvers.options import MOST_STEPS, check_between, check_positive, check_tolerance

# Their coefficients are those of equal steps.
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")

# Our own: for nodes of any spacing, and for steps of each example's own.
ADAMS_ON_NODES = "adams"
ADAPTIVE_ADAMS = "adaptive_adams"
# torchdiffeq's methods by name; itself it is imported by those who take one that is not ours.
_FIXED_STEPS = ("euler", "midpoint", "heun2", "heun3", "rk4", *ADAMS)
METHODS = (
    "dopri8",
    "dopri5",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
    *_FIXED_STEPS,
    "scipy_solver",
    ADAMS_ON_NODES,
    ADAPTIVE_ADAMS,
)

_ADAPTIVE_ADAMS_OPTIONS = ("first_step", "max_step", "safety", "max_order", "max_num_steps")
_OWN_OPTIONS = ("first_step", "max_step", "safety", "ifactor", "dfactor", "max_num_steps")
# It takes the place of a method without an adjoint where derivatives are wanted.
_WITH_ADJOINT = "dopri5"
_SCIPY_SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
# Numbers among the options of any method: their type, least and largest value.
_RANGES: dict[str, tuple[type, float, float]] = {
    "first_step": (float, 0, math.inf),
    "min_step": (float, 0, math.inf),
    "max_step": (float, 0, math.inf),
    "safety": (float, 0, 1),
    "ifactor": (float, 1, math.inf),
    "dfactor": (float, 0, 1),
    "max_num_steps": (int, 1, math.inf),
    "max_iters": (int, 1, MOST_STEPS),
    "max_order": (int, 1, 12),
}
_POSITIVE = ("first_step", "max_step", "safety", "dfactor")
# Parameters of torchdiffeq's methods that come from elsewhere.
_NOT_OPTIONS = ("self", "func", "y0", "rtol", "atol", "step_t", "kwargs", "unused_kwargs")
# What torchdiffeq's assertions say when it cannot go on.
_FAILURES = {
    "underflow in dt": "the step size vanished",
    "max_num_steps exceeded": "max_num_steps were not enough",
    "non-finite values in state": "the state is not finite",
}


@checked_class
@dataclass(frozen=True)
class Integrator:
    """How an ODE is integrated.

    Embedded Runge-Kutta methods (`dopri5`, `dopri8`, `bosh3`, `adaptive_heun`, `fehlberg2`) have a step size for each
    example, so that results do not depend on batch mates. With `per_example=False` they are left to torchdiffeq, whose
    error norm, and therefore whose step size, is one for the whole batch. All other methods are torchdiffeq's:
    `scipy_solver`, adaptive with one step for the batch (`options={"solver": …}` as in `scipy.integrate.solve_ivp`),
    and those with fixed steps. `adams`, with fixed steps, one call each, is ours (see `solvers.ode.adams`), and so is
    `adaptive_adams`, with steps and orders for each example, one call each (see `solvers.ode.adaptive_adams`).

    Where derivatives are wanted, those of fixed steps are of these steps, exactly (see `solvers.ode.recomputed`); all
    others are by torchdiffeq's adjoint equation, to the tolerance, and `dopri5` takes the place of `adaptive_adams`.

    Args:
        method: a method of torchdiffeq, `adams` or `adaptive_adams`.
        rtol: relative tolerance of adaptive steps; None for `default_tolerance`.
        atol: absolute tolerance of adaptive steps; likewise.
        options: the method's own; see torchdiffeq. Lengths are those of the field's independent variable.
        per_example: see above.

    Raises:
        UserError: an option is unknown or out of range.
    """

    method: str = "dopri5"
    rtol: float | None = None
    atol: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    per_example: bool = True

    def __post_init__(self) -> None:
        choose("ODE method", self.method, dict.fromkeys(METHODS))
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None:
                check_tolerance(name, value)
        if self.takes_fixed_steps and {"step_size", "grid_constructor"} & set(self.options):
            raise UserError(f"method {self.method!r} has its steps from num_steps and grid, not from options")
        if self._is_adams:
            self._check_options(("max_order",), f"method {self.method!r}", "")
        elif self._is_adaptive_adams:
            self._check_options(_ADAPTIVE_ADAMS_OPTIONS, f"method {self.method!r}", "")
            if not self.per_example:
                raise UserError(f"method {self.method!r} has steps for each example: take another, such as dopri5")
        elif self._owns_steps:
            whose = f"method {self.method!r} with a step for each example"
            self._check_options(_OWN_OPTIONS, whose, "; torchdiffeq's are there with per_example=False")
        else:
            self._check_options(self._torchdiffeq_options, f"method {self.method!r}", "")
        self._check_values()

    @property
    def takes_fixed_steps(self) -> bool:
        """Whether the method steps through given nodes, rather than choosing its own."""
        return self._is_adams or self.method in _FIXED_STEPS

    @property
    def default_grid(self) -> str:
        """The default grid has the nodes of a method with fixed steps, unless given."""
        return "log_angle" if self._is_adams else "uniform_log_snr"

    @property
    def resolution(self) -> float:
        """The independent variable turns from the angle to its logarithm there; see `ProbabilityFlow`."""
        return 1e-6 if self._is_adams else RESOLUTION

    @property
    def _is_adams(self) -> bool:
        return self.method == ADAMS_ON_NODES

    @property
    def _is_adaptive_adams(self) -> bool:
        return self.method == ADAPTIVE_ADAMS

    @property
    def _owns_steps(self) -> bool:
        return self.per_example and self.method in TABLEAUS

    def __call__(
        self,
        flow: ProbabilityFlow,
        derivative: Field,
        y: Tensor,
        nodes: Tensor,
        norm: Norm = root_mean_square,
        parameters: tuple[Tensor, ...] | None = None,
        visit: Visit | None = None,
        integrals: int = 0,
    ) -> Tensor:
        """Return the solution of `dy/ds = derivative(s, y)` at the last node.

        Args:
            flow: knows the times of nodes, for messages.
            derivative: called with `s` of shape `()` or `(B,)`.
            y: state `(B, n)` at the first node.
            nodes: the steps of methods with fixed ones; of others, only the ends count; float64, on the CPU.
            norm: size of each example's error.
            parameters: what the solution can be differentiated by, beside `y`, with steps for the whole batch. None: by
                nothing.
            visit: called with the state at the start of each step; where it is not to be differentiated by anything.

            integrals: so many of the last numbers of a state are integrals beside it; `adaptive_adams` keeps their
                errors below `atol`, whatever they have come to.

        Raises:
            UserError: the solution cannot be followed; says where, and what to change.
        """
        if self._is_adaptive_adams and parameters is not None:
            other = replace(self, method=_WITH_ADJOINT)
            return other(flow, derivative, y, nodes, norm, parameters, visit)
        if self.takes_fixed_steps and parameters is not None:
            derivative = recomputed(derivative, parameters)
        rtol, atol = self.tolerances(y.dtype)
        try:
            if self._is_adams:
                y = integrate_adams(derivative, y, nodes, visit=visit, **self.options)
            elif self._is_adaptive_adams:
                start, end = float(nodes[0]), float(nodes[-1])
                tolerances: dict[str, Any] = {"rtol": rtol, "atol": atol, "norm": norm, "integrals": integrals}
                y = integrate_adaptive_adams(derivative, y, start, end, **tolerances, visit=visit, **self.options)
            elif self._owns_steps and parameters is None:
                start, end, tableau = float(nodes[0]), float(nodes[-1]), TABLEAUS[self.method]
                y = integrate_per_example(
                    derivative, y, start, end, tableau, rtol=rtol, atol=atol, norm=norm, visit=visit, **self.options
                )
            else:
                y = self._torchdiffeq(derivative, y, nodes, norm, rtol, atol, parameters, visit)
            if not bool(y.isfinite().all()):
                raise StepFailureError("the solution is not finite", float(nodes[-1]))
        except StepFailureError as failure:
            raise UserError(self._advice(failure, flow, rtol, atol)) from failure
        return y

    def _check_options(self, known: tuple[str, ...], whose: str, advice: str) -> None:
        for option in self.options:
            if option not in known:
                raise UserError(
                    f"{whose} has no option {option!r}{nearest(option, known)}; it has: {', '.join(known)}{advice}"
                )

    @property
    def _torchdiffeq_options(self) -> tuple[str, ...]:
        from torchdiffeq._impl.odeint import SOLVERS

        classes = [SOLVERS[self.method], *([SOLVERS["fixed_adams"]] if self.method in ADAMS else [])]
        names = [name for solver in classes for name in inspect.signature(solver.__init__).parameters] + ["norm"]
        return tuple(name for name in dict.fromkeys(names) if name not in _NOT_OPTIONS)

    def _check_values(self) -> None:
        for name, value in self.options.items():
            if name in _RANGES:
                kind, least, most = _RANGES[name]
                checked_value(f"method {self.method!r}", name, value, kind, default=math.inf)
                check_between(name, value, least, most)
            if name in _POSITIVE:
                check_positive(name, value)
            if name == "solver":
                choose("solver of scipy", value, dict.fromkeys(_SCIPY_SOLVERS))

    def tolerances(self, dtype: torch.dtype) -> tuple[float, float]:
        """Return `rtol` and `atol` for states of this dtype."""
        default = default_tolerance(dtype, self.method)
        return default if self.rtol is None else self.rtol, default if self.atol is None else self.atol

    def _torchdiffeq(
        self,
        derivative: Field,
        y: Tensor,
        nodes: Tensor,
        norm: Norm,
        rtol: float,
        atol: float,
        parameters: tuple[Tensor, ...] | None,
        visit: Visit | None,
    ) -> Tensor:
        from torchdiffeq import odeint, odeint_adjoint

        dtype = widest_dtype(y.device)
        if self.method in ADAMS and dtype != torch.float64:
            raise UserError(
                f"ODE method {self.method!r} needs float64, which {y.device} has not: take one such as "
                f"{ADAMS_ON_NODES!r}"
            )
        # torchdiffeq has times where the states are.
        nodes = nodes.to(dtype).to(y.device)
        place = nodes[0]

        def remembering(s: Tensor, y: Tensor) -> Tensor:
            nonlocal place
            place = s
            return derivative(s, y)

        ends = torch.stack([nodes[0], nodes[-1]])
        options: dict[str, Any]
        if self.takes_fixed_steps:
            options = {"grid_constructor": lambda *_: nodes}
        else:
            options = {"norm": lambda error: root_mean_square(norm(error)[None])[0]}
        if "dtype" in self._torchdiffeq_options:
            options["dtype"] = dtype
        if self.method in TABLEAUS:
            # A step ends where the solution is wanted, rather than beyond it.
            options["step_t"] = ends[1:]
        options |= self.options
        common: dict[str, Any] = {"rtol": rtol, "atol": atol, "method": self.method, "options": options}
        try:
            if parameters is None or self.takes_fixed_steps:
                field = remembering if visit is None else self._visited(remembering, visit, nodes, y, options)
                path = odeint(field, y, ends, **common)
            else:
                # The parameters' part of the adjoint state is an integral and does not steer the steps.
                back = {"norm": "seminorm"}
                path = odeint_adjoint(remembering, y, ends, **common, adjoint_params=parameters, adjoint_options=back)
        except AssertionError as error:
            for pattern, meaning in _FAILURES.items():
                if pattern in str(error):
                    raise StepFailureError(meaning, float(place)) from error
            raise
        if len(path) != len(ends):
            raise StepFailureError("the integrator gave up", float(place))
        return path[-1]

    def _visited(self, field: Field, visit: Visit, nodes: Tensor, y: Tensor, options: dict[str, Any]) -> Field:
        """Return the right-hand side beside which the method's steps are visited; its options may have to change."""
        if self.takes_fixed_steps:
            return FixedSteps(field, visit)
        if self.method in TABLEAUS:
            return AcceptedSteps(field, visit)
        steps = ScipySteps(field, visit)
        options["solver"] = steps.solver(options.get("solver", "LSODA"), nodes, y)
        return steps

    def _advice(self, failure: StepFailureError, flow: ProbabilityFlow, rtol: float, atol: float) -> str:
        where = "" if failure.s is None else f" at t = {float(flow.time(torch.tensor(failure.s))):.3g}"
        whose = "" if failure.example is None else f" (example {failure.example})"
        what = f"ODE method {self.method!r}: {failure}{where}{whose}"
        if self.takes_fixed_steps:
            return f"{what}; take more steps, or raise t_min={flow.t_min:g}"
        return f"{what}; raise rtol={rtol:g} and atol={atol:g}, raise t_min={flow.t_min:g}, or compute in float64"


def default_tolerance(dtype: torch.dtype, method: str = "dopri5") -> float:
    """Return `rtol` and `atol` unless given: 1e-7 for float64; else 1e-3, or 1.5e-3 for `adaptive_adams`.

    That is less than networks' own errors. On networks trained on digits, 1e-3 costs `dopri5` 70 calls and puts
    log-likelihoods off by 0.002 nats per dimension, on average by 0.0005: a tenth of the statistical error of 360
    examples.
    """
    if dtype == torch.float64:
        return 1e-7
    return 1.5e-3 if method == ADAPTIVE_ADAMS else 1e-3
