"""`Pool`: many independent streams of one model, each with its own state, computed in few runs of many rows."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.errors import InputMismatch, PoolClosed, PoolFull, StreamClosed, WrongUsage
from edgeseq.runtime import saved_state
from edgeseq.runtime.feed import Lengths
from edgeseq.runtime.pool_rows import Rows
from edgeseq.runtime.pool_runs import Runs
from edgeseq.runtime.pool_statistics import PoolStatistics, Recorder
from edgeseq.runtime.states import checked

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from edgeseq.runtime.model import Model
    from edgeseq.runtime.pool_queue import Item, Queue


class Engine:
    """What computes: the states and the runs. The queue's thread holds this, and not the pool, which may go."""

    def __init__(self, model: Model, max_batch: int):
        self.model = model
        self.runs = Runs(model, max_batch)
        self.rows = Rows(model.manifest.states, self.runs.axis)
        self.recorder = Recorder()
        self.lock = threading.Lock()
        """To be held while states are touched; the queue's lock is never taken inside it."""
        self.left: deque[int] = deque()
        """Rows of streams that ended where the lock could not be taken: a finalizer, the queue."""

    def step(self, rows: list[int], xs: Sequence[Any], streams: Sequence[object]) -> list[Any]:
        """The answers to `xs` of the `streams` whose states are in `rows`; the lock is held."""
        batches = self.runs.batches(xs, streams)
        answers = self.runs.step(batches, rows, self.rows)
        self.recorder.ran([len(batch.places) for batch in batches])
        return answers

    def run(self, items: Sequence[Item]) -> list[Any]:
        """The answers to what waited in the queue: one batch, checked."""
        with self.lock:
            batch = self.runs.together([item.chunk for item in items], range(len(items)))
            rows = [item.stream.row for item in items]
            answers = self.runs.step([batch], rows, self.rows)
        self.recorder.ran([len(items)])
        return answers


class Pool:
    """Streams that are opened and closed at any time, made by `Model.pool`.

    `step` computes many at once, in the thread that calls it; `PooledStream.feed` and `afeed` put a chunk in a queue,
    for threads and asyncio, and one thread of the pool answers. All methods may be called from any thread. The states
    of all streams lie together on the host; on a GPU those of a batch are copied there and back in each run.

    A pool is to be closed, or used in a ``with``. It does not survive a fork: open it in the process that uses it.
    """

    def __init__(self, model: Model, *, max_streams: int, max_batch: int, max_wait_ms: float, max_queue: int):
        for name, value in (("max_streams", max_streams), ("max_batch", max_batch), ("max_queue", max_queue)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise WrongUsage(f"{name} must be a positive integer; got {value!r}")
        real = isinstance(max_wait_ms, (int, float, np.number)) and not isinstance(max_wait_ms, bool)
        if not real or not math.isfinite(max_wait_ms) or max_wait_ms < 0:
            raise WrongUsage(f"max_wait_ms must be a number of milliseconds, 0 or more; got {max_wait_ms!r}")
        self.max_streams = int(max_streams)
        self._max_wait_ns, self._max_queue = int(max_wait_ms * 1e6), int(max_queue)
        self._engine = Engine(model, int(max_batch))
        self._numbers = itertools.count(1)
        self._queue: Queue | None = None
        self._starting = threading.Lock()
        self._closed = False

    @property
    def max_batch(self) -> int:
        """The most rows of a run: fewer than were asked for where the file, or its engine, takes no more."""
        return self._engine.runs.max_batch

    def open(self) -> PooledStream:
        """A new stream in the initial state. Raises PoolFull when `max_streams` are open, and PoolClosed."""
        engine = self._engine
        with engine.lock:
            self._check_open()
            while engine.left:
                engine.rows.give_back(engine.left.popleft())
            if engine.rows.taken >= self.max_streams:
                engine.recorder.count(refused=1)
                raise PoolFull("streams", self.max_streams, "Close streams that are done, or raise max_streams")
            return PooledStream(self, engine, engine.rows.take(), next(self._numbers))

    def step(self, chunks: Mapping[PooledStream, Any]) -> dict[PooledStream, Any]:
        """Answers for the next steps of each of the streams, in the order of `chunks`.

        A chunk is what `Model.stream` takes for one row, every array of shape (1, time, ...), or all without the batch
        axis: (time, ...). Its answer has a batch axis when the chunk has one. Chunks of equal shapes are computed
        together. Answers are the callers'; those of one run are parts of one array, so to keep a few of many for long,
        copy them.

        All chunks are checked before anything runs, and when it raises, all states are those of before.

        Raises InputMismatch, which names the stream in its `stream`, for inputs that do not fit, StreamClosed and
        PoolClosed, and WrongUsage for a stream that is not of this pool or has chunks in the queue.
        """
        if not isinstance(chunks, Mapping):
            raise WrongUsage(f"step takes a dict, stream to chunk; got a {type(chunks).__name__}")
        if not chunks:
            return {}
        with self._engine.lock:
            # Most streams may be stepped: looked at here, 64 of them take half as long.
            rows = [
                stream.row
                if type(stream) is PooledStream and stream.pool is self and not stream.closed and not stream.queued
                else self._row(stream)
                for stream in chunks
            ]
            self._check_open()
            answers = self._engine.step(rows, list(chunks.values()), list(chunks))
        return dict(zip(chunks, answers, strict=True))

    def statistics(self) -> PoolStatistics:
        """Counts since the pool was made, and percentiles of the last chunks and runs."""
        queue = self._queue
        return self._engine.recorder.statistics(
            streams=_count_open(self._engine), queued=0 if queue is None else len(queue)
        )

    def close(self, *, answer: bool = True) -> None:
        """Take nothing more; what is queued is answered first or, without `answer`, fails with PoolClosed.

        Returns when that is done. To be called again as often as one likes.
        """
        with self._starting:
            self._closed = True
        if self._queue is not None:
            self._queue.close(answer=answer)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> Queue:
        if self._queue is None:
            with self._starting:
                self._check_open()
                if self._queue is None:
                    # Bulk calls need no thread, and not what is imported for them.
                    from edgeseq.runtime.pool_queue import Queue

                    engine = self._engine
                    queue = Queue(
                        engine.run,
                        lambda stream: stream.give_back(),
                        lambda: _count_open(engine),
                        engine.recorder,
                        max_batch=self.max_batch,
                        max_wait_ns=self._max_wait_ns,
                        max_queue=self._max_queue,
                    )
                    # A pool that nobody closed ends with its last stream, or with the program.
                    weakref.finalize(self, queue.close, answer=False)
                    self._queue = queue
        return self._queue

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed("the pool is closed")

    def _row(self, stream: PooledStream) -> int:
        """The row of a stream that may be stepped, read and set."""
        if type(stream) is not PooledStream or stream.pool is not self:
            raise WrongUsage(f"{stream!r} is no stream of this pool")
        if stream.closed or self._closed or stream.queued:
            raise self._reason(stream)
        return stream.row

    def _reason(self, stream: PooledStream) -> WrongUsage:
        """Why a stream may not be touched."""
        if self._closed:
            return PoolClosed("the pool is closed", stream)
        if stream.closed:
            return StreamClosed(f"{stream} is closed", stream)
        return WrongUsage(f"{stream} has chunks in the queue, which come first: wait for their answers")


class PooledStream:
    """One stream of a pool, made by `Pool.open`: to be closed, or used in a ``with``."""

    __slots__ = ("__weakref__", "_engine", "_forgotten", "_number", "closed", "pool", "queued", "row")

    def __init__(self, pool: Pool, engine: Engine, row: int, number: int):
        self.pool = pool
        """What it belongs to."""
        self.row = row
        """Where its states lie."""
        self.queued: deque[Item] = deque()
        """Its chunks in the queue, the oldest first."""
        self.closed = False
        """Whether it takes no more chunks."""
        self._engine, self._number = engine, number
        self._forgotten = weakref.finalize(self, engine.left.append, row)
        self._forgotten.atexit = False

    def __repr__(self) -> str:
        return f"stream {self._number}"

    def step(self, x: Any) -> Any:
        """The answer for the next steps of the stream, at once and in this thread; as `Pool.step`, for one stream."""
        return self.pool.step({self: x})[self]

    def feed(self, x: Any) -> Future[Any]:
        """Put the next steps in the queue, and go on: the future has the answer, as `step` gives it.

        `x` is copied. Chunks of a stream are computed and answered in the order they were fed; one whose future is
        cancelled before its turn is left out. What is called back by the future runs in the pool's thread, which
        computes nothing meanwhile. `max_wait_ms` is not waited for when every open stream has a chunk in the queue.

        Raises InputMismatch for inputs that do not fit, PoolFull when the queue is, StreamClosed and PoolClosed. The
        future raises PoolClosed where the pool was closed or broke down before, and what a run of this chunk raises.
        """
        try:
            chunk = self._engine.runs.check(x)
        except InputMismatch as error:
            raise InputMismatch(f"{self}: {error}", error.name, self) from error
        if self.closed:
            raise StreamClosed(f"{self} is closed", self)
        return self.pool._started().put(self, chunk.copied())

    async def afeed(self, x: Any) -> Any:
        """The answer, awaited in an asyncio event loop; as `feed`, which it raises the same errors as."""
        import asyncio

        return await asyncio.wrap_future(self.feed(x))

    def reset(self) -> None:
        """Back to the initial state. Raises what `state` does."""
        with self._engine.lock:
            self._engine.rows.reset(self.pool._row(self))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Copies of the states by name, each with a batch axis of one. Set it to go on from states read before.

        Raises StreamClosed and PoolClosed, and WrongUsage while chunks are in the queue; setting it also InputMismatch.
        """
        with self._engine.lock:
            return self._engine.rows.read(self.pool._row(self))

    @state.setter
    def state(self, states: Mapping[str, Any]) -> None:
        engine = self._engine
        lengths: Lengths = {engine.runs.axis: 1} if isinstance(engine.runs.axis, str) else {}
        found = checked(states, engine.model.manifest.states, lengths, engine.model.feed)
        with engine.lock:
            engine.rows.scatter(np.array([self.pool._row(self)]), found)

    def to_bytes(self) -> bytes:
        """The states as bytes, for `restore` here or of a `Stream` of batch 1. Raises what `state` does."""
        return saved_state.pack(self.state, model_hash=self._engine.model.manifest.model_hash, batch=1)

    def restore(self, data: bytes) -> None:
        """Go on from the states that `to_bytes` gave; raises what `Stream.restore` and `state` do."""
        self.state = saved_state.unpack(data, model_hash=self._engine.model.manifest.model_hash, batch=1)

    def close(self) -> None:
        """Take no more chunks; those in the queue are answered still. To be called again as often as one likes."""
        if self.closed:
            return
        with self.pool._starting:
            queue = self.pool._queue
            # Without a queue there is nothing in it, and a queue that starts now finds the stream closed.
            self.closed = queue is None
        if queue is None or queue.close_stream(self):
            self.give_back()

    def give_back(self) -> None:
        """Leave the row to others; the stream is closed and has no chunk left."""
        # Once, whatever calls it: a finalizer that is called or detached is dead.
        self._forgotten()

    def __enter__(self) -> PooledStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _count_open(engine: Engine) -> int:
    """Streams that hold a row."""
    return engine.rows.taken - len(engine.left)
