"""Files of weights: read without running anything in them, checked, and copied into networks.

    .pt, .pth, .bin     what `torch.save` writes: a zip archive (with checksums), or older, a row of pickles
    .safetensors        names, shapes and numbers

Of a pickle only tensors, numbers, words and containers of them are read; NumPy's arrays and scalars are passed over,
and anything else is refused by its name.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from score_sde.common.errors import UserError

# What wraps a network puts its name before those of the weights: DataParallel, torch.compile, a module that holds it …
_WRAPPERS = re.compile(r"^(?:(?:module|model)\.)+")
# … and these may wrap a part of it, too.
_INNER_WRAPPERS = re.compile(r"(^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

_UNREADABLE = "it is truncated, damaged, or not a checkpoint"
_FORBIDDEN = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")


class _PassedOver:
    """Stands in for NumPy's arrays, scalars and their types. It keeps nothing, since what NumPy does with their bytes
    is not safe for any bytes.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_NUMPY_NAMES = (
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
)


def read_torch(path: Path) -> Any:
    """Return the contents of a file that `torch.save` wrote, on the CPU.

    Raises:
        UserError: there is no such file, it is damaged, or it contains more than data.
    """
    with _reading(path):
        if _begins_like_safetensors(path):
            raise UserError(f"cannot read the checkpoint {path}: it is a .safetensors file, so call it that")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise UserError(f"cannot read the checkpoint {path}: it is damaged")
                if any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist()):
                    raise UserError(f"cannot read the checkpoint {path}: it is a program (TorchScript), not weights")
        stand_ins: list[Any] = [(_PassedOver, name) for name in _NUMPY_NAMES]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the named tensors of a file, on the CPU, and what it says about them.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _reading(path), safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a file of named tensors says about them, without reading them.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _reading(path), safetensors.safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_some(path: Path, beginning: str) -> dict[str, Tensor]:
    """Return those named tensors of a file, on the CPU, whose names begin so; the others are not read.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _reading(path), safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(beginning)}  # noqa: SIM118


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors of a `.safetensors` file, without reading them.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _reading(path), safetensors.safe_open(path, framework="pt") as file:
        return list(file.keys())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into one line of our own, and keep the libraries' notices off stderr."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    start = f"cannot read the checkpoint {path}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what = _what_it_is(path)
            if what is not None:
                raise UserError(f"{start}: {what}")
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in as many ways as it can be damaged
        if isinstance(error, PermissionError):
            raise UserError(f"{start}: {error.strerror}") from error
        raise UserError(f"{start}: {_reason(str(error))}") from error


def _what_it_is(path: Path) -> str | None:
    """Say what a file is that was never a checkpoint, by how it begins; None if it may be one."""
    with open(path, "rb") as file:
        beginning = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not beginning:
        return "it is truncated, or damaged: the file is empty"
    if beginning.startswith(b"version https://git-lfs"):
        return "it only says where Git LFS keeps the file: fetch that (git lfs pull)"
    if beginning.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is not a checkpoint but a web page: download the file itself"
    return None


def _begins_like_safetensors(path: Path) -> bool:
    """Return whether the file begins with a length, of eight bytes, and then JSON."""
    with open(path, "rb") as file:
        beginning = file.read(9)
    return beginning[8:] == b"{" and int.from_bytes(beginning[:8], "little") < path.stat().st_size


def _reason(message: str) -> str:
    """Say in our own words what PyTorch says of a file that it does not read."""
    forbidden = _FORBIDDEN.search(message)
    if forbidden is not None:
        name = re.sub(r"[^\w.]", "?", forbidden[1])
        return (
            f"it holds more than data, namely {name if '.' in name else f'builtins.{name}'}; only tensors, NumPy "
            "arrays, numbers, words, and lists and dicts of them are read, since anything else could run code: "
            "save it again without that"
        )
    if "Unsupported operand" in message:
        return f"{_UNREADABLE} (pickles are read as torch.save writes them unless told otherwise, by protocol 2)"
    return _UNREADABLE


def check_named(weights: Any, where: str) -> None:
    """See that what was read as a state dict is one: tensors by their names.

    Raises:
        UserError: it is something else; the line says its origin, `where`.
    """
    if not isinstance(weights, Mapping):
        raise UserError(f"{where} has no weights by their names")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{where} has {name!r} among its weights, which is not a tensor")


def unwrapped(weights: Any, where: str) -> dict[str, Tensor]:
    """Return weights under their names in the network itself, whatever it was wrapped in when they were saved.

    Args:
        weights: what was read as a state dict.
        where: the origin of the weights, for the error.

    Raises:
        UserError: it is no state dict, or two weights have the same name then.
    """
    check_named(weights, where)
    bare: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        own = _WRAPPERS.sub("", _INNER_WRAPPERS.sub("", name))
        if own in bare:
            raise UserError(f"{where} has {own} twice, of a network by itself and wrapped: which to use is not known")
        bare[own] = tensor
    return bare


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """See that no weight is NaN or infinite.

    Raises:
        UserError: a weight is not finite; the line names the first, and its origin `where`.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        values = tensor.float() if tensor.itemsize == 1 else tensor
        wrong = int((~torch.isfinite(values)).sum())
        if wrong:
            what = "NaN" if bool(torch.isnan(values).any()) else "infinite"
            raise UserError(
                f"{where} holds no usable weights: {name} is {what} in {wrong} of {tensor.numel()} places; "
                "take an earlier or another checkpoint"
            )


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """See that named tensors are just those of a module, and finite.

    Args:
        module: the module whose names and shapes are wanted.
        weights: a state dict.
        where: the origin of the weights, for the error.

    Raises:
        UserError: names or shapes differ, or a value is NaN or infinite; the first mismatch is named.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(f"{where} does not fit this network: it has no {name} {tuple(tensor.shape)}")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{where} does not fit this network: {name} has shape {tuple(weights[name].shape)}, "
                f"the network needs {tuple(tensor.shape)}"
            )
    for name in weights:
        if name not in own:
            raise UserError(f"{where} does not fit this network: it has {name}, which the network lacks")
    check_finite(weights, where)


def load_fitting_weights(
    module: nn.Module, weights: Mapping[str, Tensor], where: str, may_differ: Callable[[str], bool]
) -> list[str]:
    """Copy named tensors into a module, but for some that it may have otherwise, or not at all.

    Args:
        module: what is changed in place.
        weights: a state dict.
        where: the origin of the weights, for the error.
        may_differ: whether the tensor of a name may be missing, or have another shape, on either side.

    Returns:
        The names of tensors that the module keeps as they were.

    Raises:
        UserError: another tensor does not fit.
    """
    own = module.state_dict()
    if not own.keys() & weights.keys():
        weights = unwrapped(weights, where)
    fits = {name: tensor for name, tensor in weights.items() if name in own and tensor.shape == own[name].shape}
    kept = [name for name in own if name not in fits and may_differ(name)]
    others = {name: tensor for name, tensor in weights.items() if name in fits or not may_differ(name)}
    load_weights(module, others | {name: own[name] for name in kept}, where)
    return kept


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy named tensors into a module that must have just these, under its own names or a wrapper's; see
    `check_weights`.
    """
    if weights.keys() != module.state_dict().keys():
        weights = unwrapped(weights, where)
    check_weights(module, weights, where)
    module.load_state_dict(weights)
