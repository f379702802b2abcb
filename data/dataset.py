"""Examples, and what is known of them: their parts, their classes, and the units that models see them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from score_sde.common.condition import Condition, Rows
from score_sde.common.errors import UserError
from score_sde.common.gaussian import Gaussian, fit_gaussian
from score_sde.common.gaussian import described as gaussian_described
from score_sde.common.noise import BatchNoise
from score_sde.data.captions import CAPTION, Words
from score_sde.data.conditions import ConditionUnits
from score_sde.data.embedded import Embedded, read_by
from score_sde.data.latent_units import Latents
from score_sde.data.prompts import Prompts
from score_sde.data.units import Bins, Noise, Points, Standardised, Units, describe_units, units_described, units_of
from score_sde.data.words import Part

# The most examples, evenly spaced, that moments are taken of, and the most numbers that these have together.
_EXAMPLES_OF_MOMENTS, _NUMBERS_OF_MOMENTS = 20_000, 20_000_000
# Numbers that are looked at together, where data may be larger than memory.
_AT_ONCE = 2**24

# vectors `(d,)`; series `(C, L)`; images `(C, H, W)` of levels; fields `(C, H, W)` of numbers without levels; volumes
# `(C, D, H, W)` of either.
Kind = Literal["vectors", "series", "images", "fields", "volumes"]
KINDS: dict[int, Kind] = {1: "vectors", 2: "series", 3: "fields", 4: "volumes"}


@dataclass(frozen=True)
class Dataset:
    """A dataset holds training, validation and test examples.

    Attributes:
        name: what the dataset is called.
        train: `(N, *shape)`; levels as uint8, or numbers without levels in data units, float32 or float64.
        test: examples never used for a choice, in the format of `train`.
        validation: examples taken from the training part for making choices, in its format; empty unless asked for.
        train_classes: the class of each training example `(N,)`, int64; None if there are no classes.
        test_classes: the class of each test example `(N,)`, int64, or None.
        validation_classes: the class of each validation example `(N,)`, int64, or None.
        class_names: what classes are called, in their order; their numbers, if left out; empty if there are none.
        notes: what the user should know of the reading, a line each.
        units: what models see of an example.
        known_gaussian: the description of the Gaussian that the training part of a model looks like, where these data
            are for that model.
        conditions: for each part, by name, what else its examples are conditioned on, `(N, k)` or `(N, C, *size)`, in
            data units.
        condition_units: by name, the units in which models are told of that.
        captions: for each part, the captions of its examples, which are among the conditions by the numbers of words.
        encoded: of units that are latents, what `units.encoded` gives for each training example; None if it is to be
            computed when it is asked for.
        embedded_by: the digest of what made embeddings that are examples, or a condition; None if there are none.
    """

    name: str
    train: Tensor
    test: Tensor
    units: Units = field(default_factory=Standardised)
    validation: Tensor = field(default_factory=lambda: torch.empty(0))
    train_classes: Tensor | None = None
    test_classes: Tensor | None = None
    validation_classes: Tensor | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    known_gaussian: Mapping[str, Any] | None = None
    conditions: Mapping[Part, Mapping[str, Tensor]] = field(default_factory=dict)
    condition_units: Mapping[str, ConditionUnits | Words | Embedded | Prompts] = field(default_factory=dict)
    captions: Mapping[Part, Sequence[str]] = field(default_factory=dict)
    encoded: Tensor | None = None
    embedded_by: str | None = None

    def __post_init__(self) -> None:
        if self.train_classes is not None and not self.class_names:
            numbers = range(int(self.train_classes.max()) + 1)
            object.__setattr__(self, "class_names", tuple(map(str, numbers)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape is that of one example, without the number of examples."""
        return tuple(self.train.shape[1:])

    @property
    def model_shape(self) -> tuple[int, ...]:
        """The model's shape is that of what models see of an example, which latents have otherwise than examples."""
        return self.units.shape_of(self.shape)

    @property
    def quantised(self) -> Bins | Points:
        """The units of examples that have levels are bins or points; those of others must not be asked for here.

        Of latents they are the units of what is decoded.
        """
        units = self.units.pixels if isinstance(self.units, Latents) else self.units
        assert isinstance(units, Bins | Points)
        return units

    @property
    def levels(self) -> int | None:
        """The number of levels of the examples is `K`; None for those that have none."""
        return self.units.levels

    @property
    def num_classes(self) -> int:
        """The number of classes is 0 if there are none."""
        return len(self.class_names)

    def named(self, numbers: Tensor | None) -> list[str] | None:
        """Return what the classes numbered `(N,)` are called; None for None."""
        return None if numbers is None else [self.class_names[k] for k in numbers.tolist()]

    @property
    def description(self) -> dict[str, Any]:
        """The description is what a model of these data needs to know of them, in plain values; see `described`."""
        return self._outline | {"gaussian": None if self.gaussian is None else self.gaussian.describe()}

    @property
    def _outline(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "levels": self.levels,
            "class_names": list(self.class_names),
            "units": self.units.describe() if isinstance(self.units, Latents) else describe_units(self.units),
            **({"conditions": self._conditions_described} if self.condition_units else {}),
            **({"embedded_by": self.embedded_by} if self.embedded_by else {}),
        }

    @property
    def _conditions_described(self) -> dict[str, Any]:
        return {name: units.describe() for name, units in self.condition_units.items()}

    def told(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, by name, numbers `(B, *shape)` of conditions in data units as models are told of them."""
        return {name: self.condition_units[name].encode(value, self.model_shape) for name, value in values.items()}

    def condition_of(
        self,
        part: Part,
        rows: Rows = slice(None),
        labelled: bool = True,
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> Condition | None:
        """Return what a model can be told of examples of a part; None for nothing.

        Args:
            part: the part.
            rows: which of its examples.
            labelled: whether the model is told the classes, which the part must have then.
            names: the other conditions that it is told; all, if left out.
            device: where the condition is to be.

        Raises:
            UserError: the data have none of a name.
        """
        classes, arrays = getattr(self, f"{part}_classes"), self.conditions.get(part, {})
        wanted = list(self.condition_units if names is None else names)
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise UserError(
                f"{self.name} does not say the {missing[0]} of its {part} examples, which the model is told"
            )
        chosen = {name: arrays[name][rows] for name in wanted}
        values = self.told({name: moved(array, torch.device(device)) for name, array in chosen.items()})
        if labelled and classes is not None:
            values = {"class": moved(classes[rows], torch.device(device)), **values}
        return Condition(values) if values else None

    @cached_property
    def gaussian(self) -> Gaussian | None:
        """The Gaussian that the training part looks like, in model units.

        There is none if there are no examples that vary, or some lack numbers: those that lack none may be special.
        """
        if self.known_gaussian is not None:
            return gaussian_described(self.known_gaussian)
        if len(self.train) < 2 or has_gaps(self.train):
            return None
        most = min(_EXAMPLES_OF_MOMENTS, _NUMBERS_OF_MOMENTS // self.train[0].numel() + 2)
        return fit_gaussian(self.encode_train(-(-len(self.train) // most), seed=0))

    @property
    def has_gaps(self) -> bool:
        """This is True if any example lacks numbers, which are NaN."""
        return any(has_gaps(part) for part in (self.train, self.validation, self.test))

    def of_model(self, description: Mapping[str, Any]) -> Dataset:
        """Return these data for a model that was trained on data of this description, which knows its Gaussian."""
        return replace(self, known_gaussian=description.get("gaussian"))

    @property
    def kind(self) -> Kind:
        """The kind of the examples says how they are read, modelled and shown."""
        if self.levels is not None and len(self.shape) == 3:
            return "images"
        return KINDS.get(len(self.shape), "vectors")

    @property
    def is_image(self) -> bool:
        """This is True if examples are pictures `(channels, height, width)` of levels."""
        return self.kind == "images"

    def in_units_of(self, description: Mapping[str, Any]) -> Dataset:
        """Return these data in the units of a model that was trained on data of this description.

        Numbers without levels are standardised by the training part that the model saw, whatever they are here.
        """
        of_model = self.of_model(description)
        told_units = description.get("units")
        units: Units = of_model.units
        if self.levels is None or is_of_latents(told_units):
            units = _units_described(told_units)
        told = _condition_units(description)
        captions, own = told.get(CAPTION), self.condition_units.get(CAPTION)
        if not (self.captions and isinstance(captions, Words | Embedded) and isinstance(own, Words | Embedded)):
            return replace(of_model, units=units, condition_units=told)
        heard, numbers = read_by(captions, self.captions, own)
        conditions: dict[Part, Mapping[str, Tensor]] = {
            part: {**arrays, CAPTION: numbers[part]} if part in numbers else arrays
            for part, arrays in self.conditions.items()
        }
        return replace(of_model, units=units, condition_units={**told, CAPTION: heard}, conditions=conditions)

    def unheard(self) -> list[str]:
        """Say of how many captions of each part something is not told: words that are not known, or too many."""
        words = self.condition_units.get(CAPTION)
        if isinstance(words, Embedded):
            return list(words.unheard)
        if not isinstance(words, Words):
            return []
        counts = {part: sum(map(bool, map(words.complaints, captions))) for part, captions in self.captions.items()}
        return [
            f"{count} captions of the {part} part have words that the model does not know, or more than it hears"
            for part, count in counts.items()
            if count
        ]

    def check_words(self, description: Mapping[str, Any], where: str) -> None:
        """See that another model, trained on data of this description, knows captions by the same words.

        Raises:
            UserError: it knows others, whose numbers mean something else.
        """
        for name, units in _condition_units(description).items():
            own = self.condition_units.get(name)
            if isinstance(units, Words | Embedded) and isinstance(own, Words | Embedded) and units != own:
                raise UserError(
                    f"{where} knows captions by other words than those of {self.name}: train it on these data"
                )

    def check_units(self, description: Mapping[str, Any], where: str) -> None:
        """See that another model, trained on data of this description, sees the same numbers in these data.

        Raises:
            UserError: numbers without levels, or those of a condition, are scaled otherwise for it.
        """
        pairs: dict[str, tuple[Any, Any]] = {"examples": (self.units, _units_described(description.get("units")))}
        for name, units in _condition_units(description).items():
            own = self.condition_units.get(name)
            if isinstance(units, ConditionUnits) and isinstance(own, ConditionUnits):
                pairs[name] = (own.standardised, units.standardised)
        for what, (here, there) in pairs.items():
            if isinstance(here, Standardised) and isinstance(there, Standardised) and not here.is_like(there):
                raise UserError(
                    f"{where} sees {what} in units of other data, of mean {_some(there.mean)} and deviation "
                    f"{_some(there.std)}, and not {_some(here.mean)} and {_some(here.std)}: train it on the same data"
                )

    def check_like(self, description: Mapping[str, Any], knows_classes: bool, where: str) -> None:
        """See that a model that was trained on data of this description may be used with these.

        Args:
            description: the description of the data that the model was trained on.
            knows_classes: whether the model knows classes, so that their numbers must mean the same.
            where: the model, for the complaint.

        Raises:
            UserError: examples have another shape or other levels, or classes are others.
        """
        here, there = self._outline, dict(description)
        for key, what in {"shape": "examples of shape", "levels": "levels", "class_names": "classes"}.items():
            if here[key] != there[key] and (knows_classes or key != "class_names"):
                raise UserError(
                    f"{self.name} has {what} {_plain(here[key])}, but {where} was trained on {_plain(there[key])}: "
                    "give it the same data, or train another model in another --workdir"
                )
        if _autoencoder_of(here) != _autoencoder_of(there):
            raise UserError(
                f"{self.name} is seen {_how_seen(here)}, but {where} was trained on it {_how_seen(there)}: give it the "
                "same autoencoder, or train another model in another --workdir"
            )
        if here.get("embedded_by") != there.get("embedded_by"):
            raise UserError(
                f"{self.name} has embeddings of {_run_of(here)}, but {where} was trained with those of "
                f"{_run_of(there)}, which mean something else: give it the same"
            )
        told = [
            {name: tuple(about["shape"]) for name, about in data.get("conditions", {}).items()}
            for data in (here, there)
        ]
        if told[0] != told[1]:
            raise UserError(
                f"{self.name} has conditions {told[0] or 'none'}, but {where} was trained with {told[1] or 'none'}: "
                "give it the same data, or train another model in another --workdir"
            )

    def encode(self, examples: Tensor, seed: int) -> Tensor:
        """Return examples `(N, *shape)` in model units, with noise that is the same each time, where there is any."""
        return self.units.encode(examples, BatchNoise(len(examples), torch.Generator().manual_seed(seed)))

    def encode_train(self, every: int, seed: int) -> Tensor:
        """Return every so many of the training examples in model units, as `encode` does."""
        if self.encoded is None or not isinstance(self.units, Latents):
            return self.encode(self.train[::every], seed)
        encoded = self.encoded[::every]
        return self.units.drawn(encoded, BatchNoise(len(encoded), torch.Generator().manual_seed(seed)))

    def batch(self, rows: Tensor, noise: Noise, device: torch.device) -> Tensor:
        """Return training examples in model units, with noise, on a device."""
        if self.encoded is not None and isinstance(self.units, Latents):
            return self.units.drawn(moved(self.encoded[rows], device), noise)
        return self.units.encode(moved(self.train[rows], device), noise)

    def to_uint8(self, x: Tensor) -> Tensor:
        """Turn pictures `(B, C, H, W)` in model units into uint8 `(B, H, W, C)`, as in `levels_to_uint8`."""
        return self.levels_to_uint8(self.units.decode(x))

    def levels_to_uint8(self, examples: Tensor) -> Tensor:
        """Turn pictures `(B, C, H, W)` of levels into uint8 `(B, H, W, C)`: level 0 becomes 0, level `K - 1` 255."""
        assert self.levels is not None, f"{self.name} has no levels"
        grey = (examples.double() * (255 / (self.levels - 1))).round().to(torch.uint8)
        return grey.movedim(1, -1).contiguous()


def described(description: Mapping[str, Any], low: float, high: float, as_bins: bool) -> Dataset:
    """Return a dataset of this description without examples, for models that need none any more."""
    shape, levels = description["shape"], description["levels"]
    units = _units_described(description.get("units"))
    empty = torch.empty(0, *shape, dtype=units.dtype if levels is None else torch.uint8)
    known = levels is None or isinstance(units, Latents)
    in_units = units if known else units_of(empty, levels, low, high, as_bins)
    names = tuple(description["class_names"])
    return Dataset(
        description["name"],
        empty,
        empty,
        in_units,
        empty,
        class_names=names,
        known_gaussian=description.get("gaussian"),
        condition_units=_condition_units(description),
        embedded_by=description.get("embedded_by"),
    )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU copies it when it comes to it, and nothing waits for that."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    # Only copies from pinned memory, which stays where it is, are not waited for.
    return tensor.pin_memory().to(device, non_blocking=True)


def is_of_latents(units: Mapping[str, Any] | None) -> bool:
    """Return whether units are described that are latents of an autoencoder."""
    return units is not None and "autoencoder" in units


def _units_described(description: Mapping[str, Any] | None) -> Standardised | Latents:
    if description is not None and is_of_latents(description):
        return Latents.described(description)
    return units_described(description)


def _autoencoder_of(description: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return the digest of the autoencoder whose latents are described, their mean and deviation; None for none."""
    units = description.get("units") or {}
    return (units["digest"], str(units.get("mean")), str(units.get("std"))) if "digest" in units else None


def _how_seen(description: Mapping[str, Any]) -> str:
    seen = _autoencoder_of(description)
    return "as it is" if seen is None else f"in latents of the autoencoder {seen[0]}, of mean {seen[1]}"


def _condition_units(description: Mapping[str, Any]) -> dict[str, ConditionUnits | Words | Embedded]:
    told: dict[str, ConditionUnits | Words | Embedded] = {}
    for name, about in description.get("conditions", {}).items():
        if "words" in about:
            told[name] = Words.described(about)
        elif "encoder" in about:
            told[name] = Embedded.described(about)
        else:
            told[name] = ConditionUnits.described(about)
    return told


def has_gaps(examples: Tensor) -> bool:
    """Return whether examples `(N, *shape)` lack numbers, which are NaN; few are in memory at once."""
    if not examples.is_floating_point() or not len(examples):
        return False
    return any(bool(part.isnan().any()) for part in examples.split(max(1, _AT_ONCE // examples[0].numel())))


def _run_of(description: Mapping[str, Any]) -> str:
    by = description.get("embedded_by")
    return f"the run with weights {by}" if by else "no run"


def _some(numbers: Tensor) -> str:
    """Return the first few of some numbers in words."""
    shown = [f"{number:.4g}" for number in numbers.flatten()[:3].tolist()]
    return ", ".join([*shown, *(["…"] if numbers.numel() > 3 else [])])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
