"""Control: one model, many questions. Score controls wrap a model; state controls change states between steps."""

from score_sde.control.composition import Composed
from score_sde.control.guidance import ClassifierGuidance, Guided
from score_sde.control.latents import noised, slerp, varied
from score_sde.control.operators import EachMasked, LinearOperator, Masked, blurred, grey, shrunk
from score_sde.control.posterior import DPS, MMPS, Observation, PiGDM
from score_sde.control.projection import Controlled, Projection, RePaint
from score_sde.control.twisted import TDS, Particles

__all__ = [
    "DPS",
    "MMPS",
    "TDS",
    "ClassifierGuidance",
    "Composed",
    "Controlled",
    "EachMasked",
    "Guided",
    "LinearOperator",
    "Masked",
    "Observation",
    "Particles",
    "PiGDM",
    "Projection",
    "RePaint",
    "blurred",
    "grey",
    "noised",
    "shrunk",
    "slerp",
    "varied",
]
