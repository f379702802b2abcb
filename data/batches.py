"""Training batches without end, which can be resumed exactly."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.noise import BatchNoise
from score_sde.common.part import Part
from score_sde.data.augment import Augmentation, distort
from score_sde.data.conditions import with_distortion, with_hidden
from score_sde.data.dataset import Dataset, moved
from score_sde.data.low_resolution import with_random_noise
from score_sde.data.masks import masked_part
from score_sde.data.parts import random_part

# Purposes of the numbers drawn from one seed, which keep them apart.
_ORDER, _NOISE = 0, 1


@dataclass(frozen=True)
class Batch:
    """A batch holds examples, with what a model is told of each.

    Attributes:
        x_0: the examples `(B, *shape)`, in model units.
        condition: what a model is told of each (see `data.conditions`); None for nothing.
        modelled: which numbers the loss is of, bool, shape of `x_0`, which is 0 elsewhere; None for all.
    """

    x_0: Tensor
    condition: Condition | None = None
    modelled: Tensor | None = None

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.x_0)

    def __getitem__(self, rows: slice) -> Batch:
        """Take some of the examples, with all that belongs to them."""
        modelled = None if self.modelled is None else self.modelled[rows]
        return Batch(self.x_0[rows], None if self.condition is None else self.condition[rows], modelled)

    def to(self, device: torch.device) -> Batch:
        """Move the examples, with all that belongs to them, to a device."""
        modelled = None if self.modelled is None else moved(self.modelled, device)
        return Batch(moved(self.x_0, device), None if self.condition is None else self.condition.to(device), modelled)

    def in_part(self, part: Part) -> Batch:
        """Return the batch with the loss of this part of the examples, of which the model is told."""
        return Batch(torch.where(part.modelled, self.x_0, 0), part.beside(self.condition), part.modelled)


class Batches:
    """Iterates over batches of the training part.

    Each epoch visits every example once, in an order given by `(seed, epoch)`; a batch may begin in one epoch and end
    in the next, so all have the same size. Batch `n` is a function of `(seed, n)` alone, its noise included: `step` is
    all there is to save.

    Args:
        dataset: the data.
        batch_size: examples in a batch.
        seed: the seed of the order, the augmentation and the dequantisation.
        augment: a random change of a batch of raw examples.
        distortion: probability that a picture is distorted (see `data.augment`), of which the network is told.
        rows: the rows of each batch that this process makes.
        device: where batches are made.
        labelled: whether the network is told the classes of the dataset, which must have some then.
        label_dropout: probability that the condition of an example is hidden; see `data.conditions`.
        names: the names of the other conditions of the dataset that the network is told.
        in_parts: whether random parts of the examples are modelled, given others (see `data.parts`).
        low_resolution_noise: the most noise of small pictures that the network is told (see `data.low_resolution`).
        masks: kinds of random masks, of which what they hide is modelled, given the rest (see `data.masks`).
        always: those of `names` that are never hidden.

    Attributes:
        step: number of batches drawn so far; set it to go on from there.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        augment: Augmentation | None = None,
        distortion: float = 0.0,
        rows: slice = slice(None),
        device: torch.device | str = "cpu",
        labelled: bool = False,
        label_dropout: float = 0.0,
        names: Sequence[str] = (),
        in_parts: bool = False,
        low_resolution_noise: float = 0.0,
        masks: Sequence[str] = (),
        always: Collection[str] = (),
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.distortion = distortion
        self.rows = rows
        self.device = torch.device(device)
        self.label_dropout = label_dropout
        self.labelled = labelled
        self.names = names
        self.in_parts = in_parts
        self.low_resolution_noise = low_resolution_noise
        self.masks = masks
        self.always = always
        self.step = 0
        self._order: tuple[int, Tensor] | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        noise = BatchNoise(self.batch_size, self._generator(_NOISE, self.step, self.device), self.rows)
        indices = self._indices(self.step)[self.rows]
        self.step += 1
        distorted = None
        if self.augment is None and not self.distortion:
            x_0 = self.dataset.batch(indices, noise, self.device)
        else:
            examples = moved(self.dataset.train[indices], self.device)
            if self.augment is not None:
                examples = self.augment(examples, noise)
            if self.distortion > 0:
                distorted = self._happens(self.distortion, examples, noise)
                examples = torch.where(distorted[:, None, None, None], distort(examples, noise), examples)
            x_0 = self.dataset.units.encode(examples, noise)
        condition = self.dataset.condition_of("train", indices, self.labelled, self.names, self.device)
        if self.label_dropout:
            condition = with_hidden(condition, lambda: self._happens(self.label_dropout, x_0, noise), self.always)
        if self.low_resolution_noise and condition is not None:
            condition = with_random_noise(condition, self.dataset, self.low_resolution_noise, noise)
        batch = Batch(x_0, with_distortion(condition, distorted))
        if self.masks:
            return batch.in_part(masked_part(self.dataset.units.encode(examples), noise, self.masks))
        return batch.in_part(random_part(x_0, noise)) if self.in_parts else batch

    def _happens(self, probability: float, examples: Tensor, noise: BatchNoise) -> Tensor:
        """Draw, for each example, whether something of this probability happens."""
        return noise.uniform(torch.empty(len(examples), device=self.device)) < probability

    def _indices(self, step: int) -> Tensor:
        """Return the rows of the training part that make batch `step`, `(batch_size,)`."""
        size = len(self.dataset.train)
        first, rows = step * self.batch_size, []
        wanted = self.batch_size
        while wanted:
            epoch, start = divmod(first, size)
            piece = self._permutation(epoch)[start : start + wanted]
            rows.append(piece)
            first, wanted = first + len(piece), wanted - len(piece)
        return torch.cat(rows)

    def _permutation(self, epoch: int) -> Tensor:
        """Return the order in which `epoch` visits the training part, `(N,)`, and remember it for the next call."""
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.dataset.train), generator=self._generator(_ORDER, epoch))
            self._order = epoch, order
        return self._order[1]

    def _generator(self, purpose: int, number: int, device: torch.device | str = "cpu") -> torch.Generator:
        seed = np.random.SeedSequence([self.seed, purpose, number]).generate_state(1, np.uint64)[0]
        return torch.Generator(device).manual_seed(int(seed >> np.uint64(1)))
