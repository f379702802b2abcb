"""Score-based generative modelling with stochastic differential equations.

  python main.py --mode train         train; by itself: on handwritten digits, in runs/digits
  python main.py --mode sample        draw samples
  python main.py --mode likelihood    bits/dim of test data
  python main.py --mode compare       solvers side by side
  python main.py --mode tune          learn samplers of few calls for a model
  python main.py --mode edit          complete, colour, enlarge, sharpen, redraw or blend pictures
  python main.py --mode export        write a pipeline of diffusers

Any value of the configuration can be set, as in --config.sampling.solver=pc; configs/default.py lists them all.
Repeating --mode train goes on from the newest checkpoint. Several processes: torchrun --nproc-per-node N main.py …
"""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from pathlib import Path

from absl import app, flags

from score_sde.common.errors import Stopped, UserError, naming, ran_out_of_memory
from score_sde.common.files import at_home
from score_sde.common.interruption import keeping, raise_signals

# Threads that wait for each other spin briefly, then sleep: beside other programs ones that only spin take many times
# as long, and ones that only sleep are slower alone (`benchmarks/threads.py`). OpenMP reads it when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

Overrides = list[tuple[str, str]]

MODES = ("train", "sample", "likelihood", "compare", "tune", "edit", "export")

FLAGS = flags.FLAGS
flags.DEFINE_enum("mode", None, MODES, "What to do.")
flags.DEFINE_string(
    "config",
    None,
    "Configuration file; --config.KEY=VALUE changes one of its values. Left out: the one that the workdir was trained "
    "with; to begin: configs/vp/digits.py, or, for data of your own (--config.data.path=…), configs/vp/own.py.",
)
flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: config.json, checkpoints/, logs/, samples/, likelihood/, compare/, edit/. Left out: "
    "that of the --checkpoint, or runs/best for best.pt; or else runs/digits, or runs/ve_digits for --config "
    "configs/ve/digits.py, runs/photos for --config.data.path=photos, and so on.",
)
flags.DEFINE_string(
    "checkpoint",
    None,
    "What to sample from or to evaluate: a checkpoint of ours (.pt, .safetensors) or of the published Score-SDE, DiT "
    "or SiT code (with its --config), or a pipeline of diffusers (a folder, or a name such as google/ddpm-cifar10-32). "
    "Left out: the newest of the workdir.",
)
flags.DEFINE_string(
    "device",
    None,
    "Where to compute: cpu, cuda (under torchrun each process's own GPU), cuda:1, or mps, Apple's. Left out: cuda if "
    "there is one, else cpu.",
)
flags.DEFINE_string("folder", None, "Folder that --mode export writes; it is made.")


def parse(argv: list[str]) -> Overrides:
    """Read the command line into FLAGS; return the values given as `--config.KEY=VALUE`."""
    rest, overrides = argv[:1], []
    arguments = argv[1:]
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.partition("=")
        if not name.startswith(("--config.", "-config.")):
            rest.append(argument)
            continue
        if not equals and arguments and not arguments[0].startswith("--"):
            value = arguments.pop(0)
        overrides.append((name.lstrip("-").removeprefix("config."), value))
    try:
        unexpected = FLAGS(rest)[1:]
        if unexpected:
            raise flags.Error(f"unexpected argument {unexpected[0]!r}; flags begin with --")
        if FLAGS.mode is None:
            raise flags.Error(f"give --mode: one of {', '.join(MODES)}")
        if FLAGS.mode == "train" and FLAGS.checkpoint:
            raise flags.Error(
                "--mode train goes on from the newest checkpoint of its --workdir; leave out --checkpoint"
            )
        if (FLAGS.mode == "export") != bool(FLAGS.folder):
            raise flags.Error("--mode export, and no other, takes --folder FOLDER, where to write the pipeline")
        for flag in ("config", "workdir", "checkpoint", "folder"):
            path = FLAGS[flag].value
            if path:
                FLAGS[flag].value = str(at_home(path))
    except (flags.Error, UserError) as error:
        sys.exit(_complain(" ".join(str(error).split())))
    return overrides


def main(overrides: Overrides) -> int:
    """Do what the flags say; return the exit code."""
    try:
        with raise_signals(), keeping(lambda: "stopped before there was anything to keep; repeat the command"):
            _run(overrides)
    except UserError as error:
        return _complain(str(error))
    except Stopped as stopped:
        # Each of several processes has stopped, and one says so.
        if os.environ.get("RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        return stopped.exit_code
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        return _complain(
            "there is not enough memory: take a smaller batch_size (of the section that this mode has), or a smaller "
            "network, or --config.training.accumulation=2 or more in training"
        )
    return 0


def _run(overrides: Overrides) -> None:
    # Imported here, so that --help and mistakes in flags need not wait for torch.
    from score_sde.common import distributed
    from score_sde.experiment import load, report, runs, stages

    folder = Path(FLAGS.workdir) if FLAGS.workdir else runs.workdir_for(FLAGS.config, FLAGS.checkpoint, overrides)
    with naming("--device"):
        distributed.use_device(FLAGS.device)
    mode = import_module(f"score_sde.modes.{FLAGS.mode}")
    with distributed.process_group():
        cascade = None if FLAGS.checkpoint else stages.find_stages(FLAGS.config, folder, overrides)
        if cascade is not None:
            if FLAGS.mode not in ("train", "sample"):
                one = cascade.all[-1].folder
                raise UserError(f"--mode {FLAGS.mode} is for one stage of the cascade, such as --workdir {one}")
            mode.run_stages(cascade)
            return
        if FLAGS.mode == "train":
            mode.run(load.to_train(FLAGS.config, folder, overrides))
            page = report.report(folder)
            if page is not None:
                distributed.say(f"all there is to see: {page}")
            return
        checkpoint = Path(FLAGS.checkpoint) if FLAGS.checkpoint else None
        experiment = load.to_use(FLAGS.mode, FLAGS.config, folder, checkpoint, overrides)
        if FLAGS.mode == "export":
            mode.run(experiment, Path(FLAGS.folder))
            return
        mode.run(experiment)
        load.remember(experiment.config, folder)
        if FLAGS.mode != "edit":
            report.report(folder)


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def run() -> None:
    """Read the command line, do what it says, and exit with a code."""
    for stream in (sys.stdout, sys.stderr):
        # Letters that a console does not have are shown as in Python.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # --help speaks of the script that was started, whichever it was.
    sys.modules["__main__"].__doc__ = __doc__
    for name in ("mode", "config", "workdir", "checkpoint", "device", "folder"):
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
