"""Things of the user's own: named `package.module:Name`, as a configuration has them, or handed over from Python.

    model.network=mynets:Net                a class `Net` of `mynets.py`, in the current folder or installed
    fit(x, network=Net(width=64))           an object; the configuration of the run says `mynets:Net` all the same

An object that was handed over is found again by its name for as long as it lives. In another process its class is
imported, and made with those values of its section that its signature names; where that will not do, it has to be
handed over again. The standard library is never called: a configuration may come with a stranger's checkpoint.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch import Tensor, nn

from score_sde.common.errors import UserError, one_line
from score_sde.common.noise import BatchNoise
from score_sde.data import Batch
from score_sde.training.objectives import Losses

_Thing = TypeVar("_Thing")

_Model = TypeVar("_Model", bound=Any)

_handed_over: WeakValueDictionary[str, Any] = WeakValueDictionary()
# Of copies of models, the models with what was handed over.
_originals: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def is_own(name: str) -> bool:
    """Return whether a name is one of a thing of the user's own."""
    return ":" in name


def hand_over(thing: Any, name: str | None = None) -> str:
    """Let an object be found by its name, which is returned: that of its class or function, unless it is given."""
    if name is None:
        named = thing if hasattr(thing, "__qualname__") else type(thing)
        name = f"{named.__module__}:{named.__qualname__}"
        others = sum(known.split("#")[0] == name and other is not thing for known, other in _handed_over.items())
        name = f"{name}#{others + 1}" if others else name
    _handed_over[name] = thing
    return name


def find(kind: str, name: str) -> Any:
    """Return what was handed over by this name, or else what a module calls so.

    Raises:
        UserError: there is no such module, or it has nothing of this name.
    """
    if name in _handed_over:
        return _handed_over[name]
    module_name, _, path = name.split("#")[0].partition(":")
    if module_name == "__main__" or "<" in path:
        raise UserError(f"the {kind} {path} was defined in a notebook or a script: hand it over, {kind}=…")
    if module_name.split(".")[0] in sys.stdlib_module_names:
        raise UserError(f"the {kind} {name} is of Python's own library: name one of yours, package.module:Name")
    sys.path.insert(0, "")
    try:
        thing: Any = importlib.import_module(module_name)
        for part in path.split("."):
            thing = getattr(thing, part)
    except Exception as error:  # a user's module may raise anything
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UserError(f"cannot find the {kind} {name}: {reason}; it is package.module:Name") from error
    finally:
        sys.path.remove("")
    return thing


def make(kind: str, name: str, base: type[_Thing], options: Mapping[str, Any]) -> _Thing:
    """Return the object of this name: as it was handed over, or made by its class or function.

    Args:
        kind: what it is called in complaints.
        name: `package.module:Name`.
        base: the class that the object is of.
        options: arguments by name; those that the signature names are given.

    Raises:
        UserError: there is no such thing, it cannot be made so, or it is of another class.
    """
    thing = find(kind, name)
    if not isinstance(thing, base):
        if not (inspect.isfunction(thing) or (inspect.isclass(thing) and issubclass(thing, base))):
            raise UserError(f"the {kind} {name} must be a {base.__name__}, or a function that makes one")
        known = inspect.signature(thing).parameters
        try:
            thing = thing(**{key: value for key, value in options.items() if key in known})
        except TypeError as error:
            raise UserError(
                f"cannot make the {kind} {name}: {one_line(str(error))}; its arguments may be {', '.join(options)}, or "
                f"hand over an object, {kind}=…"
            ) from error
        if not isinstance(thing, base):
            raise UserError(f"the {kind} {name} makes a {type(thing).__name__}, where a {base.__name__} is wanted")
    return thing


def apart(model: _Model) -> _Model:
    """Return a copy of a model that has something handed over in it, for weights that are not its owner's.

    Its owner may train it again. It can be found for as long as the copy lives.
    """
    parts = [getattr(model, name) for name in ("network", "sde") if hasattr(model, name)]
    if not any(part is thing for part in parts for thing in _handed_over.values()):
        return model
    twin = copy.deepcopy(model)
    _originals[twin] = model
    return twin


class OwnObjective:
    """An objective of the user's own may give a tensor of losses, one an example.

    Args:
        objective: called as `objective(model, batch, noise)`; returns losses `(B,)`, or `Losses`.
    """

    def __init__(self, objective: Callable[[Any, Batch, BatchNoise], Tensor | Losses]) -> None:
        self.objective = objective

    def __call__(self, model: Any, batch: Batch, noise: BatchNoise) -> Losses:
        """Return the losses of a batch.

        Raises:
            UserError: they are no losses, one an example.
        """
        losses = self.objective(model, batch, noise)
        values = losses.values if isinstance(losses, Losses) else losses
        if not isinstance(values, Tensor) or values.shape != (len(batch),):
            what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UserError(f"an objective returns a loss for each example, ({len(batch)},), not {what}")
        return losses if isinstance(losses, Losses) else Losses(values)
