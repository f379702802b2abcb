"""Score models: networks, and distributions whose score is known."""

from score_sde.models.analytic_variance import FixedVariance, JacobianVariance, measure_variance
from score_sde.models.ema import EMA
from score_sde.models.flow_map import FlowMap
from score_sde.models.gaussian_mixture import GaussianMixture
from score_sde.models.given import Given, GivenToAll
from score_sde.models.learned_variance import LearnedVariance
from score_sde.models.networks.adm import ADM
from score_sde.models.networks.adm_classifier import ADMClassifier
from score_sde.models.networks.controlnet import ControlNet
from score_sde.models.networks.ddpm import DDPM
from score_sde.models.networks.dit import DiT
from score_sde.models.networks.encoder import Encoder
from score_sde.models.networks.mlp import MLP
from score_sde.models.networks.ncsnpp import NCSNpp
from score_sde.models.networks.unet import UNet
from score_sde.models.noisy_classifier import NoisyClassifier
from score_sde.models.part import PartOf, part_of
from score_sde.models.quantised_model import QuantisedModel
from score_sde.models.score_model import ScoreModel
from score_sde.models.wrapper import ModelWrapper, rows_of

__all__ = [
    "ADM",
    "DDPM",
    "EMA",
    "MLP",
    "ADMClassifier",
    "ControlNet",
    "DiT",
    "Encoder",
    "FixedVariance",
    "FlowMap",
    "GaussianMixture",
    "Given",
    "GivenToAll",
    "JacobianVariance",
    "LearnedVariance",
    "ModelWrapper",
    "NCSNpp",
    "NoisyClassifier",
    "PartOf",
    "QuantisedModel",
    "ScoreModel",
    "UNet",
    "measure_variance",
    "part_of",
    "rows_of",
]
