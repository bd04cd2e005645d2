"""What a pool has done lately: counts of all its time, and percentiles of the last some thousand chunks and runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_KEPT = 4096


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Order statistics: each is one of the values that were kept, the smallest that so many per cent do not exceed."""

    p50: int
    """Half of the values are this or less."""
    p90: int
    """Nine in ten are."""
    p99: int
    """99 in a hundred are."""
    largest: int
    """Of all that were kept."""


@dataclass(frozen=True, kw_only=True)
class PoolStatistics:
    """Of a pool; the percentiles are None until there is a value."""

    streams: int
    """Open now."""
    queued: int
    """Chunks that wait or are being computed now."""
    answered: int
    """Chunks answered, by bulk calls and from the queue."""
    failed: int
    """Queued chunks that ended in an error."""
    cancelled: int
    """Queued chunks whose future was cancelled before their turn."""
    refused: int
    """Chunks and streams for which the pool was full."""
    runs: int
    """Runs of the model."""
    kept: int
    """The percentiles are of so many last values at most."""
    batch_size: Percentiles | None
    """Rows of a run."""
    queue_ns: Percentiles | None
    """From feeding a chunk to the beginning of its run, in nanoseconds; queued ones only."""
    latency_ns: Percentiles | None
    """From feeding a chunk to its answer, in nanoseconds; queued ones only."""


class _Ring:
    """The last values, in memory that does not grow."""

    def __init__(self) -> None:
        self._values = np.zeros(_KEPT, np.int64)
        self._count = 0

    def add(self, values: Sequence[int]) -> None:
        for value in values:
            self._values[self._count % _KEPT] = value
            self._count += 1

    def percentiles(self) -> Percentiles | None:
        kept = np.sort(self._values[: self._count])
        if not len(kept):
            return None
        p50, p90, p99 = (int(kept[-(-len(kept) * per_cent // 100) - 1]) for per_cent in (50, 90, 99))
        return Percentiles(p50=p50, p90=p90, p99=p99, largest=int(kept[-1]))


class Recorder:
    """Counts and times, from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """The queue's too: what garbage collection closes inside one lock would wait for a thread that waits for it."""
        self._batch_sizes, self._queue_ns, self._latency_ns = _Ring(), _Ring(), _Ring()
        self._answered = self._failed = self._cancelled = self._refused = self._runs = 0

    def ran(self, batch_sizes: Sequence[int]) -> None:
        """Runs of so many rows, all answered."""
        with self.lock:
            self._runs += len(batch_sizes)
            self._answered += sum(batch_sizes)
            self._batch_sizes.add(batch_sizes)

    def waited(self, queue_ns: Sequence[int], latency_ns: Sequence[int]) -> None:
        """Times of queued chunks."""
        with self.lock:
            self._queue_ns.add(queue_ns)
            self._latency_ns.add(latency_ns)

    def count(self, *, failed: int = 0, cancelled: int = 0, refused: int = 0) -> None:
        """Chunks that were not answered."""
        with self.lock:
            self._failed += failed
            self._cancelled += cancelled
            self._refused += refused

    def statistics(self, *, streams: int, queued: int) -> PoolStatistics:
        """As of now."""
        with self.lock:
            return PoolStatistics(
                streams=streams,
                queued=queued,
                answered=self._answered,
                failed=self._failed,
                cancelled=self._cancelled,
                refused=self._refused,
                runs=self._runs,
                kept=_KEPT,
                batch_size=self._batch_sizes.percentiles(),
                queue_ns=self._queue_ns.percentiles(),
                latency_ns=self._latency_ns.percentiles(),
            )
