"""What a quantized file may cost, and what it should gain."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Any

from edgeseq.bench.units import significant, size
from edgeseq.errors import WrongUsage

DEFAULT_MAX_ERROR = 0.02
DEFAULT_MAX_DROP = 0.005

GOALS = {"balanced": (1.0, 1.0), "latency": (0.1, 1.0), "size": (1.0, 0.1)}
"""How much the logarithms of "times smaller" and of "times faster" count. What is not the goal decides between forms
that are alike in it."""

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a choice costs, on one part of the samples."""

    error: float
    """Relative RMS error against fp32, of the worst output."""
    metric_before: float | None = None
    """The metric of fp32; None without labels."""
    metric_after: float | None = None
    """The metric with this choice; None without labels, or when the answers are no numbers."""
    drop: float | None = None
    """By how much it is worse."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a choice may cost. None is no limit."""

    max_error: float | None
    """Largest `Quality.error`."""
    max_drop: float | None
    """Largest `Quality.drop`."""
    max_size_bytes: int | None = None
    """Largest file."""
    max_latency_ms: float | None = None
    """Longest time of one call, in milliseconds."""

    def broken_by(self, quality: Quality) -> str:
        """How `quality` breaks the budget, in words; empty when it keeps it. NaN breaks every budget."""
        if self.max_error is not None and not quality.error <= self.max_error:
            return f"error {quality.error:.2%} is over the budget of {self.max_error:.2%}"
        if self.max_drop is not None and quality.drop is None:
            return "the answers are not finite"
        if self.max_drop is not None and quality.drop is not None and not quality.drop <= self.max_drop:
            return f"the metric drops by {quality.drop:.4g}, over the budget of {self.max_drop:.4g}"
        return ""

    def size_broken_by(self, size_bytes: int) -> str:
        """How a file of this size breaks the budget, in words; empty when it keeps it."""
        if self.max_size_bytes is not None and size_bytes > self.max_size_bytes:
            return f"{size(size_bytes)} is over the budget of {size(self.max_size_bytes)}"
        return ""

    def latency_broken_by(self, latency_ms: float) -> str:
        """How a call of this length, in milliseconds, breaks the budget, in words; empty when it keeps it."""
        if self.max_latency_ms is not None and not latency_ms <= self.max_latency_ms:
            return f"{significant(latency_ms)} ms is over the budget of {significant(self.max_latency_ms)} ms"
        return ""


def accuracy_limits(
    *, has_labels: bool, max_error: float | None, max_drop: float | None
) -> tuple[float | None, float | None]:
    """`max_error` and `max_drop` with their defaults. Raises WrongUsage when they cannot mean anything."""
    if not has_labels:
        max_error = DEFAULT_MAX_ERROR if max_error is None else max_error
    elif max_drop is None:
        max_drop = DEFAULT_MAX_DROP
    check_accuracy(max_error, max_drop)
    return max_error, max_drop


def check_accuracy(max_error: float | None, max_drop: float | None) -> None:
    """Raise WrongUsage unless both, where they are given, mean something."""
    # An error of 1 is that of answering nothing but zeros.
    if max_error is not None and not (_is_number(max_error) and 0 < max_error <= 1):
        raise WrongUsage(f"max_error must be above 0 and at most 1 (100%), got {max_error!r}")
    if max_drop is not None and not (_is_number(max_drop) and 0 <= max_drop < math.inf):
        raise WrongUsage(f"max_drop must be 0 or a positive number, got {max_drop!r}")


def latency_limit(max_latency_ms: float | None) -> float | None:
    """Milliseconds; raises WrongUsage unless they are a positive number."""
    if max_latency_ms is None:
        return None
    if not (_is_number(max_latency_ms) and 0 < max_latency_ms < math.inf):
        raise WrongUsage(f"max_latency_ms must be a positive number of milliseconds, got {max_latency_ms!r}")
    return float(max_latency_ms)


def size_limit(given: float | str | None, source_bytes: int) -> int | None:
    """A number of bytes from one, or from a text such as ``500kB``, ``2.5MB`` or ``30%`` (of `source_bytes`).

    Units are decimal, as file managers show them. Raises WrongUsage for anything else, and for what is not above 0.
    """
    if given is None:
        return None
    number, unit = given, ""
    if isinstance(number, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(%|B|kB|KB|MB|GB|)", number.strip())
        if found is None:
            raise WrongUsage(f"max_size must be such as 500kB, 2.5MB or 30% (of the fp32 file), got {given!r}")
        number, unit = float(found[1]), found[2].replace("K", "k")
    if not (_is_number(number) and 0 < number < math.inf):
        raise WrongUsage(f"max_size must be above 0, got {given!r}")
    wanted = number * source_bytes / 100 if unit == "%" else number * _UNITS[unit]
    # A part of a byte is no limit of its own.
    if wanted < 1:
        raise WrongUsage(f"max_size must be at least one byte, got {given!r}")
    return math.floor(wanted)


def check_goal(goal: str) -> str:
    """`goal`; raises WrongUsage unless it is one."""
    if goal not in GOALS:
        raise WrongUsage(f"goal must be {', '.join(GOALS)}; got {goal!r}")
    return goal


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
