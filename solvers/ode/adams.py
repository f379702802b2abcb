r"""Adams methods on nodes of any spacing, with one call a step.

The solution of `dy/ds = F(s, y)` goes on from `s_i` by the polynomial through the last `k` slopes, which predicts where
to ask for the next; with that slope among them, it is done again:

    predicted = y_i + sum_{j <= i} w_j F_j,   F_{i+1} = F(s_{i+1}, predicted),   y_{i+1} = y_i + sum_{j <= i+1} w'_j F_j

(Adams-Bashforth predictor, Adams-Moulton corrector, no second evaluation: "PEC"; Hairer, Nørsett & Wanner, Solving
Ordinary Differential Equations I, section III.1). The order is `k + 1`. The first steps have fewer slopes.
"""

from __future__ import annotations

from torch import Tensor

from score_sde.solvers.ode.runge_kutta import Field, Visit
from score_sde.solvers.quadrature import adams_weights

MAX_ORDER = 4


def integrate_adams(
    field: Field, y: Tensor, nodes: Tensor, max_order: int = MAX_ORDER, visit: Visit | None = None
) -> Tensor:
    """Return the solution at the last of the `nodes`, from `y` `(B, n)` at the first, by `len(nodes)` calls.

    Args:
        field: right-hand side; called with `s` `()`.
        y: state at the first node.
        nodes: rising or falling, float64, on the CPU.
        max_order: `k`, the number of slopes the predictor uses.
        visit: called at each node but the last with what is predicted there, of which the slope is known.
    """
    slopes = [field(nodes[0], y)]
    if visit is not None and len(nodes) > 1:
        visit(nodes[0], y, slopes[0])
    for i in range(len(nodes) - 1):
        first = max(0, i + 1 - max_order)
        start, end = nodes[i], nodes[i + 1]
        predicted = _advance(y, adams_weights(nodes[first : i + 1], start, end, rate=0.0), slopes)
        slopes.append(field(nodes[i + 1], predicted))
        if visit is not None and i + 2 < len(nodes):
            visit(nodes[i + 1], predicted, slopes[-1])
        y = _advance(y, adams_weights(nodes[first : i + 2], start, end, rate=0.0), slopes)
        slopes = slopes[-max_order:]
    return y


def _advance(y: Tensor, weights: Tensor, slopes: list[Tensor]) -> Tensor:
    return y + sum(weight * slope for weight, slope in zip(weights.tolist(), slopes[-len(weights) :], strict=True))
