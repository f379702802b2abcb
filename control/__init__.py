"""Control: one model, many questions. Score controls wrap a model; state controls change states between steps."""

from control.guidance import ClassifierFreeGuidance, ClassifierGuidance
from control.latents import noised, slerp
from control.operators import LinearOperator, Masked, blurred, grey, shrunk
from control.posterior import DPS, Observation, PiGDM
from control.state_control import Controlled, Projection, RePaint

__all__ = [
    "DPS",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Controlled",
    "LinearOperator",
    "Masked",
    "Observation",
    "PiGDM",
    "Projection",
    "RePaint",
    "blurred",
    "grey",
    "noised",
    "shrunk",
    "slerp",
]
