"""How quiet was it? Drift, outliers and a machine that does other work: what makes a time say less than it seems to.

Numbers first (`Stability`, `Disturbance`), then the sentences that tell them to people, and only those worth telling.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.bench.sample import LIMIT
from edgeseq.bench.stats import LEAST_ROUNDS, clustered_interval, correlation_effect, least_count, relative_width
from edgeseq.bench.units import duration, plural, significant

# Windows has no such module: what it would tell is None there.
_resource: Any = importlib.import_module("resource") if importlib.util.find_spec("resource") else None

_PROC_STAT = Path("/proc/stat")

_FAR_FENCE = 3.0
_LEAST_OUTLIER = 0.05
_DRIFT_CERTAINTY = 2.576
_MOST_POINTS = 200

NOTABLE_DRIFT = 0.02
"""Smallest drift told: less hides in the difference of two processes that run the same file."""
NOTABLE_OUTLIERS = 0.01
"""Smallest share of outliers told: from there on they, and not the model, decide the 99th percentile."""
NOTABLE_SPEED_RANGE = 0.05
"""Smallest spread of the machine's own speed told: as much as a change must be to count against a baseline."""
NOTABLE_OTHER_WORK = 0.05
"""Smallest share of all cores taken by others that is told: below are the system's own chores."""
NOTABLE_STOLEN = 0.01
"""Smallest share of stolen time told: it comes in whole time slices, which are the length of many calls."""
NOTABLE_LOAD = 0.5
"""Smallest load before, a core, that is told where the system does not tell the work of others itself."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How steady one subject's times were."""

    drift: float
    """Relative change of the rounds' medians from the first round to the last, by a robust line through them
    (Theil and Sen)."""
    drift_is_certain: bool
    """Whether the rounds' medians rise or fall beyond chance (Mann-Kendall, 1 %, allowing for rounds that resemble
    their neighbours)."""
    outliers: int
    """Calls that took longer than the upper quartile and three times the quartiles' distance (Tukey's far fence), and
    at least 5 % longer than the upper quartile."""
    longest_ns: int
    """The longest call."""
    design_effect: float
    """How many times fewer independent calls the timed ones are worth, because calls of a round resemble each other,
    and rounds their neighbours."""


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What the machine did besides, while the run was timed."""

    probe_ns: tuple[float, ...]
    """Median time, round by round, of a piece of arithmetic that is always the same: the machine's own speed."""
    other_cores: float | None
    """Cores' worth of other processes' work; None where the system does not tell."""
    stolen_share: float | None
    """Share of the time that the host of a virtual machine gave to others; None where the system does not tell."""
    involuntary_switches: int | None
    """How often this process was interrupted for another; None where the system does not tell."""


def stability(rounds: Sequence[Sequence[int]]) -> Stability | None:
    """How steady the times (in nanoseconds, round by round) were; None with fewer than 6 rounds."""
    clustered = clustered_interval(rounds, 0.5)
    if clustered is None:
        return None
    times = np.concatenate([np.asarray(block) for block in rounds])
    lower, upper = np.quantile(times, (0.25, 0.75))
    fence = upper + max(_FAR_FENCE * (upper - lower), _LEAST_OUTLIER * upper)
    medians = np.array([statistics.median(block) for block in rounds])
    drift, certain = _trend(medians)
    return Stability(
        drift=drift,
        drift_is_certain=certain,
        outliers=int((times > fence).sum()),
        longest_ns=int(times.max()),
        design_effect=clustered.design_effect,
    )


def _trend(medians: npt.NDArray[np.float64]) -> tuple[float, bool]:
    """Relative change from the first to the last round, and whether it is one.

    The slope is the median of those of all pairs (Sen, JASA 63, 1968); the test counts rising and falling pairs, with
    the variance corrected for ties (Kendall, Rank Correlation Methods, chapter 4) and, from what the line leaves, for
    rounds that resemble their neighbours (after Hamed and Rao, Journal of Hydrology 204, 1998, with the correlation of
    neighbours alone). In simulations 0.6 % of steady runs were called drifting, 2 to 3 % with a correlation of 0.3
    between neighbours and 2 to 6 % with 0.6, the more the fewer rounds (without that factor 1, 4.5 and 14 to 17 %).
    """
    if len(medians) > _MOST_POINTS:
        # Pairs grow with the square of the rounds: neighbours are put together, which a trend survives.
        medians = np.array([np.median(part) for part in np.array_split(medians, _MOST_POINTS)])
    count = len(medians)
    first, second = np.triu_indices(count, 1)
    rises = medians[second] - medians[first]
    slope = float(np.median(rises / (second - first)))
    # The line goes through the middle of both; its start is what the change is relative to.
    start = float(np.median(medians)) - slope * (count - 1) / 2
    drift = slope * (count - 1) / start if start > 0 else 0.0
    _, ties = np.unique(medians, return_counts=True)
    variance = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    left = medians - slope * np.arange(count)
    variance *= correlation_effect(left - left.mean())
    score = abs(float(np.sign(rises).sum()))
    return drift, bool(variance > 0 and (score - 1) / variance**0.5 > _DRIFT_CERTAINTY)


def probe() -> Callable[[], object]:
    """Some arithmetic that is the same in every run: its time is the machine's own speed at that moment.

    About a millisecond on one thread, so that a round has time for some: logarithms of what fits the second cache
    level, and a sum over what does not fit it, since models wait for either. No product of matrices, which numpy's
    library would share out to threads.
    """
    numbers = np.linspace(1.0, 2.0, 16_384)
    logarithms = np.empty_like(numbers)
    many = np.ones(1_000_000, np.float32)

    def work() -> None:
        for _ in range(25):
            np.log(numbers, out=logarithms)
        for _ in range(2):
            many.sum()

    return work


class Watch:
    """Counts what else the machine does, from its making to `disturbance`."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = _machine_times()
        self._own = _own_seconds()
        self._switches = _involuntary_switches()

    def disturbance(self, probe_ns: Sequence[float]) -> Disturbance:
        """What happened since, with the probe's median of each round."""
        after, own, switches = _machine_times(), _own_seconds(), _involuntary_switches()
        elapsed = time.monotonic() - self._started
        others = stolen = None
        if self._before is not None and after is not None and elapsed > 0:
            # Both count in ticks, so that a short run can come out below nothing.
            others = max(0.0, (after.busy - self._before.busy - (own - self._own)) / elapsed)
            total = after.total - self._before.total
            stolen = (after.stolen - self._before.stolen) / total if total else None
        return Disturbance(
            probe_ns=tuple(probe_ns),
            other_cores=others,
            stolen_share=stolen,
            involuntary_switches=None if switches is None or self._switches is None else switches - self._switches,
        )


@dataclass(frozen=True, kw_only=True)
class _MachineTimes:
    """Seconds since the machine started, over all cores."""

    busy: float
    stolen: float
    total: float


def _machine_times() -> _MachineTimes | None:
    """What the whole machine did, as Linux tells it (man 5 proc_stat); None on other systems."""
    try:
        words = _PROC_STAT.read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    if len(words) < 9 or words[0] != "cpu":
        return None
    # Guests are counted in user and nice already.
    user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen = (int(word) for word in words[1:9])
    busy = user + nice + system + interrupts + soft_interrupts
    total = busy + idle + waiting + stolen
    if total == 0:
        # Some sandboxes show the file and count nothing.
        return None
    second = os.sysconf("SC_CLK_TCK")
    return _MachineTimes(busy=busy / second, stolen=stolen / second, total=total / second)


def _own_seconds() -> float:
    """Processor time of this process and its children that ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _involuntary_switches() -> int | None:
    return None if _resource is None else int(_resource.getrusage(_resource.RUSAGE_SELF).ru_nivcsw)


def speed_range(probe_ns: Sequence[float]) -> float | None:
    """How far the machine's speed ranged between rounds: tenth to ninetieth percentile of the probe / its median.

    None with fewer than 6 rounds.
    """
    if len(probe_ns) < LEAST_ROUNDS:
        return None
    low, middle, high = np.quantile(probe_ns, (0.1, 0.5, 0.9))
    return float((high - low) / middle) if middle else None


def run_warnings(
    disturbance: Disturbance, *, load_before: float | None, cores: int, stopped: str = ""
) -> tuple[str, ...]:
    """What the machine did that makes a run's times say less, as sentences; `cores` are all that it has."""
    said = []
    others = disturbance.other_cores
    if others is not None and others >= NOTABLE_OTHER_WORK * cores:
        said.append(
            f"other processes used {significant(others, 2)} of the machine's {plural(cores, 'core')} while this ran: "
            "times are longer and less even than on a quiet machine; end them and measure again"
        )
    if others is None and load_before is not None and load_before >= NOTABLE_LOAD * cores:
        said.append(
            f"the machine was at work before this ran (load average {significant(load_before, 2)} on "
            f"{plural(cores, 'core')}), and may have been while it ran"
        )
    ranged = speed_range(disturbance.probe_ns)
    if ranged is not None and ranged >= NOTABLE_SPEED_RANGE:
        said.append(
            f"the machine's own speed varied by {ranged:.0%} between rounds: trust ratios, which are taken round by "
            "round, more than times"
        )
    stolen = disturbance.stolen_share
    if stolen is not None and stolen >= NOTABLE_STOLEN:
        said.append(f"the host of this virtual machine gave {stolen:.0%} of its time to others while this ran")
    if stopped == LIMIT:
        said.append("the time was up before all was measured as often and as precisely as asked for")
    return tuple(said)


def result_notes(
    rounds: Sequence[Sequence[int]],
    found: Stability | None,
    *,
    percentile: float,
    precision: float | None,
    warm_up_stable: bool = True,
) -> tuple[str, ...]:
    """What a reader should know of one subject's times, as sentences; none for what is trifling."""
    said = []
    count = sum(len(block) for block in rounds)
    if not warm_up_stable:
        said.append("its times had not become stable when the warm-up's limit was up: allow it more")
    if found is not None:
        if found.drift_is_certain and abs(found.drift) >= NOTABLE_DRIFT:
            way = "slower" if found.drift > 0 else "faster"
            said.append(f"it became {abs(found.drift):.0%} {way} from the first round to the last")
        if found.outliers >= NOTABLE_OUTLIERS * count and found.outliers:
            said.append(
                f"{found.outliers:,} of {count:,} calls were outliers; the longest took {duration(found.longest_ns)}"
            )
    if precision is not None:
        width = relative_width(rounds, percentile)
        if width is None:
            said.append(_why_no_interval(rounds, percentile))
        elif width > precision:
            said.append(
                f"the interval of {_name(percentile)} is {significant(width * 100, 2)} % wide, not the "
                f"{significant(precision * 100, 2)} % asked for"
            )
    return tuple(said)


def _why_no_interval(rounds: Sequence[Sequence[int]], percentile: float) -> str:
    count, least = sum(len(block) for block in rounds), least_count(percentile)
    calls, name = plural(count, "call"), _name(percentile)
    if count < least:
        return f"{calls} {'is' if count == 1 else 'are'} too few for {name}, which needs {least:,}"
    clustered = clustered_interval(rounds, percentile)
    if clustered is None:
        return f"{plural(len(rounds), 'round')} of {LEAST_ROUNDS} that an interval of {name} needs"
    worth = plural(int(count / clustered.design_effect), "independent one")
    return f"its {len(rounds)} rounds differ so much that {calls} are worth {worth}: too few for an interval of {name}"


def _name(percentile: float) -> str:
    return "the median" if percentile == 0.5 else f"p{percentile * 100:.6g}"
