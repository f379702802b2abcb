"""What the type checker finds, if it knows the project's types; where it takes them for Any, these ignores are unused.

That is an error of its own. Nothing here is run.
"""

from __future__ import annotations

from score_sde import VPSDE, get_solver
from score_sde.sde import VPSDE as VPSDE_OF_ITS_ROOM
from score_sde.sde.vp import VPSDE as VPSDE_OF_ITS_MODULE


def wrong() -> None:
    VPSDE(beta_min="small")  # type: ignore[arg-type]
    VPSDE_OF_ITS_ROOM(beta_min="small")  # type: ignore[arg-type]
    VPSDE_OF_ITS_MODULE(beta_min="small")  # type: ignore[arg-type]
    get_solver(3)  # type: ignore[arg-type]
