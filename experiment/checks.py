"""Whether the values of a configuration stand together, so that a mode can be run: checked before any work is done.

What values each key may have by itself is in `experiment.rules`. Here it is the process and its times, and solvers,
which are rehearsed on a standard normal in one dimension. Only what depends on the data or the checkpoint is left to
those who read them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common.errors import UserError, naming
from score_sde.control.inverse_problems import box_mask
from score_sde.evaluation.comparison.contenders import runs_within
from score_sde.evaluation.samples.distances import NUM_FOLDS
from score_sde.experiment import build, density, networks, objectives, own
from score_sde.experiment.autoencoder_objective import ON_REQUEST
from score_sde.experiment.control_training import check_controls
from score_sde.experiment.couplings import REFLOW, check_coupling, why_no_score
from score_sde.experiment.editing import NUM_STEPS, choose_solver, rehearse
from score_sde.experiment.joint_embedding import check_joint_embedding
from score_sde.experiment.likelihood_tuning import check_tuned_likelihood
from score_sde.experiment.parts import check_parts
from score_sde.experiment.rules import LARGEST_LOG_SNR, check_values
from score_sde.experiment.solver import GITS, make_solver, shared_options
from score_sde.sde import SDE
from score_sde.sde.times import log_snr_range
from score_sde.solvers import log_likelihood
from score_sde.solvers.density.tuned import TUNED
from score_sde.solvers.process import last_time
from score_sde.solvers.standard_normal import StandardNormal

# Noise labels that are functions of the log-SNR.
_LABELS_OF_LOG_SNR = ("log_snr", "rho", "sigma", "alpha", "edm")
# Solvers with more steps are not rehearsed.
_REHEARSED = 1000


def check(config: ConfigDict, mode: str) -> None:
    """See that a configuration can be used for a mode of `main.py`, as far as can be known without data.

    Raises:
        UserError: it cannot be used; the line names the key.
    """
    check_values(config)
    check_joint_embedding(config, mode)
    if config.cascade.stages is not None:
        raise UserError(
            "cascade.stages names several runs, for --mode train and sample: else give the folder of one, or its "
            "configuration"
        )
    if mode == "edit":
        _check_asked(config)
    if mode == "export" or config.sde.name == networks.PIPELINE:
        return
    sde = build.make_sde(config)
    with naming("training"):
        log_snr_range(sde, config.training.t_min)
    for section in ("training", "sampling", "likelihood"):
        with naming(f"{section}.t_min"):
            t_min = last_time(sde, config[section].t_min)
            if not sde.log_snr(torch.tensor(t_min, dtype=torch.float64)).item() <= LARGEST_LOG_SNR:
                raise UserError(
                    f"the log-SNR at {t_min:g} is above {LARGEST_LOG_SNR:g}, or not finite: t_min must lie where "
                    "there is some noise"
                )
    if mode in ("sample", "edit", "compare", "tune"):
        _check_steps(config, mode)
    _CHECKS[mode](config, sde)


def _check_training(config: ConfigDict, sde: SDE) -> None:
    training = config.training
    if config.model.network == "mixture":
        raise UserError("a mixture needs no training: use it with --mode sample, likelihood, compare or tune")
    if config.model.network in networks.AUTOENCODERS:
        _check_autoencoder(config)
        return
    for name in ON_REQUEST:
        if training[name]:
            raise UserError(f"training.{name} is for autoencoders: --config.training.{name}=0")
    _check_flow_map(config)
    _check_learned(config)
    _check_embeddings(config)
    check_parts(config)
    _check_conditioned_on_themselves(config)
    check_controls(config)
    _check_variance(config)
    check_coupling(config, sde)
    objectives.make_objective(config, sde)
    if training.patience and not (config.data.validation and training.evaluate_every):
        raise UserError(
            "training.patience stops by the held-out loss: data.validation and training.evaluate_every say "
            "of how many examples, and how often"
        )
    if not training.measure_every or config.model.network in (*networks.CLASSIFIERS, networks.JOINT_EMBEDDING):
        return
    if training.num_measured < NUM_FOLDS:
        raise UserError(
            f"training.num_measured={training.num_measured} is too few to compare with data: {NUM_FOLDS} or more, or "
            "--config.training.measure_every=0"
        )
    if config.sampling.solver == "tuned":
        raise UserError("training.measure_every draws samples by sampling.solver, and tuned is for trained models")
    if config.sampling.grid == GITS:
        raise UserError(f"training.measure_every draws samples on sampling.grid, and {GITS} is for trained models")
    _rehearse_sampling(config, sde)


def _check_autoencoder(config: ConfigDict) -> None:
    """See that an autoencoder is asked for nothing that only score models have."""
    asked: dict[str, Any] = {
        "model.class_conditional": False,
        "model.flow_map": False,
        "data.missing": False,
        "data.distortion": 0.0,
        "data.masks": "",
        "data.low_resolution": None,
        "data.edges": None,
        "data.autoencoder": None,
        "training.compile": False,
    }
    for key, usual in asked.items():
        section, name = key.split(".")
        if config[section][name] != usual:
            raise UserError(f"{key} is nothing for an autoencoder: --config.{key}={usual}")
    for name in ON_REQUEST:
        if config.training[name] and own.is_own(config.training.objective):
            raise UserError(f"training.{name} is not heard by an objective of your own: --config.training.{name}=0")


def _check_flow_map(config: ConfigDict) -> None:
    """See that what is for few-step models stands together."""
    training, model = config.training, config.model
    jumps = training.objective == "lagrangian"
    if model.flow_map and model.network in networks.CLASSIFIERS:
        raise UserError("a classifier has no flow: --config.model.flow_map=False")
    if jumps != model.flow_map and not own.is_own(training.objective):
        raise UserError(
            "a few-step model has a network that is told two times, and an objective for it: "
            "--config.model.flow_map=True and --config.training.objective=lagrangian"
        )
    taught = jumps or training.coupling == REFLOW
    if not taught and (training.teacher is not None or training.guidance != 1):
        raise UserError(
            "training.teacher and training.guidance are for few-step models: take "
            "--config configs/vp/digits_fewstep.py, or --config.model.flow_map=True "
            "--config.training.objective=lagrangian; or for training.coupling=reflow"
        )
    if training.guidance != 1 and not (training.teacher is not None and model.class_conditional):
        raise UserError(
            "training.guidance is that of a teacher which knows classes: --config.training.teacher=… and "
            "--config.model.class_conditional=True"
        )


def _check_learned(config: ConfigDict) -> None:
    """See that a process is learned by the objective that is for it, with a model that has use for it."""
    learned = config.sde.name == "learned"
    if learned != (config.training.objective == "variational"):
        raise UserError(
            "a process is learned by the variational bound, which is for no other: --config.sde.name=learned and "
            "--config.training.objective=variational"
        )
    if not learned:
        return
    if config.model.network in networks.CLASSIFIERS:
        raise UserError("a classifier learns no process, and guides no model that does: take another --config.sde.name")
    if config.model.noise_label not in _LABELS_OF_LOG_SNR:
        raise UserError(
            f"model.noise_label={config.model.noise_label} tells a network more of the time than its log-SNR, which is "
            f"all that a learned process may have: take {', '.join(_LABELS_OF_LOG_SNR)}"
        )
    if not config.training.reduce_mean:
        raise UserError("training.objective=variational averages over dimensions: --config.training.reduce_mean=True")


def _check_variance(config: ConfigDict) -> None:
    """See that a variance is learned where there is an objective that trains it, and the other way round."""
    objective = config.training.objective
    learned = config.model.variance == build.LEARNED
    if learned != (objective == "hybrid") and not own.is_own(objective):
        raise UserError(
            "a variance is learned by an objective of its own: --config.model.variance=learned and "
            "--config.training.objective=hybrid, as in --config configs/vp/digits_iddpm.py"
        )


def _check_conditioned_on_themselves(config: ConfigDict) -> None:
    """See that pictures which are conditioned on what they are themselves are not changed while that stays."""
    data = config.data
    if data.low_resolution_noise and data.low_resolution is None:
        raise UserError("data.low_resolution_noise is that of small pictures: give their height, data.low_resolution")
    told = [f"data.{name}" for name in ("low_resolution", "edges") if data[name] is not None]
    if told and (data.augment or data.distortion):
        raise UserError(
            f"{told[0]} conditions pictures on themselves as they are: --config.data.augment= "
            "--config.data.distortion=0"
        )


def _check_embeddings(config: ConfigDict) -> None:
    """See that pictures whose embeddings are data, or a condition, are not changed while these stay."""
    data = config.data
    if data.embedding is not None and data.embed_condition is not None:
        raise UserError("data.embedding makes data of what data.embed_condition tells models of pictures: take one")
    if data.embedding is None and data.embed_condition is None:
        return
    if data.augment or data.distortion:
        raise UserError(
            "embeddings are those of pictures as they are: --config.data.augment= --config.data.distortion=0"
        )
    beside = [name for name in ("low_resolution", "edges", "autoencoder") if data[name] is not None]
    if beside and data.embedding is not None:
        raise UserError(f"data.embedding makes vectors of pictures: leave out data.{beside[0]}")


def _check_steps(config: ConfigDict, mode: str) -> None:
    """See that a variance of steps is asked for where samples are drawn by steps that have one."""
    sampling = config.sampling
    if sampling.variance == "model":
        return
    has_noise = sampling.solver == "pc" or (sampling.solver == "ddim" and sampling.eta)
    if mode != "sample" or not has_noise:
        raise UserError(
            f"sampling.variance={sampling.variance} is for --mode sample by steps with noise, sampling.solver=pc, or "
            "ddim with sampling.eta: leave it out"
        )


def _check_sampling(config: ConfigDict, sde: SDE) -> None:
    if config.sampling.solver != "tuned":
        _rehearse_sampling(config, sde)


def _check_likelihood(config: ConfigDict, sde: SDE) -> None:
    options = density.given_likelihood_options(config)
    if config.likelihood.method == TUNED:
        check_tuned_likelihood(config)
        return
    if options.get("num_steps", 0) > _REHEARSED:
        return
    x = torch.ones(1, 2, dtype=torch.float64)
    with naming("section likelihood"):
        log_likelihood(StandardNormal(sde), x, seeds=[0], **options)


def _check_asked(config: ConfigDict) -> None:
    """See that there is something to edit, by a solver that can."""
    edit = config.edit
    if edit.input is None:
        raise UserError("give a picture: --config.edit.input=FILE, or test:0 for a test example")
    if edit.task == "sdedit" and edit.solver == "tuned":
        raise UserError("sdedit starts at a noise level that no solver is tuned for: take another edit.solver")


def _check_editing(config: ConfigDict, sde: SDE) -> None:
    edit = config.edit
    if edit.task == "inpaint" and edit.mask == "box":
        with naming("edit.box"):
            # Of how many axes examples are is seen when they are read.
            box_mask((1,) * (len(edit.box) // 2), edit.box)
    config = copy.deepcopy(config)
    choose_solver(config)
    if config.sampling.solver == "tuned" or (config.sampling.num_steps or 0) > _REHEARSED:
        return
    with naming("section edit, with the options of section sampling"):
        solver = make_solver(config, NUM_STEPS)
    rehearse(config, solver, StandardNormal(sde))


def _check_comparison(config: ConfigDict, sde: SDE) -> None:
    for solver in set(config.compare.solvers) - {"tuned"}:
        with naming("compare.budgets"):
            runs_within(solver, {}, config.compare.budgets, sde, shared_options(config.sampling))


_CHECKS: dict[str, Callable[[ConfigDict, SDE], None]] = {
    "train": _check_training,
    "sample": _check_sampling,
    "likelihood": _check_likelihood,
    "edit": _check_editing,
    "compare": _check_comparison,
    "tune": lambda config, sde: check_tuned_likelihood(config) if config.likelihood.method == TUNED else None,
}


def _rehearse_sampling(config: ConfigDict, sde: SDE) -> None:
    """Draw a sample of a standard normal by the solver asked for, which complains of what does not fit together."""
    with naming(f"section sampling, solver {config.sampling.solver}"):
        solver = make_solver(config)
        if (config.sampling.num_steps or 0) > _REHEARSED:
            return
        x_T = torch.full((1, 1), sde.prior_std, dtype=torch.float64)
        if not bool(solver(StandardNormal(sde, why_no_score(config)), x_T, seeds=[0]).x.isfinite().all()):
            raise UserError("with these options it gives numbers that are not finite")
