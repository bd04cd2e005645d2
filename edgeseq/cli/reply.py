"""What a command gives back: data for `--json`, and a way to show it to people."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A command's result."""

    document: Any
    """A dataclass: what `--json` prints, under its field names."""
    show: Callable[[Console], None]
    """Prints the same for people."""
    exit_code: int = 0
    """0, or 1 when the answer is no."""


def to_json(document: Any) -> str:
    """A dataclass as one line of strict JSON: null for numbers that are not finite, everything else as it is."""
    return json.dumps(plain(dataclasses.asdict(document)), allow_nan=False)


def plain(value: Any) -> Any:
    """`value` as `json.dumps` takes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
