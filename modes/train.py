"""Mode `train`: train a model, from the beginning or from the newest checkpoint of the folder."""

from __future__ import annotations

from score_sde.common.distributed import say
from score_sde.common.interruption import keeping
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.training import begin, make_trainer
from score_sde.training import checkpoint


def run(experiment: Experiment) -> None:
    """Train until `training.num_steps` steps are done.

    Raises:
        UserError: training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    config, dataset, folder = experiment.config, experiment.dataset, experiment.folder
    trainer = make_trainer(experiment)
    if trainer.step >= config.training.num_steps:
        say(f"{folder} has had its {trainer.step} steps; for more: --config.training.num_steps={2 * trainer.step}")
        return
    begin(experiment, trainer)
    size = sum(parameter.numel() for parameter in experiment.model.parameters())
    beginning = f", from step {trainer.step}" if trainer.step else ""
    say(f"training {size:,} parameters on {len(dataset.train):,} {dataset.name} in {folder}{beginning}")

    def kept() -> str:
        newest = checkpoint.latest(folder / "checkpoints") or "none yet"
        return (
            f"stopped within step {trainer.step + 1}, which is not saved; the newest checkpoint: {newest}; to go on: "
            f"python main.py --mode train --workdir {folder}"
        )

    with keeping(kept):
        trainer.train()
    say(f"trained for {trainer.step} steps: {checkpoint.latest(folder / 'checkpoints')}")
