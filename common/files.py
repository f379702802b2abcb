"""Files are written whole or not at all, and closed when they are read; and users' names for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from score_sde.common.errors import UserError


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps the suffix of `path`, since many writers choose their format by it. Missing parent
    folders are made.

    Raises:
        UserError: the file cannot be written (disk full, no permission).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # Windows brings to the disk only what is open for writing.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {target}: {reason}; free some space or choose another --workdir") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return a path in which `~` is replaced by the user's own folder, and `~name` by another user's.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"there is no folder of the user that {path} begins with: write it out") from error


def _umask() -> int:
    """Return the process's umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the arrays of an `.npz` file by name, each read when asked for; close the file even if it is damaged.

    Raises:
        OSError, ValueError, BadZipFile, EOFError: there is no such file, or it is damaged.
    """
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
        yield content
