r"""How a network hears a condition (`common.condition`), in one of three ways.

    a vector    that modulates: it is added to the embedding of time, which every block is told,

                    embedding + sum_names v_name

                where v_name is one of K vectors (one for each class, say), or made of a vector of real numbers

    tokens      that positions attend to (`layers.attention`); a text is heard by tokens and a vector (`layers.text`)
    a picture   laid beside x, as further channels, and one that is 1 where there is a picture

What is hidden is heard as something of its own: a further vector, a further token, a picture of zeros. A network that
is trained with some values hidden knows `p(x)` beside `p(x | condition)`, which guidance needs (Ho & Salimans 2022,
arXiv:2207.12598). One that never is has no room for it (`Always`, and a `Picture` that is never hidden).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.layers.basic import linear, transforms_active
from score_sde.models.layers.text import WIDTH, EmbeddedText, Text, Texts, whole

# Standard deviation of vectors at first: about twice the size of the embedding of time that they are added to. Smaller
# ones are heard later, larger ones drown the time.
_STD = 0.5


@dataclass(frozen=True)
class Always:
    """A condition that is one of 0 … `count` - 1 and is never hidden, so that there is no `p(x)` without it."""

    count: int


@dataclass(frozen=True)
class Vector:
    """A condition that is a vector of `size` real numbers, of mean 0 and standard deviation 1 or so: `(B, size)`.

    With an `init_scale` of 0 it is not heard at first. One that `scales` does more than be added to the embedding: the
    features of blocks are multiplied by what the embedding says, and an MLP has it beside the states, too. Conditions
    are learnt faster so.
    """

    size: int
    init_scale: float = 1.0
    scales: bool = False


@dataclass(frozen=True)
class Tokens:
    """A condition that is any number of tokens in no order, each of `width` real numbers: `(B, N, width)`."""

    width: int


@dataclass(frozen=True)
class Picture:
    """A condition that has the size of the examples, and so many channels: `(B, channels, *size)`.

    One that may be hidden has a further channel, which says where there is a picture.
    """

    channels: int
    may_be_hidden: bool = True

    @property
    def laid(self) -> int:
        """The number of channels that are laid beside the states."""
        return self.channels + self.may_be_hidden


# What a network is told under a name; a whole number K stands for one of 0 … K - 1.
Kind = int | Always | Vector | Tokens | Picture | Text | EmbeddedText


def heard_kinds(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return the kinds of what networks hear: those of texts are tokens, and a vector beside (`models.layers.text`)."""
    heard: dict[str, Kind] = {}
    for name, kind in kinds.items():
        if isinstance(kind, Text | EmbeddedText):
            heard |= {name: Tokens(WIDTH), whole(name): Vector(WIDTH, scales=True)}
        else:
            heard[name] = kind
    return heard


def texts_of(kinds: Mapping[str, Kind]) -> Texts:
    """Return the ear of those conditions that are texts."""
    return Texts({name: kind for name, kind in kinds.items() if isinstance(kind, Text | EmbeddedText)})


class ConditionVectors(nn.Module):
    """A condition modulates a network by a sum of vectors, one for each of its names.

    Args:
        conditions: for each name the number of values, which are whole numbers from 0, or a `Vector`.
        width: size of a vector that is added.

    Raises:
        UserError: a name is of another kind.
    """

    def __init__(self, conditions: Mapping[str, Kind], width: int) -> None:
        super().__init__()
        self.conditions = dict(conditions)
        taken = [name for name in conditions if hasattr(nn.ModuleDict(), name)]
        if taken:
            raise UserError(
                f"a condition cannot be called {', '.join(taken)}, which torch calls something else: rename"
            )
        self.vectors = nn.ModuleDict({name: _made_vectors(name, kind, width) for name, kind in conditions.items()})

    def forward(self, condition: Condition | None, count: int) -> Tensor:
        """Return what is added to the embeddings of `count` examples, `(count, width)`.

        Raises:
            UserError: the condition has another number of rows, a name that this network is not told of, or a value
                out of range. (Values on an accelerator are not looked at, since that would wait for it.)
        """
        check(self.conditions, condition, count)
        heard = [vectors(*said(condition, name), count) for name, vectors in self.vectors.items()]
        return sum(heard[1:], heard[0])


class VectorsOfNumbers(nn.Embedding):
    """Each of the numbers 0 … K - 1 has a vector of its own, and "hidden" has one.

    The vectors start apart, drawn from N(0, 1/4): had they to leave zero first, nothing would tell classes from each
    other while the network learns everything else. "Hidden" starts at zero; and so does the one value of a name that
    has no other, so that what is learnt from examples with it counts for those without from the start.

    Args:
        count: K.
        width: size of a vector.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count + 1, width)  # the last row is "hidden"
        with torch.no_grad():
            self.weight.mul_(_STD)[0 if count == 1 else count :] = 0.0  # they are drawn from N(0, 1)

    def forward(self, value: Tensor | None, hidden: Tensor | None, count: int) -> Tensor:  # type: ignore[override]
        last = self.num_embeddings - 1
        if value is None:
            value = torch.full((count,), last, dtype=torch.long, device=self.weight.device)
        return super().forward(value if hidden is None else torch.where(hidden, last, value))


class NeverHidden(VectorsOfNumbers):
    """Each of the numbers 0 … K - 1 has a vector of its own, and "hidden" has none: the number must be told.

    Args:
        count: K.
        width: size of a vector.
    """

    def __init__(self, count: int, width: int) -> None:
        nn.Embedding.__init__(self, count, width)
        with torch.no_grad():
            self.weight.mul_(_STD)

    def forward(self, value: Tensor | None, hidden: Tensor | None, count: int) -> Tensor:  # type: ignore[override]
        if value is None or hidden is not None:
            raise UserError("this network was trained with every class told, and knows no p(x): tell it the class")
        return nn.Embedding.forward(self, value)


class VectorsOfVectors(nn.Module):
    """A vector `v` of real numbers is heard as `W_2 silu(W_1 v)`, with biases; a hidden one as a vector of its own.

    Args:
        size: size of `v`.
        width: size of a vector that is heard.
        init_scale: scale of the initial weights `W_2`.
    """

    def __init__(self, size: int, width: int, init_scale: float = 1.0) -> None:
        super().__init__()
        self.first = linear(size, width, init_scale=(size + width) / (2 * size))
        self.second = linear(width, width, init_scale=init_scale)
        self.of_hidden = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor | None, hidden: Tensor | None, count: int) -> Tensor:
        if value is None:
            return self.of_hidden.expand(count, -1)
        value = value.to(self.of_hidden)
        if hidden is None:
            heard = self.second(F.silu(self.first(value)))
            # Every weight has a gradient, as several processes need.
            return heard + 0 * self.of_hidden.to(heard)
        # Hidden values may be anything, also not numbers at all.
        heard = self.second(F.silu(self.first(torch.where(hidden[:, None], 0, value))))
        return torch.where(hidden[:, None], self.of_hidden, heard)


class VectorsBeside(nn.Module):
    """Vectors `v` of real numbers add `W v` to the features that a network makes of the states; hidden ones another.

    Args:
        sizes: the size of each vector, by name.
        width: the number of features.
    """

    def __init__(self, sizes: Mapping[str, int], width: int) -> None:
        super().__init__()
        # As weights of the states, these give features of unit variance.
        self.vectors = nn.ModuleDict(
            {name: linear(size, width, init_scale=(size + width) / (2 * size)) for name, size in sizes.items()}
        )
        self.of_hidden = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in sizes})

    def forward(self, condition: Condition | None, count: int) -> Tensor:
        """Return what is added to the features of `count` examples, `(count, width)`."""
        heard = [self._one(name, *said(condition, name), count) for name in self.vectors]
        return sum(heard[1:], heard[0])

    def _one(self, name: str, value: Tensor | None, hidden: Tensor | None, count: int) -> Tensor:
        of_hidden = self.of_hidden[name]
        if value is None:
            return of_hidden.expand(count, -1)
        value = value.to(of_hidden)
        if hidden is None:
            heard = self.vectors[name](value)
            return heard + 0 * of_hidden.to(heard)
        return torch.where(hidden[:, None], of_hidden, self.vectors[name](torch.where(hidden[:, None], 0, value)))


class TokensOrNone(nn.Module):
    """Tokens are attended to as they are; where they are hidden, one token of its own is in the place of all.

    Args:
        width: size of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_hidden = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor | None, hidden: Tensor | None, count: int) -> Tensor:
        """Return tokens `(count, N, width)`."""
        if value is None:
            return self.of_hidden.expand(count, 1, -1)
        value = value.to(self.of_hidden)
        if hidden is None:
            return value + 0 * self.of_hidden
        return torch.where(hidden[:, None, None], self.of_hidden, value)


def scaling(kinds: Mapping[str, Kind]) -> dict[str, int]:
    """Return the sizes of those conditions that are vectors which scale, by name."""
    return {name: kind.size for name, kind in kinds.items() if isinstance(kind, Vector) and kind.scales}


def laid_beside(x: Tensor, condition: Condition | None, pictures: Mapping[str, Picture]) -> list[Tensor]:
    """Return pictures to lay beside `x` `(B, C, *size)`, each with one more channel: 1, or 0 where it is hidden.

    Args:
        x: the states.
        condition: the condition of as many examples.
        pictures: the pictures that the network is told of, by name; those that may not be hidden have no such channel.

    Raises:
        UserError: a picture is hidden that may not be.
    """
    channels = []
    for name, picture in pictures.items():
        value, hidden = said(condition, name)
        if not picture.may_be_hidden:
            if value is None or hidden is not None:
                raise UserError(f"this network was trained with every {name} told: tell it one for each example")
            channels.append(value.to(x))
            continue
        if value is None:
            channels.append(x.new_zeros(len(x), picture.channels + 1, *x.shape[2:]))
            continue
        value = F.pad(value.to(x), (0, 0) * (x.ndim - 2) + (0, 1), value=1.0)
        channels.append(value if hidden is None else torch.where(_expand(hidden, value), 0, value))
    return channels


def flattened(condition: Condition) -> Condition:
    """Return the condition with arrays `(B, *dims)` of real numbers as vectors."""
    values = {
        name: value.flatten(1) if value.ndim > 2 and value.is_floating_point() else value
        for name, value in condition.values.items()
    }
    return Condition(values, condition.hidden_rows)


def part_of(condition: Condition | None, names: Iterable[str]) -> Condition | None:
    """Return the condition with no other than these names; None if none of them is there."""
    if condition is None:
        return None
    values = {name: condition.values[name] for name in names if name in condition.values}
    hidden = {name: rows for name, rows in condition.hidden_rows.items() if name in values}
    return Condition(values, hidden) if values else None


def said(condition: Condition | None, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Return what a condition says under a name, and of which examples that is hidden; None for nothing, and none."""
    if condition is None:
        return None, None
    return condition.values.get(name), condition.hidden_rows.get(name)


def check(kinds: Mapping[str, Kind], condition: Condition | None, count: int, size: Sequence[int] = ()) -> None:
    """See that a network of these kinds of conditions can be told of this one.

    Args:
        kinds: what the network is told, by name.
        condition: the condition.
        count: the number of examples.
        size: the size of the examples along each axis.

    Raises:
        UserError: the condition has another number of rows, a name that this network is not told of, or a value that
            is not of its kind. (Values on an accelerator are not looked at, since that would wait for it.)
    """
    if condition is None:
        return
    if len(condition) != count:
        raise UserError(f"the condition is one of {len(condition)} examples, not of {count} as the states")
    for name, value in condition.values.items():
        if name not in kinds:
            raise UserError(f"this network is not told of {name!r}, but of: {', '.join(kinds) or 'nothing'}")
        _check_value(name, kinds[name], value, condition.hidden_rows.get(name), size)


def _check_value(name: str, kind: Kind, value: Tensor, hidden: Tensor | None, size: Sequence[int]) -> None:
    if isinstance(kind, int | Always):
        count = kind if isinstance(kind, int) else kind.count
        wrong = value.is_floating_point() or value.ndim != 1
        if not wrong and value.device.type == "cpu" and not (transforms_active() or torch.compiler.is_compiling()):
            outside = (value < 0) | (value >= count)
            wrong = bool((outside if hidden is None else outside & ~hidden).any())
        if wrong:
            raise UserError(f"{name!r} must be one whole number from 0 to {count - 1} for each example")
        return
    here = tuple(value.shape[1:])
    if isinstance(kind, Text):
        if here != (kind.length,) or value.is_floating_point():
            raise UserError(f"{name!r} must be ({kind.length},) words, by their numbers, for each example, not {here}")
        return
    if isinstance(kind, EmbeddedText):
        what, fits = f"({1 + kind.length}, {kind.size})", here == (1 + kind.length, kind.size)
    elif isinstance(kind, Vector):
        what, fits = f"({kind.size},)", here == (kind.size,)
    elif isinstance(kind, Tokens):
        what, fits = f"(N, {kind.width})", len(here) == 2 and here[0] > 0 and here[1] == kind.width
    else:
        shape = (kind.channels, *size)
        what, fits = str(shape), here == shape
    if not (fits and value.is_floating_point()):
        raise UserError(f"{name!r} must be {what} real numbers for each example, not {here} of {value.dtype}")


def _made_vectors(name: str, kind: Kind, width: int) -> nn.Module:
    if isinstance(kind, Always):
        return NeverHidden(kind.count, width)
    if isinstance(kind, int):
        return VectorsOfNumbers(kind, width)
    if isinstance(kind, Vector):
        return VectorsOfVectors(kind.size, width, kind.init_scale)
    raise UserError(f"this network can be told numbers and vectors, not {name!r}, which is of {kind}: take a UNet")


def _expand(rows: Tensor, like: Tensor) -> Tensor:
    return rows[(..., *(None,) * (like.ndim - 1))]
