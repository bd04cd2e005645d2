"""How many threads suit a call: a few numbers, measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeseq.bench.machine import usable_cores
from edgeseq.bench.stats import Ratio
from edgeseq.quantization.search import is_faster

_TOPOLOGY = Path("/sys/devices/system/cpu")


def thread_counts() -> tuple[int, ...]:
    """1, 2, 4 and all physical cores, as far as this process has them."""
    cores = physical_cores()
    return tuple(sorted({count for count in (1, 2, 4, cores) if count <= cores}))


def physical_cores() -> int:
    """Physical cores that this process may use; the logical ones where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return usable_cores()
    try:
        siblings = {
            (_TOPOLOGY / f"cpu{number}" / "topology" / "thread_siblings_list").read_text(encoding="ascii")
            for number in os.sched_getaffinity(0)
        }
    except OSError:
        return usable_cores()
    return len(siblings)


def fastest(counts: Sequence[int], time_over: Callable[[int, int], Ratio]) -> int:
    """The number of threads that is fastest; of numbers that measure alike the first of `counts`.

    `time_over(count, other)` measures the time with `count` threads over that with `other`.
    """
    best = counts[0]
    for count in counts[1:]:
        if is_faster(time_over(count, best)):
            best = count
    return best
