"""Frozen dataclasses to plain JSON values and back, by their type hints; unknown or missing keys are errors."""

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ptqc.core.errors import OptionError, nearest, quoted

T = TypeVar("T")
MAX_JSON_BYTES = 64 << 20
INFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_plain(value: Any) -> Any:
    """Dicts, lists, strings and numbers; floats that JSON cannot hold become ``inf``, ``-inf`` and ``nan``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_plain(kind: type[T], data: Any) -> T:
    """The inverse of :func:`to_plain` for a dataclass type. Raises ValueError or TypeError on anything else."""
    made: T = _read(kind, data, kind.__name__)
    return made


def load_json(path: Path, noun: str, fix: str) -> Any:
    """The plain data of a JSON file that is a ``noun``. OptionError where it is missing, too large or no JSON."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"cannot read the {noun}", where=quoted(path), why=reason, fix=fix) from error
    if len(content) > MAX_JSON_BYTES:
        raise OptionError(f"the {noun} is too large", where=quoted(path), why="the limit is 64 MiB", fix=fix)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"this is no {noun}", where=quoted(path), why="it is no JSON text", fix=fix) from error


def check_keys(data: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """ValueError for a key that is not known, with the nearest that is."""
    unknown = next((key for key in data if key not in known), None)
    if unknown is not None:
        raise ValueError(f"{what} has the unknown key {quoted(unknown)}: {nearest(str(unknown), known)}")


def reason(error: Exception) -> str:
    """What is wrong with plain data, in words."""
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if origin in (Union, types.UnionType):
        return None if data is None else _read(next(k for k in get_args(kind) if k is not type(None)), data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise TypeError(f"{where} must be a list")
        return tuple(_read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if origin is Mapping:
        if not isinstance(data, dict):
            raise TypeError(f"{where} must be an object")
        return {key: _read(get_args(kind)[1], item, f"{where}.{key}") for key, item in data.items()}
    return _read_scalar(kind, data, where)


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise TypeError(f"{where} must be an object")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    unknown = sorted(set(data) - set(known))
    missing = [
        name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if unknown or missing:
        raise ValueError(f"{where} has unknown or missing keys: {', '.join((unknown + missing)[:5])}")
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in data.items()})


def _read_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if kind is float:
        if isinstance(data, str) and data in INFINITE:
            return INFINITE[data]
        if isinstance(data, int | float) and not isinstance(data, bool):
            return float(data)
    elif isinstance(data, kind) and not (kind is int and isinstance(data, bool)):
        return data
    raise TypeError(f"{where} must be of type {kind.__name__}")
