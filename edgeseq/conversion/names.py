"""Names that TensorFlow, ONNX and file systems all take."""

from __future__ import annotations

import re
from collections.abc import Iterable


def plain_name(name: str) -> str:
    """`name` in letters, digits, dots, dashes and underscores; it begins with a letter or digit."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if plain[:1].isalnum() else f"x{plain}"


def unique_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Plain names, none twice and none in `taken`."""
    used, result = set(taken), []
    for name in names:
        plain = plain_name(name)
        candidate, count = plain, 1
        while candidate in used:
            count += 1
            candidate = f"{plain}_{count}"
        used.add(candidate)
        result.append(candidate)
    return result


def layer_of_scope(scope: str, layers: Iterable[str]) -> str | None:
    """Which of the `layers` TensorFlow's name for an op belongs to: the innermost; None when there is none.

    TensorFlow numbers a scope that it enters again: ``encoder_1/block/while`` lies in ``encoder`` and in ``block``.
    """
    names = {plain_name(name): name for name in layers}
    for part in reversed(scope.split("/")[:-1]):
        found = names.get(part) or names.get(re.sub(r"_\d+$", "", part))
        if found is not None:
            return found
    return None
