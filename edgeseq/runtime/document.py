"""JSON objects as the dataclasses they were written from, with every value's type checked.

A key that the dataclass has no field for is left out, so that a newer edgeseq may add some.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_NAMES = {str: "text", int: "an integer", float: "a finite number", bool: "true or false"}


def read(kind: type[T], value: Any, where: str = "") -> T:
    """`value`, as `json.loads` gives it, as an instance of the dataclass `kind`; `where` is its place, for messages.

    Raises ValueError, naming the place and what belongs there, for a field that is missing or of another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} must be an object; got {_shortened(value)}")
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(typing.cast(Any, kind)):
        place = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            found[field.name] = _converted(hints[field.name], value[field.name], place)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{place} is missing")
    return kind(**found)


def _converted(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` says: JSON has neither tuples nor dataclasses."""
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _one_of(parts, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list; got {_shortened(value)}")
        return tuple(_converted(parts[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin in (Mapping, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object; got {_shortened(value)}")
        return {key: _converted(parts[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(origin):
        return read(typing.cast(type[Any], origin), value, where)
    if origin is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    # Not isinstance: Python's booleans are integers, JSON's are not.
    if type(value) is not origin or origin is float:
        raise ValueError(f"{where} must be {_NAMES[origin]}; got {_shortened(value)}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    *others, last = (hint for hint in hints if hint is not type(None))
    for hint in others:
        try:
            return _converted(hint, value, where)
        except ValueError:
            continue
    return _converted(last, value, where)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
