"""What each key of a configuration may be, in one table.

Types are those of `configs/default.py`, which every way in checks (see `configuration`). The table says the rest:
ranges, and names that are known. What depends on other keys is in `experiment.checks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, get_args

from ml_collections import ConfigDict

from score_sde.common.errors import UserError, choose, naming
from score_sde.control.inverse_problems import METHODS
from score_sde.control.operators import LARGEST_BLUR
from score_sde.data.augment import AUGMENTATIONS
from score_sde.data.loading import DAMAGED, RESIZE
from score_sde.data.masks import MASKS
from score_sde.data.registry import DATASETS
from score_sde.data.sources.picture import background
from score_sde.evaluation.likelihood.bounds import BOUNDS
from score_sde.evaluation.samples.distances import NUM_FOLDS
from score_sde.evaluation.samples.inception import METRICS
from score_sde.experiment import build, configuration, density, networks, objectives, own, pipelines, texts, variances
from score_sde.experiment.couplings import COUPLINGS
from score_sde.experiment.edit_tasks import TASKS
from score_sde.experiment.inpainting import TRAINED
from score_sde.experiment.likelihood import CONDITIONS, SPLITS
from score_sde.experiment.solver import GITS, THRESHOLDS
from score_sde.models.networks.adm_classifier import Pool
from score_sde.models.networks.ncsnpp import Block, CombineMethod, Embedding, Progressive, ProgressiveInput
from score_sde.models.preconditioning import NOISE_LABELS
from score_sde.models.score_model import PARAMETRISATIONS
from score_sde.sde.fractions import MOST_SCALE
from score_sde.sde.times import TIME_DISTRIBUTIONS
from score_sde.solvers import SOLVERS
from score_sde.solvers.density.likelihood import DIVERGENCES, PROBES
from score_sde.solvers.density.tuned import TUNED
from score_sde.solvers.fast.methods import Variable, Variant
from score_sde.solvers.fast.table import MOST_STEPS_OF_TABLE
from score_sde.solvers.grids import GRIDS, named_grid
from score_sde.solvers.ode.integrator import METHODS as ODE_METHODS
from score_sde.solvers.stochastic.correctors import CORRECTORS, LANGEVIN_STEP_SIZES
from score_sde.solvers.stochastic.predictors import PREDICTORS
from score_sde.solvers.stochastic.reverse_sde import METHODS as SDE_METHODS
from score_sde.training.objectives import WEIGHTINGS
from score_sde.training.optimization import OPTIMIZERS, SCHEDULES
from score_sde.training.precision import PRECISIONS

# A rule is called with a key and a value that has its type; it raises UserError if the value will not do.
Rule = Callable[[str, Any], None]

# No key has a use for larger numbers; memory ends long before.
_MANY = 10**9
_LARGEST_SEED = 2**32 - 1  # the largest that all users of a seed can take
_NUM_PIXELS = 2**14  # pixels of a picture's side
LARGEST_LOG_SNR = 80.0  # where noise is 4e-18; float32 cannot follow much less
_LEAST_LOG_SNR = -30.0  # where the signal is 3e-7; less is no longer told from none
_LONGEST_NAME = 255  # bytes that the name of a file may have
_BATCH = 10**6
_MOST_TUNED = 1000  # steps of a sampler that is learned
_TABLE = 10**4  # steps of a solver, which has the square of that many coefficients
# Limits of numbers that multiply the data or the loss, in float32.
_LARGE, _SMALL = 1e6, 1e-12
_FARTHEST = 1e100  # ends of a box, in data units
_LARGEST_BETA = 100.0  # larger ones leave less of the data than float32 can hold


def number(low: float = -_LARGE, high: float = _LARGE) -> Rule:
    """Ask for a number within these limits, both included."""

    def rule(key: str, value: float) -> None:
        if not low <= value <= high:
            raise UserError(f"{key} must lie between {low:g} and {high:g}, not {value:g}")

    return rule


def whole(low: int, high: int = _MANY) -> Rule:
    """Ask for a whole number within these limits, both included."""

    def rule(key: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{key} takes whole numbers, not {value}")
        if value < low:
            raise UserError(f"{key} must be at least {low}, not {value}")
        if value > high:
            raise UserError(f"{key} must be at most {high}, not {value}")

    return rule


def positive(high: float = _LARGE, least: float = _SMALL) -> Rule:
    """Ask for a number above 0, from `least` to `high`."""

    def rule(key: str, value: float) -> None:
        if not value > 0:
            raise UserError(f"{key} must be positive, not {value:g}")
        if not least <= value <= high:
            which = f"at least {least:g}" if value < least else f"at most {high:g}"
            raise UserError(f"{key} must be {which}, not {value:g}")

    return rule


def below_one(key: str, value: float) -> None:
    """Ask for a share that is not all: at least 0 and below 1."""
    if not 0 <= value < 1:
        raise UserError(f"{key} must be at least 0 and below 1, not {value:g}")


def one_of(kind: str, names: Iterable[str]) -> Rule:
    """Ask for one of these names, which are those of something of this kind."""
    known = dict.fromkeys(names)
    return reads(lambda name: choose(kind, name, known))


def one_of_or_own(kind: str, names: Iterable[str]) -> Rule:
    """Ask for one of these names, or for a thing of the user's own, `package.module:Name`."""
    known = one_of(kind, names)
    return lambda key, text: None if own.is_own(text) else known(key, text)


def listed(rule: Rule, least: int = 1, most: int = 1000) -> Rule:
    """Ask for a list of `least` to `most` items that keep to the rule."""

    def of_all(key: str, values: tuple[Any, ...]) -> None:
        for value in values:
            rule(key, value)
        if len(values) < least:
            raise UserError(f"{key} must have at least {least} item{'s' * (least > 1)}, not {len(values)}")
        if len(values) > most:
            raise UserError(f"{key} must have at most {most} items, not {len(values)}")

    return of_all


def words(rule: Rule) -> Rule:
    """Ask for comma-separated words that keep to the rule; none at all will do."""
    return lambda key, text: listed(rule, least=0)(key, tuple(word.strip() for word in text.split(",") if text))


def reads(read: Callable[[str], Any]) -> Rule:
    """Ask for a text that `read` can read without a `UserError`."""

    def rule(key: str, text: str) -> None:
        with naming(key):
            read(text)

    return rule


def name(key: str, text: str) -> None:
    """Ask for the name of a file, or the like."""
    if not text.strip() or "\0" in text:
        raise UserError(f"{key} must not be empty")
    if any(len(part.encode()) > _LONGEST_NAME for part in text.split("/")):
        raise UserError(f"{key} is longer than the name of a file can be: {text[:20]}…")


def names(key: str, text: str) -> None:
    """Ask for names of files, or the like, comma-separated."""
    for part in text.split(","):
        name(key, part)


def _grid(key: str, text: str) -> None:
    if ":" in text:
        reads(named_grid)(key, text)
    elif text[:1].isalpha():
        one_of("grid", [*GRIDS, GITS] if key.startswith("sampling.") else GRIDS)(key, text)
    else:
        reads(texts.read_grid)(key, text)


_SHARE = number(0, 1)
_EVERY = whole(0)
_TOLERANCE = positive(high=1e3)
_TIME = number(0, 1)

# Every key has a rule but those that are true or false. None, where it may stand, always fits.
RULES: dict[str, Rule] = {
    "seed": whole(0, _LARGEST_SEED),
    "average": _SHARE,
    "data.dataset": one_of_or_own("dataset", [*DATASETS, build.ARRAYS, build.LATENTS]),
    "data.path": name,
    "data.condition": name,
    "data.text_encoder": name,
    "data.folder": name,
    "data.image_size": whole(1, _NUM_PIXELS),
    "data.image_width": whole(1, _NUM_PIXELS),
    "data.resize": one_of("way of resizing", RESIZE),
    "data.num_channels": whole(1, 3),
    "data.num_classes": whole(1, 10**6),
    "data.low_resolution": whole(1, _NUM_PIXELS),
    "data.edges": positive(high=1.0),
    "data.autoencoder": name,
    "data.embedding": name,
    "data.embed_condition": name,
    "data.low_resolution_noise": below_one,
    "data.shrunk_from": whole(1, _NUM_PIXELS),
    "data.levels": whole(2, 256),
    "data.background": reads(background),
    "data.damaged": one_of("way with damaged images", DAMAGED),
    "data.test_share": below_one,
    "data.split_seed": whole(0, _LARGEST_SEED),
    "data.low": number(),
    "data.high": number(),
    "data.augment": words(one_of("augmentation", AUGMENTATIONS)),
    "data.masks": words(one_of("mask", MASKS)),
    "data.distortion": _SHARE,
    "data.validation": number(0, _MANY),
    "data.fold": whole(0, _LARGEST_SEED),
    "data.box_low": listed(number(-_FARTHEST, _FARTHEST), least=0, most=_MANY),
    "data.box_high": listed(number(-_FARTHEST, _FARTHEST), least=0, most=_MANY),
    "cascade.stages": names,
    "sde.name": one_of_or_own("SDE", [*build.SDES, networks.PIPELINE]),
    "sde.beta_min": number(0, _LARGEST_BETA),
    "sde.beta_max": number(0, _LARGEST_BETA),
    "sde.sigma_min": positive(least=1e-9),
    "sde.sigma_max": positive(least=1e-9),
    "sde.num_rungs": whole(1, 10**6),
    "sde.log_snr_max": number(_LEAST_LOG_SNR, LARGEST_LOG_SNR),
    "sde.log_snr_min": number(_LEAST_LOG_SNR, LARGEST_LOG_SNR),
    "model.network": one_of_or_own(
        "network", [*networks.NETWORKS, *networks.AUTOENCODERS, networks.JOINT_EMBEDDING, "mixture", networks.PIPELINE]
    ),
    "model.prediction": one_of("prediction", [*PARAMETRISATIONS, "levels"]),
    "model.noise_label": one_of("noise label", NOISE_LABELS),
    "model.variance": one_of("variance", build.VARIANCES),
    "model.precision": one_of("precision", pipelines.PRECISIONS),
    "model.lora": name,
    "model.lora_scale": number(-1e3, 1e3),
    "model.data_std": positive(least=1e-6),
    "model.num_blocks": whole(1, 1000),
    "model.channels": whole(1, 10**4),
    "model.channel_multipliers": listed(positive(1000, least=1e-3), most=15),
    "model.dropout": _SHARE,
    "model.attention_depths": listed(whole(-15, 14), least=0),
    "model.input_frequencies": listed(whole(0, 16), least=0),
    "model.control": words(name),
    "model.periodic": listed(whole(0, 2), least=0, most=3),
    "model.attention_resolutions": listed(whole(1, _NUM_PIXELS), least=0),
    "model.embedding": one_of("embedding", get_args(Embedding)),
    "model.fourier_scale": positive(least=1e-6),
    "model.block": one_of("block", get_args(Block)),
    "model.fir_kernel": listed(number(), most=64),
    "model.progressive": one_of("output pyramid", get_args(Progressive)),
    "model.progressive_input": one_of("input pyramid", get_args(ProgressiveInput)),
    "model.combine": one_of("way to combine", get_args(CombineMethod)),
    "model.init_scale": number(0, 1e3),
    "model.channels_per_group": whole(1, 10**4),
    "model.width": whole(1, 10**5),
    "model.patch_size": whole(1, 10**4),
    "model.num_heads": whole(1, 10**4),
    "model.num_heads_up": whole(1, 10**4),
    "model.pool": one_of("pool", get_args(Pool)),
    "model.head_width": whole(1, 10**4),
    "model.num_components": whole(1, 10**5),
    "model.latent_channels": whole(1, 10**4),
    "model.num_codes": whole(2, 10**6),
    "model.embedding_size": whole(2, 10**5),
    "training.start_from": name,
    "training.num_steps": whole(1),
    "training.batch_size": whole(1, _BATCH),
    "training.objective": one_of_or_own("objective", objectives.OBJECTIVES),
    "training.teacher": name,
    "training.guidance": number(-1e3, 1e3),
    "training.coupling": one_of("coupling", COUPLINGS),
    "training.reflow_steps": whole(1, MOST_STEPS_OF_TABLE),
    "training.label_dropout": _SHARE,
    "training.weighting": one_of("weighting", WEIGHTINGS),
    "training.times": one_of("distribution of times", [*TIME_DISTRIBUTIONS, objectives.LOSS_AWARE]),
    "training.vlb_weight": number(0, _LARGE),
    "training.rate_weight": number(0, _LARGE),
    "training.commitment": number(0, _LARGE),
    "training.perceptual_weight": number(0, _LARGE),
    "training.perceptual_network": name,
    "training.adversarial_weight": number(0, _LARGE),
    "training.adversarial_start": whole(0),
    "training.t_min": number(0, 1),
    "training.edm_mean": number(-20, 20),
    "training.edm_std": positive(least=1e-3, high=100),
    "training.logit_mean": number(-20, 20),
    "training.logit_std": positive(least=1e-3, high=100),
    "training.mode_scale": number(-1, MOST_SCALE),
    "training.time_shift": positive(least=1e-3, high=1e3),
    "training.optimizer": one_of("optimizer", OPTIMIZERS),
    "training.learning_rate": positive(high=1e38),
    "training.schedule": one_of("schedule", SCHEDULES),
    "training.warmup_steps": whole(0),
    "training.adam_beta1": below_one,
    "training.adam_beta2": below_one,
    "training.adam_eps": positive(high=1, least=1e-30),
    "training.weight_decay": number(0, 1e3),
    "training.max_grad_norm": number(0, _LARGE),
    "training.ema_decay": _SHARE,
    "training.more_ema_decays": listed(_SHARE, least=0, most=20),
    "training.precision": one_of("precision", PRECISIONS),
    "training.accumulation": whole(1, _BATCH),
    "training.log_every": _EVERY,
    "training.evaluate_every": _EVERY,
    "training.sample_every": _EVERY,
    "training.measure_every": _EVERY,
    "training.num_measured": whole(1, _BATCH),
    "training.checkpoint_every": _EVERY,
    "training.keep_checkpoints": whole(1),
    "training.keep_every": _EVERY,
    "training.patience": whole(0),
    "sampling.solver": one_of_or_own("solver", SOLVERS),
    "sampling.num_samples": whole(1, 10**7),
    "sampling.batch_size": whole(1, _BATCH),
    "sampling.condition": name,
    "sampling.labels": name,
    "sampling.prompt": name,
    "sampling.negative_prompt": name,
    "sampling.controls": words(name),
    "sampling.control_scales": listed(number(-100, 100), least=0),
    "sampling.prior": name,
    "sampling.low_resolution_noise": below_one,
    "sampling.guidance": number(-1e3, 1e3),
    "sampling.guidance_interval": listed(number(0, math.inf), least=0, most=2),
    "sampling.guidance_rescale": _SHARE,
    "sampling.guidance_parallel": _SHARE,
    "sampling.guidance_largest": positive(high=_LARGE),
    "sampling.reference": name,
    "sampling.classifier": name,
    "sampling.variance": one_of("variance", variances.VARIANCES),
    "sampling.metrics": words(one_of("metric", METRICS)),
    "sampling.inception": name,
    "sampling.num_steps": whole(1, _TABLE),
    "sampling.t_min": _TIME,
    "sampling.grid": _grid,
    "sampling.data_std": positive(least=1e-6),
    "sampling.order": whole(1, 20),
    "sampling.variant": one_of("variant", get_args(Variant)),
    "sampling.variable": one_of("variable", get_args(Variable)),
    "sampling.threshold": one_of("threshold", THRESHOLDS),
    "sampling.s_churn": number(0, _LARGE),
    "sampling.s_min": number(0, _LARGE),
    "sampling.s_max": number(0, math.inf),
    "sampling.s_noise": number(0, 100),
    "sampling.eta": number(0, 100),
    "sampling.predictor": one_of("predictor", PREDICTORS),
    "sampling.corrector": one_of("corrector", CORRECTORS),
    "sampling.snr": positive(high=100),
    "sampling.corrector_steps": whole(0, 1000),
    "sampling.step_size": one_of("Langevin step size", LANGEVIN_STEP_SIZES),
    "sampling.method": one_of("method", [*ODE_METHODS, *SDE_METHODS]),
    "sampling.options": reads(texts.read_options),
    "sampling.rtol": _TOLERANCE,
    "sampling.atol": _TOLERANCE,
    "sampling.first_step": positive(high=1),
    "likelihood.split": one_of("split", SPLITS),
    "likelihood.num_examples": whole(1),
    "likelihood.batch_size": whole(1, _BATCH),
    "likelihood.given": one_of("condition", CONDITIONS),
    "likelihood.dequantisation": one_of("dequantisation", density.DEQUANTISATIONS),
    "likelihood.flow_steps": whole(1),
    "likelihood.num_draws": whole(1, 10**4),
    "likelihood.bounds": listed(one_of("bound", BOUNDS), least=0),
    "likelihood.bound_calls": whole(1, 10**6),
    "likelihood.num_rungs": whole(2, 10**6),
    "likelihood.variance": one_of("variance", variances.VARIANCES),
    "likelihood.num_checks": whole(0),
    "likelihood.prior": one_of("prior", density.PRIORS),
    "likelihood.divergence": one_of("divergence", DIVERGENCES),
    "likelihood.num_probes": whole(1, 10**4),
    "likelihood.probe": one_of("probe", PROBES),
    "likelihood.t_min": _TIME,
    "likelihood.method": one_of("ODE method", [*ODE_METHODS, TUNED]),
    "likelihood.options": reads(texts.read_options),
    "likelihood.num_steps": whole(1, _TABLE),
    "likelihood.grid": _grid,
    "likelihood.rtol": _TOLERANCE,
    "likelihood.atol": _TOLERANCE,
    "edit.task": one_of("task", TASKS),
    "edit.input": names,
    "edit.num_samples": whole(1, 10**4),
    "edit.solver": one_of("solver", SOLVERS),
    "edit.num_steps": whole(1, _TABLE),
    "edit.method": one_of("method", (*METHODS, TRAINED)),
    "edit.noise_std": number(0, 1e3),
    "edit.scale": number(0, 1e3),
    "edit.jump": whole(1, _TABLE),
    "edit.repeats": whole(1, _TABLE),
    "edit.iterations": whole(1, _TABLE),
    "edit.num_particles": whole(1, _BATCH),
    "edit.mask": name,
    "edit.box": listed(_SHARE, least=2, most=6),
    "edit.hidden": _SHARE,
    "edit.factor": whole(2, _NUM_PIXELS),
    "edit.blur": positive(high=LARGEST_BLUR),
    "edit.strength": _SHARE,
    "edit.temperature": number(0, 1e3),
    "tuning.num_steps": listed(whole(1, _MOST_TUNED)),
    "tuning.iterations": whole(0),
    "tuning.loss": one_of("loss", ("endpoints", "distribution")),
    "compare.solvers": listed(one_of("solver", SOLVERS)),
    "compare.budgets": listed(whole(1, _TABLE)),
    "compare.repetitions": whole(1, 10**4),
    "compare.num_samples": whole(NUM_FOLDS, 10**7),
    "compare.num_trajectories": whole(0, 10**7),
    "compare.batch_size": whole(1, _BATCH),
}


def check_values(config: ConfigDict) -> None:
    """See that each value is one that its key may have.

    Raises:
        UserError: a value will not do; the line names its key.
    """
    for key, value in configuration.flatten(config):
        if value is not None and key in RULES:
            RULES[key](key, value)
    if config.model.network not in ("adm", "adm_classifier"):
        listed(whole(1, 1000))("model.channel_multipliers", config.model.channel_multipliers)
    if config.data.image_width is not None and config.data.image_size is None:
        raise UserError(f"data.image_width={config.data.image_width} goes with a height: --config.data.image_size=…")
    if not config.data.low < config.data.high:
        raise UserError(f"data.low={config.data.low:g} must lie below data.high={config.data.high:g}")
    low, high = config.data.box_low, config.data.box_high
    if bool(low) != bool(high) or any(a >= b for a, b in zip(low, high, strict=False)):
        raise UserError(f"data.box_low={low} must have ends below those of data.box_high={high}")
    if low and config.data.image_size is not None:
        raise UserError("data.box_low and data.box_high are for vectors, not for pictures: leave them out")
