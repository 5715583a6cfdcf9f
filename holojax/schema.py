"""What the schema of configurations is written in, and how a configuration is completed and checked by it."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from holojax.errors import ConfigError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


@runtime_checkable
class Section(Protocol):
    """Named values: a dict, a ConfigDict, any mapping."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return the pairs of name and value."""


@dataclass(frozen=True)
class Choice:
    """A default for which only certain words, or only None where `none` says so, may stand."""

    words: tuple[str, ...]
    none: bool = False

    @property
    def default(self) -> str | None:
        """Return the first word, or None where that is allowed."""
        return None if self.none else self.words[0]


@dataclass(frozen=True)
class PerStage:
    """A default for which one whole number, or one per stage, may stand."""

    default: int


def nearest(word: str, known: Iterable[str], what: str) -> str:
    """Describe an unknown word: the nearest known one if there is any, and the list."""
    known = sorted(str(name) for name in known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"unknown {what} {word!r}. {hint}Known: {', '.join(known)}."


def plain(value: Any, path: str) -> dict[str, Any]:
    """Copy a mapping (ConfigDict, dict) to plain nested dicts, with tuples for lists."""
    if not hasattr(value, "items"):
        raise ConfigError(f"{path}: expected a mapping of keys, found {value!r}.")
    return {str(key): _tuples(item, f"{path}.{key}") for key, item in value.items()}


def _tuples(value: Any, path: str) -> Any:
    if hasattr(value, "items"):
        return plain(value, path)
    if isinstance(value, list | tuple):
        return tuple(_tuples(item, path) for item in value)
    return value


def complete_part(section: dict[str, Any], table: dict[str, dict], path: str) -> dict[str, Any]:
    """Complete the section of a part by its `name`, a key of `table`. Raises ConfigError, as `fill`, or for a name."""
    section = dict(section)
    name = section.pop("name", None)
    if name not in table:
        raise ConfigError(f"{path}.name: " + nearest(str(name), table, "name"))
    return {"name": name, **fill(section, table[name], f"{path} ({name})")}


def fill(given: Mapping[str, Any], defaults: Mapping[str, Any], path: str, known: tuple = ()) -> dict[str, Any]:
    """Complete a section with its defaults, which say what kind each value has.

    Raises ConfigError for a key that is neither there nor in `known` (the nearest one is named), or another kind of
    value; `path` says where.
    """
    for key in given:
        if key not in defaults:
            raise ConfigError(f"{path}: " + nearest(key, (*defaults, *known), "key"))
    full = {}
    for key, default in defaults.items():
        if isinstance(default, dict):
            full[key] = fill(plain(given.get(key, {}), f"{path}.{key}"), default, f"{path}.{key}")
        else:
            start = default.default if isinstance(default, Choice | PerStage) else default
            full[key] = _value(given.get(key, start), default, f"{path}.{key}")
    return full


def _value(value: Any, default: Any, path: str) -> Any:
    """Return the value as the default's kind (ints and floats stand for each other), or raise."""
    if isinstance(default, Choice):
        if value not in default.words and not (value is None and default.none):
            raise ConfigError(f"{path}: " + nearest(str(value), default.words, "value"))
        return value
    if isinstance(default, PerStage):
        many = isinstance(value, tuple)
        return tuple(_value(item, 1, path) for item in value) if many else _value(value, 1, path)
    if default is None:
        return value
    if isinstance(default, bool) or isinstance(value, bool):
        return _expect(value, path, "True or False", isinstance(value, bool) and isinstance(default, bool))
    if isinstance(default, int):
        return int(_expect(value, path, "a whole number", is_number(value) and value == int(value)))
    if isinstance(default, float):
        return float(_expect(value, path, "a number", is_number(value)))
    if isinstance(default, tuple):
        _expect(value, path, "a list", isinstance(value, tuple))
        kind = default[0] if default and isinstance(default[0], int | float) else None
        return tuple(_value(item, kind, path) for item in value)
    return _expect(value, path, "text", isinstance(value, str))


def is_number(value: Any, least: float | int = -math.inf, most: float | int = math.inf) -> bool:
    """Say whether a value is a finite number from `least` to `most`; True and False are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return math.isfinite(value) and least <= float(value) <= most


def is_weights(value: Any) -> bool:
    """Say whether a value is a tuple of numbers of at least 0 that are not all 0."""
    return isinstance(value, tuple) and all(is_number(item, 0) for item in value) and any(value)


def _expect(value: Any, path: str, what: str, fits: bool) -> Any:
    if not fits:
        raise ConfigError(f"{path}: expected {what}, found {value!r}.")
    return value


def config_dict_of(full: dict[str, Any]) -> "ConfigDict":
    """Make a locked ConfigDict of a complete configuration; its Nones may be overridden by anything."""
    from ml_collections import ConfigDict, config_dict  # not at the top: models need none

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return ConfigDict({key: convert(item) for key, item in value.items()}, convert_dict=False)
        return config_dict.placeholder(object) if value is None else value

    return convert(full).lock()
