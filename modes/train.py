"""Mode `train`: train a model, from the beginning or from the newest checkpoint of the folder."""

from __future__ import annotations

from score_sde.common.distributed import say
from score_sde.common.interruption import keeping
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.training import begin, make_trainer, notes_on_data
from score_sde.training import checkpoint


def run(experiment: Experiment) -> None:
    """Train until `training.num_steps` steps are done, or until the held-out loss no longer falls.

    Raises:
        UserError: training diverges, or a file cannot be written.
        Stopped: a signal came.
    """
    dataset, folder = experiment.dataset, experiment.folder
    trainer = make_trainer(experiment)
    if trainer.ended:
        more = "patience=0" if trainer.stopped_early else f"num_steps={2 * trainer.step}"
        early = ", and stopped early" if trainer.stopped_early else ""
        say(f"{folder} has had its {trainer.step} steps{early}; for more: --config.training.{more}")
        return
    begin(experiment, trainer)
    size = sum(parameter.numel() for parameter in experiment.model.parameters())
    beginning = f", from step {trainer.step}" if trainer.step else ""
    say(f"training {size:,} parameters on {len(dataset.train):,} {dataset.name} in {folder}{beginning}")
    for line in notes_on_data(experiment):
        say(line)

    def kept() -> str:
        newest = checkpoint.latest(folder / "checkpoints") or "none yet"
        return (
            f"stopped within step {trainer.step + 1}, which is not saved; the newest checkpoint: {newest}; to go on: "
            f"python main.py --mode train --workdir {folder}"
        )

    with keeping(kept):
        trainer.train()
    say(f"trained for {trainer.step} steps: {checkpoint.latest(folder / 'checkpoints')}")
    if trainer.stopped_early:
        say(f"stopped early: the last {trainer.best.since} held-out losses were not the lowest")
    if trainer.best.step:
        best = checkpoint.best_in(folder / "checkpoints")
        say(f"the lowest held-out loss, {trainer.best.loss:.4f}, was that of step {trainer.best.step}: {best}")
