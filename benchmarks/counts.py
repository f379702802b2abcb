"""What networks need, counted and not measured: `python -m benchmarks.counts`.

For each configuration, on tensors without contents: parameters; arithmetic of a training step (forward and backward)
for one image; what it keeps for the backward pass, under bfloat16 autocast; and what follows for a batch of the
configuration's size on GPUs of so many TFLOP/s at a share of them:

    memory = 20 bytes a parameter (weight, gradient, two moments, average; / processes if sharded) + kept tensors
    time   = arithmetic / (TFLOP/s x share x processes)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from score_sde.experiment import build, configuration

CONFIGS = (
    "vp/digits",
    "vp/own",
    "vp/cifar10_ddpmpp_continuous",
    "vp/cifar10_ddpmpp_deep_continuous",
    "ve/celeba_ncsnpp",
    "ve/bedroom_ncsnpp_continuous",
)
_BYTES = 20


@contextmanager
def kept_bytes(ignored: set[int]) -> Iterator[list[int]]:
    """Collect the sizes of the tensors kept for the backward pass, each storage once, but for those ignored."""
    sizes: dict[int, int] = {}
    total: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in ignored:
            sizes[storage._cdata] = storage.nbytes()
        kept.append(tensor)
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield total
    total.append(sum(sizes.values()))


def count(path: str) -> tuple[int, float, float, int]:
    """Return parameters, GFLOP of a step for an image, MB kept for it, and the batch size."""
    config = configuration.load_file(f"configs/{path}.py")
    data = config.data
    data.distortion = 0.0
    shape, levels = (data.num_channels or 3, data.image_size or 8, data.image_size or 8), data.levels
    if data.dataset == "digits" and data.image_size is None:
        shape, levels = (1, 8, 8), 17
    more = {"out_channels": levels * shape[0]} if config.model.prediction == "levels" else {}
    with torch.device("meta"):
        network = build.make_network(config, shape, **more)
        x, noise_label = torch.empty(1, *shape), torch.empty(1)
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}
    with (
        FlopCounterMode(display=False) as flops,
        kept_bytes(parameters) as total,
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = network(x, noise_label)
    forward = flops.get_total_flops()
    del output
    # The backward pass multiplies by each weight and by each input once more.
    return sum(p.numel() for p in network.parameters()), 3 * forward / 1e9, total[0] / 1e6, config.training.batch_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=989, help="of a GPU, in bfloat16; an H100 (SXM) has 989")
    parser.add_argument("--share", type=float, default=0.085, help="of it that is reached; DDPM++, eager: docs/gpu.md")
    arguments = parser.parse_args()
    print("| `configs/` | parameters | GFLOP an image | kept, MB an image | batch | one GPU: GB | s / 1000 steps "
          "| eight: GB each | sharded | s / 1000 steps |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in CONFIGS:
        parameters, gflop, kept, batch = count(path)
        seconds = 1000 * batch * gflop / 1000 / (arguments.tflops * arguments.share)
        weights, activations = _BYTES * parameters / 1e9, batch * kept / 1000
        print(
            f"| `{path}` | {parameters / 1e6:.1f} M | {gflop:.1f} | {kept:.1f} | {batch} | "
            f"{weights + activations:.1f} | {seconds:.0f} | {weights + activations / 8:.1f} | "
            f"{(weights + activations) / 8:.1f} | {seconds / 8:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
