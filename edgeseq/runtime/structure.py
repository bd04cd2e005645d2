"""Between what a Keras model takes or returns (an array, or lists, tuples and dicts of them) and arrays by name.

A structure is JSON: a tensor's name is a leaf, a list is a list, ``{"tuple": [...]}`` is a tuple and
``{"dict": {...}}`` is a dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeseq.errors import InputMismatch
from edgeseq.runtime.manifest import Structure


def names(structure: Structure) -> list[str]:
    """The tensors' names, in the structure's order."""
    if isinstance(structure, str):
        return [structure]
    _, parts = _parts(structure)
    return [name for part in (parts.values() if isinstance(parts, dict) else parts) for name in names(part)]


def nest(values: Mapping[str, Any], structure: Structure) -> Any:
    """`values`, which are by name, in the shape of `structure`."""
    if isinstance(structure, str):
        return values[structure]
    kind, parts = _parts(structure)
    if isinstance(parts, dict):
        return {key: nest(values, part) for key, part in parts.items()}
    return kind(nest(values, part) for part in parts)


def flatten(value: Any, structure: Structure, where: str = "the input") -> dict[str, Any]:
    """What `nest` undoes: the leaves of `value` by name. A list is taken for a tuple and the other way round.

    Raises InputMismatch, naming the place, when `value` is nested in another way.
    """
    if isinstance(structure, str):
        return {structure: value}
    _, parts = _parts(structure)
    if isinstance(parts, dict):
        check_keys(value, list(parts), where)
        return _merged(flatten(value[key], part, f"{where}[{key!r}]") for key, part in parts.items())
    if not isinstance(value, (list, tuple)) or len(value) != len(parts):
        raise InputMismatch(
            f"{where} is a list of {len(parts)}, {_outline(structure)}; got {_described(value)}. "
            "A dict by input name is taken as well."
        )
    return _merged(
        flatten(item, part, f"{where}[{i}]") for i, (item, part) in enumerate(zip(value, parts, strict=True))
    )


def is_dict(structure: Structure) -> bool:
    """Whether the outermost container is a dict."""
    return isinstance(structure, dict) and "dict" in structure


def check_keys(value: Any, keys: Sequence[str], where: str) -> None:
    """Raise InputMismatch unless `value` is a dict with exactly `keys`; the message lists missing and unexpected."""
    if not isinstance(value, Mapping):
        raise InputMismatch(f"{where} is a dict with the keys {_listed(keys)}; got {_described(value)}")
    missing = [key for key in keys if key not in value]
    unexpected = [key for key in value if key not in keys]
    if missing or unexpected:
        faults = [
            f"{what} {_listed(found)}" for what, found in (("missing", missing), ("unexpected", unexpected)) if found
        ]
        raise InputMismatch(f"{where} is a dict with the keys {_listed(keys)}; {' and '.join(faults)}")


def _parts(structure: Structure) -> tuple[type, Any]:
    """The container's type, and its parts: a list for a list or tuple, a dict for a dict."""
    if isinstance(structure, (list, tuple)):
        return list, structure
    if isinstance(structure, dict) and len(structure) == 1:
        [(kind, parts)] = structure.items()
        if kind == "tuple" and isinstance(parts, (list, tuple)):
            return tuple, parts
        if kind == "dict" and isinstance(parts, dict):
            return dict, parts
    raise ValueError(f"no structure of tensors: {structure!r}")


def _merged(found: Any) -> dict[str, Any]:
    return {name: value for part in found for name, value in part.items()}


def _outline(structure: Structure) -> str:
    if isinstance(structure, str):
        return structure
    kind, parts = _parts(structure)
    if isinstance(parts, dict):
        return "{" + ", ".join(f"{key!r}: {_outline(part)}" for key, part in parts.items()) + "}"
    inside = ", ".join(_outline(part) for part in parts)
    return f"[{inside}]" if kind is list else f"({inside})"


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"one array of shape {tuple(shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple, dict)) else "")


def _listed(keys: Sequence[Any]) -> str:
    return ", ".join(repr(key) for key in keys)
