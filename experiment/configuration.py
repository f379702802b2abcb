"""Configurations: a Python file of values, overrides from the command line, and the JSON file that remembers both.

`configs/default.py` names every key once; a configuration file changes some of its values; `--config.KEY=VALUE`
changes them again. Every way in checks that the key exists and that the value has its type.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.common.errors import UserError, nearest
from score_sde.common.files import write_atomically
from score_sde.data.sources.image_folder import SOURCES
from score_sde.data.sources.path import is_of_one_size

# Values set by hand, as the command line has them: ("training.num_steps", "1000").
Overrides = Sequence[tuple[str, str]]

# Height and width that pictures of many sizes are brought to where none is given.
_SOME_SIZE = 32

CONFIGS = Path(__file__).parent.parent / "configs"


def load_file(path: str | Path) -> ConfigDict:
    """Load the configuration that the Python file `path` returns from its `get_config()`.

    A relative path is looked up from the current folder, then among the project's own: `configs/vp/digits.py`, or
    `vp/digits` for short. One that was written by `save`, `.json`, will do as well.

    Raises:
        UserError: there is no such file, or it does not make a configuration.
    """
    ours = (CONFIGS.parent / path, CONFIGS / path, CONFIGS / f"{path}.py")
    file = next((candidate for candidate in (Path(path), *ours) if candidate.is_file()), None)
    if file is None:
        there = [str(found.relative_to(CONFIGS.parent)) for found in sorted(CONFIGS.rglob("*.py"))]
        raise UserError(f"there is no configuration file {path}{nearest(str(path), there)}")
    if file.suffix == ".json":
        return load_json(file)
    try:
        spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"cannot read the configuration {file}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() in {file} must return a ConfigDict, not {type(config).__name__}")
    return config.lock()


def override(config: ConfigDict, overrides: Iterable[tuple[str, str]]) -> None:
    """Set dotted keys such as `training.num_steps` of `config`, in place, to values written as text.

    Raises:
        UserError: there is no such key (the nearest is named), or the text is not a value of its type.
    """
    keys = [key for key, _ in flatten(config)]
    optional = _optional_keys()
    for key, text in overrides:
        if key not in keys:
            raise UserError(f"there is no configuration key {key!r}{nearest(key, keys)}")
        section, name = _section(config, key)
        try:
            none = key in optional and text.lower() == "none"
            section[name] = None if none else _parse(text, section.get_type(name), section[name])
        except ValueError:
            kind = _kind(section.get_type(name))
            raise UserError(f"--config.{key} takes {kind}, not {text!r} (its default is {section[name]!r})") from None


def of_data(overrides: Overrides) -> ConfigDict:
    """Return the default configuration but for the section `data`, by which data are read to see what they are."""
    config, given = _defaults(), dict(overrides)
    path, name = given.get("data.path"), given.get("data.dataset")
    if name in SOURCES or (path is not None and not is_of_one_size(path)):
        config.data.image_size = _SOME_SIZE
    override(config, [(key, value) for key, value in overrides if key.startswith("data.")])
    return config


def save(config: ConfigDict, path: Path) -> None:
    """Write the resolved configuration as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def load_json(path: Path) -> ConfigDict:
    """Load the configuration written by `save`; keys that the file lacks have their defaults.

    Raises:
        UserError: the file is missing, is not JSON, or does not fit the keys of `configs/default.py`.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the configuration {path}: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"cannot read the configuration {path}: it holds no keys")
    return from_dict(values, str(path))


def from_dict(values: dict[str, Any], where: str, config: ConfigDict | None = None) -> ConfigDict:
    """Return the default configuration with nested `values` (plain, as from JSON) put in.

    Args:
        values: sections of keys, as `ConfigDict.to_dict` gives them, or dotted keys.
        where: the origin of the values, for errors.
        config: a configuration that the values are put into instead, in place.

    Raises:
        UserError: a key or a value does not fit `configs/default.py`.
    """
    config = _defaults() if config is None else config
    keys = [key for key, _ in flatten(config)]
    optional = _optional_keys()
    for key, value in flatten(values):
        if key not in keys:
            raise UserError(f"{where} has the unknown configuration key {key!r}{nearest(key, keys)}")
        section, name = _section(config, key)
        try:
            value = tuple(value) if isinstance(value, list) else value
            if (value is None and key not in optional) or not _has_items_like(value, section[name]):
                raise TypeError
            section[name] = value
        except (TypeError, ValueError):
            raise UserError(f"{where}: {key} takes {_kind(section.get_type(name))}, not {value!r}") from None
    return config


def differences(
    config: ConfigDict, other: ConfigDict, sections: Iterable[str], except_for: Iterable[str] = ()
) -> list[str]:
    """Return the dotted keys in these sections whose values differ."""
    values, chosen, ignored = dict(flatten(other)), tuple(sections), set(except_for)
    return [
        key
        for key, value in flatten(config)
        if key.split(".")[0] in chosen and key not in ignored and values[key] != value
    ]


def flatten(values: ConfigDict | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values of a nested configuration, in order."""
    for name, value in values.items():
        if isinstance(value, (ConfigDict, dict)):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _defaults() -> ConfigDict:
    return load_file(CONFIGS / "default.py")


@cache
def _optional_keys() -> set[str]:
    """Return the keys that may be None."""
    return {key for key, value in flatten(_defaults()) if value is None}


def _section(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    *path, name = key.split(".")
    for part in path:
        config = config[part]
    return config, name


def _parse(text: str, kind: type, default: Any) -> Any:
    """Return the value of type `kind`, items like those of `default`, that `text` spells; raise ValueError if none."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if kind is tuple:
        items = [item.strip(" '\"") for item in text.strip("()[] ").split(",") if item.strip()]
        return tuple(items) if _holds_words(default) else tuple(map(_number, items))
    return kind(text)


def _holds_words(value: tuple[Any, ...]) -> bool:
    return bool(value) and isinstance(value[0], str)


def _has_items_like(value: Any, default: Any) -> bool:
    """Return whether a list has words where the default has words, and none where it has none; True if no list."""
    if not isinstance(value, tuple) or not isinstance(default, tuple):
        return True
    return all(isinstance(item, str) == _holds_words(default) for item in value)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _kind(kind: type) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", tuple: "a list such as 1,2", str: "a word"}
    return names.get(kind, kind.__name__)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())
