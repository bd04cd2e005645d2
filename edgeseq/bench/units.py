"""Numbers as people read them: three significant digits and a unit."""

from __future__ import annotations

import math

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_BINARY_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_ENERGIES = ((1e6, "J"), (1e3, "mJ"), (1.0, "µJ"))


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


def binary_size(size_bytes: int) -> str:
    """Bytes of a cache or of memory, which come in powers of two, such as ``2 MiB``."""
    for scale, unit in _BINARY_SIZES:
        if size_bytes >= scale:
            return f"{float(f'{size_bytes / scale:.3g}'):,g} {unit}"
    return size(size_bytes)


def energy(microjoules: float) -> str:
    """An energy in microjoules, such as ``15.1 mJ``."""
    return _scaled(microjoules, _ENERGIES)


def rate(per_s: float) -> str:
    """Rows or queries a second, such as ``900/s``."""
    return f"{significant(per_s)}/s"


def threads_text(threads: int | None, *, unset: str = "its own") -> str:
    """A number of threads, such as ``1 thread``; 0 is ``all threads``, None those that `unset` names."""
    return f"{unset if threads is None else 'all'} threads" if not threads else plural(threads, "thread")


def plural(count: int, noun: str) -> str:
    """A number of things, such as ``2 cores``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def times(ratio: float) -> str:
    """A ratio, such as ``12.3 ×``."""
    return f"{significant(ratio)} ×"


def ratios(low: float, high: float) -> str:
    """A range of ratios, such as ``0.951 to 1.02``, with a digit or two more where three show no width."""
    shown = [(significant(low, digits), significant(high, digits)) for digits in (3, 4, 5)]
    return " to ".join(next((pair for pair in shown if pair[0] != pair[1]), shown[0]))


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
