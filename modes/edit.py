"""Mode `edit`: examples completed, coloured, enlarged, sharpened, redrawn, blended, or taken to latents and back."""

from __future__ import annotations

from score_sde.common.distributed import say
from score_sde.common.interruption import keeping, nothing_kept
from score_sde.experiment import editing
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.solver import note_ignored


def run(experiment: Experiment) -> None:
    """Edit examples as the section `edit` asks for, write them and say how far they are from what was given."""
    editing.prepare(experiment)
    note_ignored(experiment)
    editor = editing.make_editor(experiment)
    with keeping(lambda: nothing_kept("answers are written")):
        done = editing.edit(editor)
        if done is None:
            return
        paths = editing.write(editor, done, experiment.folder)
    for name, value in done.numbers.items():
        say(f"{name.replace('_', ' ')}: {value:.4g}")
    say(", ".join(map(str, paths)))
