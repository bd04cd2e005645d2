"""Numbers as people read them: three significant digits and a unit."""

from __future__ import annotations

import math

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def duration(ns: float) -> str:
    """A time in nanoseconds, such as ``1.23 ms``."""
    return _scaled(ns, _TIMES)


def durations(low_ns: float, high_ns: float) -> str:
    """A range of times in nanoseconds, such as ``1.05 to 1.23 ms``."""
    (low, low_unit), (high, high_unit) = duration(low_ns).split(), duration(high_ns).split()
    return f"{low} to {high} {high_unit}" if low_unit == high_unit else f"{low} {low_unit} to {high} {high_unit}"


def size(size_bytes: float) -> str:
    """A size in bytes, decimal units as file managers give them, such as ``5.64 MB``."""
    return f"{size_bytes:.0f} B" if size_bytes < 1000 else _scaled(size_bytes, _SIZES)


def times(ratio: float) -> str:
    """A ratio, such as ``12.3 ×``."""
    return f"{significant(ratio)} ×"


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, never in exponent form above 1e-4."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    # 999.6 rounds to 1,000: then the next unit reads better.
    scale, unit = next((pair for pair in units if abs(value) >= pair[0] * 0.9995), units[-1])
    return f"{significant(value / scale)} {unit}" if value else f"0 {unit}"
