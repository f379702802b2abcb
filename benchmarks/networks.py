"""Speed and memory of DDPM++ beside diffusers' UNet2DModel: `python -m benchmarks.networks`.

Both have the shape of the CIFAR-10 networks of the Score-SDE paper, at a width that fits: 32 x 32 x 3, four levels of
widths 1, 2, 2, 2 with four blocks each, attention at 16 x 16 after every block of the encoder and the last of the
decoder (the peer's other attentions there are taken out), resolution changed inside residual blocks, dropout 0.1.

Settings take turns, and speeds are medians over the rounds. With one thread time is the processor's, which other
programs disturb least; otherwise it is the clock's. Memory is the peak of a process of its own for each setting, above
what it held after its imports (GPU: of allocations). Arithmetic is counted by PyTorch's counter, and compared with what
a large matrix product achieves in the same number format in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import dit
from score_sde.common.files import write_atomically
from score_sde.models import NCSNpp
from score_sde.models.pretrained.diffusers_library import library
from score_sde.training.precision import image_layout

WIDTHS = (1, 2, 2, 2)
NUM_BLOCKS = 4
DROPOUT = 0.1
MIB, GIGA = 2**20, 1e9


@dataclass(frozen=True)
class Setting:
    """A setting is one row of the table."""

    peer: bool
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """The name says how the network is run, without the library's name."""
        parts = [str(self.dtype).removeprefix("torch.")]
        return ", ".join(parts + ["channels last"] * self.channels_last + ["compiled"] * self.compiled)


EAGER = [(dtype, last) for dtype in (torch.float32, torch.bfloat16) for last in (False, True)]
SETTINGS = [
    *(Setting(True, *eager) for eager in EAGER),
    *(Setting(False, *eager) for eager in EAGER),
    Setting(False, torch.float32, True, compiled=True),
    Setting(False, torch.bfloat16, True, compiled=True),
]
BASELINE = SETTINGS[0]


class Peer(nn.Module):
    """diffusers' UNet2DModel has the same shape as our network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        diffusers: Any = library()
        attends = [32 // 2**level == 16 for level in range(len(WIDTHS))]
        self.unet: Any = diffusers.UNet2DModel(
            sample_size=32,
            layers_per_block=NUM_BLOCKS,
            block_out_channels=tuple(channels * width for width in WIDTHS),
            down_block_types=tuple("AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in attends[::-1]),
            downsample_type="resnet",
            upsample_type="resnet",
            attention_head_dim=2 * channels,
            dropout=DROPOUT,
        )
        for block in self.unet.up_blocks:
            for index in range(NUM_BLOCKS if hasattr(block, "attentions") else 0):
                block.attentions[index] = nn.Identity()

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """Return the model's output, shape of `x`."""
        return self.unet(x, noise_label, return_dict=False)[0]


class Subject:
    """A network is measured in a setting, with a batch."""

    def __init__(self, setting: Setting, channels: int, batch: int, device: str) -> None:
        torch.manual_seed(0)
        network = Peer(channels) if setting.peer else NCSNpp(32, 3, channels=channels, dropout=DROPOUT, init_scale=1.0)
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=layout)
        self.noise_label = 999 * torch.rand(batch, device=device)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=setting.dtype == torch.bfloat16)
        if setting.compiled:
            self.network.compile()

    def forward(self) -> None:
        """Return the network's output, as in sampling."""
        self.network.eval()
        with torch.no_grad(), self.autocast:
            self.network(self.x, self.noise_label)

    def both(self) -> None:
        """Compute the gradient of a loss, as in training."""
        self.network.train()
        with self.autocast:
            output = self.network(self.x, self.noise_label)
        output.float().square().mean().backward()
        self.network.zero_grad()

    @property
    def passes(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return the two passes, in the order of the table."""
        return self.forward, self.both


def seconds(run: Callable[[], object], device: str) -> float:
    """Return how many seconds a run takes."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    start = clock()
    run()
    synchronise()
    return clock() - start


def peak_arithmetic(dtype: torch.dtype, device: str) -> float:
    """Return the operations a second of a large matrix product; the best of several."""
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def arithmetic(peer: bool, channels: int) -> list[int]:
    """Return the operations an image of the forward pass, and of both passes."""
    subject = Subject(Setting(peer), channels, 1, "cpu")
    counts = []
    for run in subject.passes:
        # Fused attention is not counted on CPUs; its parts are.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())
    return counts


def peak_memory(subject: Callable[[], Subject], device: str) -> list[float]:
    """Return the peak memory of each pass in MiB, above what this process holds now; NaN where it is not told."""

    def status(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    on_linux = sys.platform == "linux"
    before = status("VmRSS") if on_linux else 0.0
    peaks = []
    for run in subject().passes:
        run()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            run()
            peaks.append(torch.cuda.max_memory_allocated() / MIB)
        elif on_linux:
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
            run()
            peaks.append(status("VmHWM") - before)
        else:
            peaks.append(float("nan"))
    return peaks


def in_own_process(index: int, arguments: argparse.Namespace) -> list[float]:
    """Return `peak_memory` of one setting, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.networks", "--memory-of", str(index), "--device", arguments.device]
    command += ["--channels", str(arguments.channels), "--batch", str(arguments.batch)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()[-2:]]


def measure(chosen: list[Setting], arguments: argparse.Namespace) -> str:
    """Return the table, in Markdown."""
    device, batch = arguments.device, arguments.batch
    subjects = {setting: Subject(setting, arguments.channels, batch, device) for setting in chosen}
    first = {s: [seconds(run, device) for run in subject.passes] for s, subject in subjects.items()}
    rounds: list[dict[Setting, list[float]]] = []
    for _ in range(arguments.rounds):
        rounds.append({s: [seconds(run, device) for run in subject.passes] for s, subject in subjects.items()})
        print(f"round {len(rounds)} of {arguments.rounds}", file=sys.stderr, flush=True)
    times = {s: [statistics.median(r[s][k] for r in rounds) for k in range(2)] for s in chosen}
    memory = {s: in_own_process(SETTINGS.index(s), arguments) for s in chosen}
    operations = {peer: arithmetic(peer, arguments.channels) for peer in (True, False)}
    peak = {dtype: peak_arithmetic(dtype, device) for dtype in (torch.float32, torch.bfloat16)}

    default = image_layout(torch.bfloat16, torch.device(device)) == torch.channels_last
    headings = ["network", "setting"]
    for name in ("forward", "forward + backward"):
        headings += [f"{name}: images/s", "ratio", "MiB", "of peak"]
    lines = [" | ".join([*headings, "compiling, s"]), " | ".join(["---"] * 2 + ["---:"] * 9)]
    for s in chosen:
        is_default = not s.peer and s == Setting(False, torch.bfloat16, default)
        cells = ["UNet2DModel" if s.peer else "DDPM++", f"**{s.name}**" if is_default else s.name]
        for k in range(2):
            speed = batch / times[s][k]
            ratio = times[BASELINE][k] / times[s][k]
            share = operations[s.peer][k] * speed / peak[s.dtype]
            cells += [f"{speed:.1f}", f"{ratio:.2f}", f"{memory[s][k]:.0f}", f"{100 * share:.0f}%"]
        compiling = sum(first[s]) - sum(times[s])
        lines.append(" | ".join([*cells, f"{compiling:.0f}" if s.compiled else ""]))
    table = "\n".join(f"| {line} |" for line in lines)

    gigas = {peer: " and ".join(f"{count / GIGA:.2f}" for count in counts) for peer, counts in operations.items()}
    about = (
        f"{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}; {arguments.channels} channels, "
        f"batches of {batch}, medians of {arguments.rounds} rounds. Peak arithmetic: float32 "
        f"{peak[torch.float32] / GIGA:.0f}, bfloat16 {peak[torch.bfloat16] / GIGA:.0f} GFLOP/s. An image takes "
        f"{gigas[False]} GFLOP (DDPM++), {gigas[True]} (UNet2DModel). Bold: what the paper's configurations use."
    )
    return f"{table}\n\n{about}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU, if there is one")
    parser.add_argument("--channels", type=int, default=64, help="of the first level")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="compiled settings, too: on CPUs many minutes each")
    parser.add_argument("--dit", action="store_true", help="DiT-S/2 beside diffusers' DiTTransformer2DModel instead")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    warnings.filterwarnings("ignore")
    _ = library().UNet2DModel  # imported now, so that memory is counted from here

    if arguments.memory_of is not None:
        setting = SETTINGS[arguments.memory_of]
        options: tuple[Any, ...] = (setting, arguments.channels, arguments.batch, arguments.device)
        print(*peak_memory(lambda: Subject(*options), arguments.device))
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # compile from nothing
        if arguments.dit:
            text = dit.measure(arguments.device, arguments.batch, arguments.rounds, seconds)
        else:
            text = measure([s for s in SETTINGS if arguments.compiled or not s.compiled], arguments)
    print(text, end="")
    if arguments.output is not None:
        with write_atomically(arguments.output) as path:
            path.write_text(text)


if __name__ == "__main__":
    main()
