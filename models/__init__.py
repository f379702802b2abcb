"""Score models: networks, and distributions whose score is known."""

from models.class_conditional import ClassConditional
from models.ddpm import DDPM
from models.ema import EMA
from models.encoder import Encoder
from models.gaussian_mixture import GaussianMixture
from models.level_model import LevelModel
from models.mlp import MLP
from models.ncsnpp import NCSNpp
from models.noisy_classifier import NoisyClassifier
from models.score_model import ScoreModel

__all__ = [
    "DDPM",
    "EMA",
    "MLP",
    "ClassConditional",
    "Encoder",
    "GaussianMixture",
    "LevelModel",
    "NCSNpp",
    "NoisyClassifier",
    "ScoreModel",
]
