"""How many threads "all" are: one a physical core, the same number for every library."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def physical_cores(usable=None, folder=_CPUS):
    """Physical cores of the logical ones in `usable` (those of this process); all of these where Linux does not tell.

    Left to themselves, some libraries take physical cores and some logical ones.
    """
    usable = os.sched_getaffinity(0) if usable is None else usable
    siblings = set()
    for cpu in usable:
        told = folder / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        siblings.add(told.read_text(encoding="ascii").strip() if told.exists() else str(cpu))
    return len(siblings)


def cores(threads):
    """`threads` as a number that every library is given; 0 means all."""
    return threads or physical_cores()
