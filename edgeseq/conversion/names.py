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
