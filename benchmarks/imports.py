"""What start-up costs: `OMP_NUM_THREADS=1 python -m benchmarks.imports`.

Three processes take turns, and the medians over the rounds are compared:

    torch    import torch
    names    from score_sde import VPSDE, GaussianMixture, ScoreModel, get_solver, log_likelihood
    train    python main.py --mode train, as far as the network's first call

The goals are names <= 1.15 torch, and train <= names + 1.5 s. Then the packages are listed whose modules took longest
to import beside those that torch imports itself (`python -X importtime`, once).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = "from score_sde import VPSDE, GaussianMixture, ScoreModel, get_solver, log_likelihood"
TRAIN = """
import sys

def begun(*_):
    report()
    # Nothing of the run is wanted, and nothing that would be done at its end.
    os._exit(0)

import os
import torch
torch.nn.modules.module.register_module_forward_pre_hook(begun)
sys.argv = ["main.py", "--mode", "train", "--workdir", sys.argv[1]]
from score_sde.__main__ import run
run()
"""
PROGRAMS = {"torch": "import torch\nreport()", "names": f"{NAMES}\nreport()", "train": TRAIN}
_CLOCK = """
import time
begin = time.perf_counter()

def report():
    print("seconds", time.perf_counter() - begin, flush=True)

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    # The first round warms the disk's cache.
    for number in range(arguments.rounds + 1):
        for name in PROGRAMS:
            value = seconds(name)
            if number:
                taken[name].append(value)
    median = {name: statistics.median(values) for name, values in taken.items()}
    print("| what | seconds | / torch | - names |")
    print("|---|---|---|---|")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} | {value / median['torch']:.3f} | {value - median['names']:+.2f} |")
    for name in ("names", "train"):
        slow = ", ".join(f"{package} {value:.2f} s" for package, value in slowest(name))
        print(f"\nslowest for {name}, beside torch: {slow or 'nothing'}")


def seconds(name: str) -> float:
    """Run a program in a process of its own and return the seconds that it reports."""
    said = _run([], name).stdout
    return float(next(line for line in said.splitlines() if line.startswith("seconds")).split()[1])


def slowest(name: str, count: int = 6, least: float = 0.01) -> list[tuple[str, float]]:
    """Return the packages whose modules take longest to import, in seconds, beside what torch imports."""
    known = set(_import_times("torch"))
    packages: Counter[str] = Counter()
    for module, taken in _import_times(name).items():
        if module not in known:
            packages[module.split(".")[0]] += taken  # type: ignore[assignment]
    return [(package, taken) for package, taken in packages.most_common(count) if taken >= least]


def _import_times(name: str) -> dict[str, float]:
    """Return the seconds that each module took by itself."""
    times = {}
    for line in _run(["-X", "importtime"], name).stderr.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            own, _, module = line.removeprefix("import time:").split("|")
            times[module.strip()] = int(own) / 1e6
    return times


def _run(options: list[str], name: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *options, "-c", _CLOCK + PROGRAMS[name], folder]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main()
