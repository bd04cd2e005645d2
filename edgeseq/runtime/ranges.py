"""How long each free axis of a model may be: what an engine is built for, and what is refused before it is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.runtime.manifest import Manifest

Range = tuple[int, ...]
"""(shortest, the one to be fastest at, longest)."""
GivenRanges = Mapping[str, Sequence[int]]
"""By the name of an axis: (shortest, longest), or with the one to be fastest at between them."""

# What TensorRT's dimensions can hold.
_LONGEST = 2**31 - 1


def parse_ranges(texts: Iterable[str]) -> dict[str, Range]:
    """Ranges from text such as ``batch=1:32`` and ``time=1:100:200``; see `GivenRanges`.

    Raises WrongUsage for text of another form, numbers that are no range, and an axis given twice.
    """
    found: dict[str, Range] = {}
    for text in texts:
        axis, equals, numbers = text.partition("=")
        axis, parts = axis.strip(), [part.strip() for part in numbers.split(":")]
        if not axis or not equals or not all(part.isascii() and part.isdigit() for part in parts):
            raise WrongUsage(f"a range is AXIS=MIN:MAX or AXIS=MIN:OPT:MAX, as in time=1:200; got '{text}'")
        if axis in found:
            raise WrongUsage(f"the range of '{axis}' is given twice")
        found[axis] = _checked(axis, [int(part) for part in parts])
    return found


def free_axes(manifest: Manifest) -> dict[str, str]:
    """The free axes by name, each with the first input or state that has it."""
    found: dict[str, str] = {}
    for name, axes in dynamic_shapes(manifest).items():
        for axis in axes:
            if isinstance(axis, str):
                found.setdefault(axis, name)
    return found


def dynamic_shapes(manifest: Manifest) -> dict[str, tuple[str | int, ...]]:
    """The axes of every input of the graph, states included, that has a free one."""
    inputs = [(spec.name, spec.axes) for spec in manifest.inputs]
    states = [(state.input, state.axes) for state in manifest.states]
    return {name: axes for name, axes in [*inputs, *states] if any(isinstance(axis, str) for axis in axes)}


def choose_ranges(
    manifest: Manifest, given: GivenRanges | None = None, samples: Mapping[str, Any] | None = None
) -> dict[str, Range]:
    """The range of each free axis: what is `given`, else 1 to the longest of the `samples` (arrays by input name).

    Raises WrongUsage for axes that have neither, for ones that the model has not, and for numbers that are no range.
    """
    axes = free_axes(manifest)
    check_axes(manifest, given or {})
    seen = _longest(manifest, samples or {})
    found, missing = {}, []
    for axis in axes:
        if given and axis in given:
            found[axis] = _checked(axis, given[axis])
        elif axis in seen:
            found[axis] = (1, seen[axis], seen[axis])
        else:
            missing.append(f"'{axis}' (of '{axes[axis]}')")
    if missing:
        example = " ".join(f"--range {axis}=1:32" for axis in axes if axis not in found)
        raise WrongUsage(
            f"a range is needed for {', '.join(missing)}: there are no golden samples or other samples to take it "
            f"from. Give the shortest and longest that you will use: {example}, or ranges= in Python"
        )
    return found


def check_axes(manifest: Manifest, given: GivenRanges) -> None:
    """Raise WrongUsage for ranges of axes that the model has not, and for numbers that are no range."""
    axes = free_axes(manifest)
    for axis, numbers in given.items():
        if axis not in axes:
            raise WrongUsage(
                f"the model has no free axis '{axis}'; it has {', '.join(axes) or 'none: its lengths are fixed'}"
            )
        _checked(axis, numbers)


def check_lengths(lengths: Mapping[str, int], ranges: Mapping[str, Sequence[int]]) -> None:
    """Raise InputMismatch for the first of the `lengths`, by axis, that is outside of `ranges`."""
    for axis, length in lengths.items():
        if axis not in ranges:
            continue
        shortest, *_, longest = ranges[axis]
        if not shortest <= length <= longest:
            low, high = max(1, min(shortest, length)), max(longest, length)
            raise InputMismatch(
                f"the axis '{axis}' has the length {length}; the engine was built for {shortest} to {longest}. Cut or "
                f"pad the input, or have one built for {low} to {high}, which takes 30 to 120 s: --range "
                f"{axis}={low}:{high}, in Python ranges={{'{axis}': ({low}, {high})}}, for a compiled file to compile"
            )


def _checked(axis: str, numbers: Sequence[int]) -> Range:
    whole = all(isinstance(number, (int, np.integer)) and not isinstance(number, bool) for number in numbers)
    if not whole or len(numbers) not in (2, 3):
        raise WrongUsage(f"the range of '{axis}' must be (min, max) or (min, opt, max), whole numbers; got {numbers!r}")
    shortest, best, longest = int(numbers[0]), int(numbers[-2 if len(numbers) == 3 else -1]), int(numbers[-1])
    if not 1 <= shortest <= best <= longest <= _LONGEST:
        raise WrongUsage(
            f"the range of '{axis}' must have 1 <= min <= opt <= max; got {':'.join(str(number) for number in numbers)}"
        )
    return shortest, best, longest


def _longest(manifest: Manifest, samples: Mapping[str, Any]) -> dict[str, int]:
    """The longest of each free axis in `samples`."""
    found: dict[str, int] = {}
    for name, axes in dynamic_shapes(manifest).items():
        if name not in samples:
            continue
        shape = np.shape(samples[name])
        if len(shape) != len(axes):
            raise InputMismatch(f"input '{name}' has {len(axes)} axes; the samples have the shape {shape}", name)
        for axis, length in zip(axes, shape, strict=True):
            if isinstance(axis, str) and length:
                found[axis] = max(length, found.get(axis, 1))
    return found
