"""The range of an activation that 8-bit numbers should cover, from what it was on the samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeseq.quantization.forms.integers import Array
from edgeseq.quantization.rewriting import Declined

# Shares of the lowest and highest number seen that an end of the range may be: what lies beyond is taken for the end.
_CLIPS = np.linspace(0.1, 1.0, 13)
# Of the numbers seen; more change no digit that matters.
_MOST_NUMBERS = 20_000
_LEVELS = 255


def best_range(numbers: Array) -> tuple[float, float]:
    """The range low <= 0 <= high in which numbers of 8 bits come nearest to `numbers`, by mean squared error.

    Raises Declined when they are all zero, or not all finite.
    """
    seen = _checked(numbers)
    low, high = min(float(seen[0]), 0.0), max(float(seen[-1]), 0.0)
    ends = [(low * share, high * share) for share in _CLIPS]
    if low and high:
        ends = [(a, b) for a in low * _CLIPS for b in high * _CLIPS]

    def error(ends: tuple[float, float]) -> float:
        scale, zero = scale_and_zero(*ends)
        return _error(seen, scale, -int(zero), _LEVELS - int(zero))

    best = min(ends, key=error)
    return float(best[0]), float(best[1])


def best_bound(numbers: Array) -> float:
    """The bound of a symmetric range in which signed numbers of 8 bits come nearest to `numbers`, as `best_range`."""
    seen = _checked(numbers)
    largest = max(-float(seen[0]), float(seen[-1]))
    return min((float(bound) for bound in largest * _CLIPS), key=lambda bound: _error(seen, bound / 127, -127, 127))


def _checked(numbers: Array) -> Array:
    """A part of the numbers, sorted, both ends included."""
    if not np.isfinite(numbers).all():
        raise Declined("its input is not finite on the samples")
    if not numbers.any():
        raise Declined("its input is zero in all samples, so that no range can be chosen")
    # At even places of the sorted numbers, so that rare large ones have their share.
    ordered = np.sort(numbers.ravel())
    places = np.linspace(0, ordered.size - 1, min(ordered.size, _MOST_NUMBERS)).astype(np.intp)
    return ordered[places].astype(np.float32)


def _error(seen: Array, scale: float | np.float32, lowest: int, highest: int) -> float:
    return float(np.square(np.clip(np.rint(seen / scale), lowest, highest) * scale - seen).mean())


def scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of unsigned 8-bit numbers for a range that holds 0, which stays exactly 0."""
    scale = np.float32((high - low) / _LEVELS)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))


def range_of(parameters: Mapping[str, float], name: str) -> tuple[np.float32, np.uint8]:
    """Scale and zero point for the range kept under `name` in a form's parameters."""
    return scale_and_zero(parameters[f"{name}_low"], parameters[f"{name}_high"])


def range_parameters(name: str, numbers: Array) -> dict[str, float]:
    """The best range of `numbers`, as a form's parameters."""
    low, high = best_range(numbers)
    return {f"{name}_low": low, f"{name}_high": high}
