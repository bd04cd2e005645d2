"""`Pool`: many independent streams of one model, each with its own state, computed in few runs of many rows."""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgeseq.errors import InputMismatch, PoolClosed, PoolFull, StreamClosed, WrongUsage
from edgeseq.runtime import saved_state
from edgeseq.runtime.feed import Lengths
from edgeseq.runtime.pool_queue import Item, Queue
from edgeseq.runtime.pool_rows import Rows
from edgeseq.runtime.pool_runs import Batch, Runs
from edgeseq.runtime.pool_statistics import PoolStatistics, Recorder
from edgeseq.runtime.states import checked, to_bytes

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from edgeseq.runtime.model import Model


class Engine:
    """What computes: the states and the runs. The queue's thread holds this, and not the pool, which may go."""

    def __init__(self, model: Model, max_batch: int):
        self.model = model
        self.runs = Runs(model, max_batch)
        self.rows = Rows(model.manifest.states, self.runs.axis)
        self.recorder = Recorder()
        self.lock = threading.Lock()
        """To be held while states are touched; never taken inside the queue's lock."""
        self.left: deque[int] = deque()
        """Rows of streams that ended where the lock could not be taken: a finalizer, the queue."""

    def step(self, batches: Sequence[Batch], rows: list[int]) -> list[Any]:
        """The answers by place; `rows` are those of the states, by place. The lock is held."""
        answers = self.runs.step(batches, rows, self.rows)
        self.recorder.ran([len(batch.places) for batch in batches])
        return answers

    def run(self, items: Sequence[Item]) -> list[Any]:
        """The answers to what waited in the queue and fits into one run."""
        batch = self.runs.together([item.chunk for item in items], range(len(items)))
        with self.lock:
            return self.step([batch], [item.stream.row for item in items])

    def count_open(self) -> int:
        """Streams that hold a row."""
        return self.rows.taken - len(self.left)


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
        self._engine = engine = Engine(model, int(max_batch))
        self._queue = Queue(
            engine.run,
            engine.count_open,
            engine.recorder,
            max_batch=self.max_batch,
            max_wait_ns=int(max_wait_ms * 1e6),
            max_queue=int(max_queue),
        )
        # A pool that nobody closed ends with its last stream, or with the program.
        weakref.finalize(self, self._queue.end, answer=False)
        self._numbers = itertools.count(1)
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
        engine, streams = self._engine, list(chunks)
        with engine.lock:
            rows = self._rows(streams)
            answers = engine.step(engine.runs.batches(list(chunks.values()), streams), rows)
        return dict(zip(streams, answers, strict=True))

    def statistics(self) -> PoolStatistics:
        """Counts since the pool was made, and percentiles of the last chunks and runs."""
        return self._engine.recorder.statistics(streams=self._engine.count_open(), queued=len(self._queue))

    def close(self, *, answer: bool = True) -> None:
        """Take nothing more; what is queued is answered first or, without `answer`, fails with PoolClosed.

        Returns when that is done. To be called again as often as one likes.
        """
        self._closed = True
        self._queue.close(answer=answer)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed("the pool is closed")

    def _rows(self, streams: Sequence[PooledStream]) -> list[int]:
        """Rows of streams that may be stepped, read and set; the engine's lock is held."""
        self._check_open()
        # Most streams may: a call for each of them would take twice as long.
        return [
            stream.row
            if type(stream) is PooledStream and stream.pool is self and not stream.closed and not stream.queued
            else self._refuse(stream)
            for stream in streams
        ]

    def _refuse(self, stream: PooledStream) -> NoReturn:
        if type(stream) is not PooledStream or stream.pool is not self:
            raise WrongUsage(f"{stream!r} is no stream of this pool")
        if stream.closed:
            raise StreamClosed(f"{stream} is closed", stream)
        raise WrongUsage(f"{stream} has chunks in the queue, which come first: wait for their answers")


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
        return self.pool._queue.put(self, chunk.copied())

    async def afeed(self, x: Any) -> Any:
        """The answer, awaited in an asyncio event loop; as `feed`, which it raises the same errors as."""
        import asyncio

        return await asyncio.wrap_future(self.feed(x))

    def reset(self) -> None:
        """Back to the initial state. Raises what `state` does."""
        with self._engine.lock:
            self._engine.rows.reset(*self.pool._rows([self]))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Copies of the states by name, each with a batch axis of one. Set it to go on from states read before.

        Raises StreamClosed and PoolClosed, and WrongUsage while chunks are in the queue; setting it also InputMismatch.
        """
        with self._engine.lock:
            return self._engine.rows.read(*self.pool._rows([self]))

    @state.setter
    def state(self, states: Mapping[str, Any]) -> None:
        engine = self._engine
        lengths: Lengths = {engine.runs.axis: 1} if isinstance(engine.runs.axis, str) else {}
        found = checked(states, engine.model.manifest.states, lengths, engine.model.feed)
        with engine.lock:
            engine.rows.scatter(np.array(self.pool._rows([self])), found)

    def to_bytes(self) -> bytes:
        """The states as bytes, for `restore` here or of a `Stream` of batch 1.

        Raises what `state` does, and WrongUsage for a state that overflowed, which `restore` would not take.
        """
        return to_bytes(self.state, self._engine.model, 1)

    def restore(self, data: bytes) -> None:
        """Go on from the states that `to_bytes` gave; raises what `Stream.restore` and `state` do."""
        self.state = saved_state.unpack(data, model_hash=self._engine.model.manifest.model_hash, batch=1)

    def close(self) -> None:
        """Take no more chunks; those in the queue are answered still. To be called again as often as one likes."""
        self.pool._queue.close_stream(self)

    def give_back(self) -> None:
        """Leave the row to others, where the stream is closed and has no chunk left."""
        if self.closed and not self.queued:
            # Once, whatever calls it: a finalizer that was called is dead.
            self._forgotten()

    def __enter__(self) -> PooledStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
