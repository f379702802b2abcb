"""Write a trained model as a pipeline of diffusers: python modes/export.py --checkpoint FILE [--config FILE] --folder FOLDER

The checkpoint is one of ours, or a published one with its configuration. What can be written is listed in
models/pretrained/diffusers_export.py. Any value of the configuration can be set, as in --config.model.channels=64.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags

from score_sde import __main__ as main
from score_sde.common.errors import UserError
from score_sde.common.files import at_home

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", None, "Folder to write; it is made.")


def export(overrides: main.Overrides) -> int:
    """Do what the flags say; returns the exit code."""
    try:
        from score_sde.experiment import build, runs
        from score_sde.models import ScoreModel
        from score_sde.models.pretrained.diffusers_export import save_pipeline

        if not FLAGS.folder or not FLAGS.checkpoint:
            raise UserError("give --checkpoint FILE and --folder FOLDER")
        folder = at_home(FLAGS.folder)
        config, found = runs.configuration_to_use(FLAGS.config, folder, Path(FLAGS.checkpoint), overrides)
        assert found is not None
        dataset = build.make_dataset(config, files_needed=False)
        model = found.make_model(config, dataset)
        if not isinstance(model, ScoreModel) or not dataset.is_image:
            raise UserError("only score models of images can be pipelines")
        save_pipeline(model.eval(), folder, dataset.shape[-1])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(f"written to {folder}: python main.py --mode sample --checkpoint {folder}")
    return 0


def parse(argv: list[str]) -> main.Overrides:
    """Read the command line, as main.py does; its mode goes without saying."""
    return main.parse([*argv, "--mode=sample"])


if __name__ == "__main__":
    app.run(export, flags_parser=parse)
