"""Arguments compared with their annotations, so that each mistake gives one clear line before anything is done.

`float` takes any finite real number (an infinite one, if that is the default), `int` whole numbers, `bool` True and
False, and `Tensor` tensors and NumPy arrays, which become tensors. `Annotated[type, convert]` is compared with the
type, and `convert(name, value)` then gives the value that is used.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from score_sde.common.errors import UserError, nearest

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Class = TypeVar("_Class", bound=type)

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    type(None): "None",
    Tensor: "a tensor or array",
    Sequence: "a list",
    tuple: "a list",
    Iterable: "a list",
    Mapping: "a dictionary",
    Callable: "a function",
}
_LONGEST = 60


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `function` as one that compares its arguments with their annotations whenever it is called.

    Raises:
        UserError: an argument of a call of the returned function does not fit; see `check_call`.
    """
    what = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        bound = check_call(what, function, args, kwargs)
        return function(*bound.args, **bound.kwargs)

    return call


def checked_class(cls: _Class) -> _Class:
    """Make the constructor of a class, such as a dataclass, `checked`; return the class."""
    cls.__init__ = checked(cls.__init__)  # type: ignore[misc]
    return cls


def check_call(
    what: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Return the arguments of a call, as they are to be used.

    Args:
        what: what is called, for messages.
        function: the function or class that is called, with annotations.
        args: the arguments given by position.
        kwargs: the arguments given by name.

    Raises:
        UserError: there is no such argument, one is missing, or one has not its annotation's type.
    """
    signature, hints = _annotations(function)
    parameters = {name: p for name, p in signature.parameters.items() if name != "self"}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in kwargs:
            if name not in parameters:
                raise UserError(
                    f"{what} has no option {name!r}{nearest(name, parameters)}; it has: {', '.join(parameters)}"
                )
    bound = signature.bind_partial(*args, **kwargs)
    for name, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name not in bound.arguments and parameter.default is parameter.empty and not variadic:
            raise UserError(f"{what} needs {name}")
        if name in bound.arguments and name in hints and not variadic:
            value = bound.arguments[name]
            bound.arguments[name] = checked_value(what, name, value, hints[name], parameter.default)
    return bound


@functools.lru_cache(maxsize=256)
def _annotations(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    of_call = function.__init__ if inspect.isclass(function) else function
    return inspect.signature(function), get_type_hints(of_call, include_extras=True)


def checked_value(what: str, name: str, value: Any, hint: Any, default: Any = None) -> Any:
    """Return the value of one argument, as it is to be used; see `check_call`.

    Args:
        what: what is called, for messages.
        name: the argument's name.
        value: the value that is given.
        hint: the argument's annotation.
        default: the argument's default, the one value that may be infinite.

    Raises:
        UserError: the value is not of this type, or not finite.
    """
    if not _fits(value, hint):
        raise UserError(f"{what}: {name} takes {_described(hint)}, not {_shown(value)}")
    if float in _types(hint) and _is_real(value) and not _is_finite(value) and value != default:
        raise UserError(f"{what}: {name} must be a finite number, not {_shown(value)}")
    if isinstance(value, np.ndarray) and Tensor in _types(hint):
        value = _as_tensor(f"{what}: {name}", value)
    if get_origin(hint) is Annotated:
        for convert in get_args(hint)[1:]:
            value = convert(name, value)
    return value


def _as_tensor(what: str, array: np.ndarray) -> Tensor:
    try:
        # A copy, since an array may be read-only, run backwards, or be another machine's, as tensors may not.
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise UserError(f"{what} must be an array of numbers, not of {array.dtype}") from error


def _types(hint: Any) -> list[Any]:
    """Return the alternatives of a union, or the one type."""
    if get_origin(hint) is Annotated:
        return _types(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for part in get_args(hint) for kind in _types(part)]
    return [hint]


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, kind) for kind in _types(hint))


def _fits_one(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, TypeVar):
        return True
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind is float:
        return _is_real(value)
    if kind is int:
        return _is_whole(value)
    if kind is Tensor:
        return isinstance(value, (Tensor, np.ndarray))
    if origin is Literal:
        # Whether it is one of the names is checked where the names are used, which can suggest the nearest.
        return isinstance(value, tuple(type(part) for part in parts))
    if origin is tuple:
        items = [parts[0]] * len(value) if parts[-1] is Ellipsis and isinstance(value, (tuple, list)) else parts
        return isinstance(value, (tuple, list)) and len(value) == len(items) and all(map(_fits, value, items))
    if isinstance(value, str):
        return kind is str
    if origin is Sequence:
        return isinstance(value, Sequence) and all(_fits(item, parts[0]) for item in value)
    if getattr(kind, "_is_protocol", False):
        # A part is enough: some functions ask for nothing but a model's score.
        members = [name for name in vars(kind) if not name.startswith("_") or name == "__call__"]
        return any(hasattr(value, name) for name in members)
    return isinstance(value, origin or kind)


def _is_real(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return _is_real(value) and not value.is_floating_point()
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number larger than any float64
        return False


def _described(hint: Any) -> str:
    names = [_NAMES.get(get_origin(kind) or kind) or _name_of_class(kind) for kind in _types(hint)]
    return " or ".join(dict.fromkeys(names))


def _name_of_class(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    name = kind.__name__
    return f"{'an' if name[0] in 'AEIO' or name == 'SDE' else 'a'} {name}"


def _shown(value: Any) -> str:
    """Return a value written on one short line."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"one of {value.dtype} and shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
