"""Parts of a pipeline that lie in main memory, of which one at a time is on the accelerator: the one that is in use.

    main memory     text encoders, network, autoencoder
    accelerator     the part that was called last

A part is brought when it is called, after that which was there has made room. Weights are copied, so that what is
computed is the same to the bit. A network remains for all steps of a solver: samples cost one copy of each part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn


class OneAtATime:
    """One of several modules at a time is on a device, the others are in main memory.

    Args:
        device: where modules compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._parts: list[nn.Module] = []
        self._here: nn.Module | None = None

    def add(self, part: nn.Module, methods: Iterable[str] = ()) -> None:
        """Have a module brought when it is called, or when one of these methods of it is."""
        self._parts.append(part)
        part.register_forward_pre_hook(lambda module, inputs: self.bring(module))
        for name in methods:
            setattr(part, name, self._after_bringing(part, getattr(part, name)))

    def bring(self, part: nn.Module) -> None:
        """Bring a module to the device, and the others to main memory first."""
        if self._here is part:
            return
        # In this thread derivatives may be under way, inside of which PyTorch cannot move weights.
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(self._move, part).result()
        self._here = part

    def _move(self, part: nn.Module) -> None:
        for other in self._parts:
            if other is not part:
                other.to("cpu")
        if self._here is not None and self._here is not part:
            # It may be a copy, which has the hooks of the part that it is of.
            self._here.to("cpu")
        part.to(self.device)

    def _after_bringing(self, part: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
        def brought(*args: Any, **options: Any) -> Any:
            self.bring(part)
            return method(*args, **options)

        return brought
