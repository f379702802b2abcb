r"""A trainable copy of a frozen network's encoder, which hears a picture: ControlNet (Zhang et al. 2023,
arXiv:2302.05543).

    h_i        feature maps of the frozen encoder; the frozen decoder makes the output of them
    h^c_i      those of a copy of the encoder, which sees the picture c beside x, too

    output = decode(h_i + sum_c scale_c Z^c_i(h^c_i))

`Z_i` are convolutions over single positions that are zero at first, and so are the weights that the copy's first layer
has for `c` (the paper's other zero convolution: pictures here have the size of x). So training begins at the frozen
network, and leaves it only as far as the picture tells something. Where `c` is hidden nothing is added, and the output
is the frozen network's to the bit; so it is at scale 0.

Controls that were trained apart beside the same network are added up. Of a transformer the copy has the first half of
the blocks, and what block `i` of it makes is added after block `i` of the frozen one (Chen et al. 2024,
arXiv:2401.05252).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.condition import Kind, Picture, check, part_of, said


class Controllable(Protocol):
    """A network has a seam between what it makes of its input and what it makes of that, such as `UNet` and `DiT`."""

    conditions: dict[str, Kind]

    def features(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> tuple[Tensor, ...]:
        """Return the features to which something can be added."""

    def copy_of_encoder(self, told: Mapping[str, Picture]) -> nn.Module:
        """Return a copy that has `features`, and is told of these pictures, too, at first with zero weights."""

    def zero_maps(self) -> nn.ModuleList:
        """Return a map of each of the `features`, zero at first."""


class Control(nn.Module):
    """A control makes, of a picture, what is added to the features of a network.

    Args:
        base: the network.
        name: the name of the picture in conditions.
        channels: channels of the picture.
    """

    def __init__(self, base: Controllable, name: str, channels: int) -> None:
        super().__init__()
        self.name, self.channels = name, channels
        self.copy: Any = base.copy_of_encoder({name: Picture(channels, may_be_hidden=False)})
        self.zero = base.zero_maps().to(next(self.copy.parameters()))

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition) -> list[Tensor]:
        """Return what is added to each of the features: zero for examples of which the picture is hidden."""
        value, hidden = said(condition, self.name)
        assert value is not None
        if hidden is not None:
            # Hidden values may be anything, also not numbers at all.
            value = torch.where(_expand(hidden, value), 0, value)
        heard = part_of(condition, self.copy.conditions)
        assert heard is not None
        hidden_rows = {other: rows for other, rows in heard.hidden_rows.items() if other != self.name}
        told = Condition({**heard.values, self.name: value}, hidden_rows)
        made = [zero(h) for zero, h in zip(self.zero, self.copy.features(x, noise_label, told), strict=True)]
        return made if hidden is None else [torch.where(_expand(hidden, h), 0, h) for h in made]


class ControlNet(nn.Module):
    """Controls, which are trained, stand beside a network, which is not.

    Call it as the network, with the pictures among the conditions.

    Args:
        base: the network; its weights are frozen in place, and it is always in evaluation mode.
        controls: channels of each picture, by name.

    Attributes:
        scales: what each control is multiplied by, 1 at first.

    Raises:
        UserError: the network has no seam, or is told of such a name already.
    """

    def __init__(self, base: nn.Module, controls: Mapping[str, int]) -> None:
        super().__init__()
        if not hasattr(base, "copy_of_encoder"):
            raise UserError(f"controls stand beside a UNet or a DiT, not beside {type(base).__name__}")
        self.base = base.eval().requires_grad_(False)
        self.controls = nn.ModuleDict()
        self.scales: dict[str, float] = {}
        self.conditions: dict[str, Kind] = dict(base.conditions)  # type: ignore[arg-type]
        for name, channels in controls.items():
            self.add(Control(base, name, channels))  # type: ignore[arg-type]

    def add(self, control: Control, scale: float = 1.0) -> None:
        """Put one more control beside the network.

        Raises:
            UserError: the network is told of its name already.
        """
        name = control.name
        if name in self.conditions or hasattr(nn.ModuleDict(), name) or "." in name:
            raise UserError(
                f"a control cannot be called {name!r} here: the network has that name already, or torch has"
            )
        self.controls[name] = control.requires_grad_(True)
        self.scales[name] = scale
        self.conditions[name] = Picture(control.channels)

    def begin(self) -> None:
        """Let each control begin anew as a copy of what the network is now."""
        for name, control in self.controls.items():
            assert isinstance(control, Control)
            control.load_state_dict(Control(self.base, name, control.channels).state_dict())  # type: ignore[arg-type]

    def at(self, scales: Mapping[str, float]) -> ControlNet:
        """Return these controls, with the same weights, at other scales."""
        twin = copy.copy(self)
        twin.scales = {**self.scales, **scales}
        return twin

    def train(self, mode: bool = True) -> ControlNet:
        """Set the mode of the controls; the frozen network stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor, noise_label: Tensor, condition: Condition | None = None) -> Tensor:
        """Return the network's output, of the shape that it has; arguments and errors are those of the network."""
        if condition is None:
            return self.base(x, noise_label)
        check(self.conditions, condition, len(x), x.shape[2:])
        added: list[Tensor] = []
        for name, control in self.controls.items():
            scale = self.scales[name]
            if scale == 0 or name not in condition.values:
                continue
            made = control(x, noise_label, condition)
            scaled = made if scale == 1 else [scale * h for h in made]
            added = [a + b for a, b in zip(added, scaled, strict=True)] if added else scaled
        told = part_of(condition, [name for name in condition.values if name not in self.controls])
        heard = (x, noise_label) if told is None else (x, noise_label, told)
        return self.base(*heard, added=added) if added else self.base(*heard)


def _expand(rows: Tensor, like: Tensor) -> Tensor:
    return rows[(..., *(None,) * (like.ndim - 1))]
