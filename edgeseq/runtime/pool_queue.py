"""The queued form of a pool: chunks of many threads, in the order they came, batched and run by one thread.

Chunks that fit into one run wait in one heap, numbered as they came. Of a stream only its oldest chunk is in a heap, so
that two of them never share a run; the next follows when that is answered. The run is always that of the oldest chunk
of all, with the oldest ones beside it that fit: none can be overtaken for ever.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgeseq.errors import PoolClosed, PoolFull, StreamClosed
from edgeseq.runtime.pool_runs import Chunk, Key
from edgeseq.runtime.pool_statistics import Recorder

if TYPE_CHECKING:
    from concurrent.futures import Future


class Waiting(Protocol):
    """A stream, as far as the queue is concerned."""

    queued: deque[Item]
    """Its chunks, the oldest first, the one being computed included."""
    closed: bool
    """It takes no more chunks."""
    row: int
    """Where its states lie."""

    def give_back(self) -> None:
        """Leave the row to others, where the stream is closed and has no chunk left."""


class Item:
    """A chunk in the queue."""

    __slots__ = ("chunk", "fed_ns", "future", "number", "stream")

    def __init__(self, number: int, stream: Waiting, chunk: Chunk):
        # Bulk calls need no future, nor the many modules that come with it.
        from concurrent.futures import Future

        self.number, self.stream, self.chunk = number, stream, chunk
        self.future: Future[Any] = Future()
        self.fed_ns = time.perf_counter_ns()

    def __lt__(self, other: Item) -> bool:
        return self.number < other.number


Run = Callable[[Sequence[Item]], list[Any]]


class Queue:
    """At most `max_queue` chunks, and the thread that has them answered by `run`, in batches of at most `max_batch`.

    A batch waits for others up to `max_wait_ns`, unless every stream that is open has a chunk in the queue already.
    The thread starts with the first chunk.
    """

    def __init__(
        self,
        run: Run,
        count_open: Callable[[], int],
        recorder: Recorder,
        *,
        max_batch: int,
        max_wait_ns: int,
        max_queue: int,
    ):
        self._run, self._count_open, self._recorder = run, count_open, recorder
        self._max_batch, self._max_wait_ns, self._max_queue = max_batch, max_wait_ns, max_queue
        # Its lock may be taken again inside: garbage collection closes pools and streams wherever it happens.
        self._changed = threading.Condition(recorder.lock)
        # One that closing does not take: it happens also in a thread that is waited for until it has started.
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._heaps: dict[Key, list[Item]] = {}
        self._heads = 0
        self._number = 0
        self._closing = False
        self._broken: BaseException | None = None
        self._items: set[Item] = set()
        self._batch: list[Item] = []

    def __len__(self) -> int:
        return len(self._items)

    def put(self, stream: Waiting, chunk: Chunk) -> Future[Any]:
        """The answer to come. Raises StreamClosed, PoolClosed and PoolFull."""
        if self._thread is None:
            self._start()
        with self._changed:
            if self._broken is not None or self._closing:
                raise self._closed() from self._broken
            if self._thread is None or not self._thread.is_alive():
                raise PoolClosed("the pool's thread is not in this process: open models and pools after a fork")
            if len(self._items) >= self._max_queue:
                self._recorder.count(refused=1)
                raise PoolFull("chunks", self._max_queue, "Feed it slower, wait for answers, or raise max_queue")
            item = Item(self._number, stream, chunk)
            # Nothing may come between: garbage that was found while the item was made may have closed the stream.
            if stream.closed:
                raise StreamClosed(f"{stream} is closed", stream)
            stream.queued.append(item)
            self._number += 1
            self._items.add(item)
            if len(stream.queued) == 1:
                heap = self._push(item)
                # The thread wakes for the first chunk and for a full batch, and is left alone between.
                if self._heads == 1 or self._is_full(heap):
                    self._changed.notify()
            return item.future

    def close_stream(self, stream: Waiting) -> None:
        """Take no more chunks of `stream`, which gives its row back after the last."""
        with self._changed:
            stream.closed = True
            stream.give_back()
            # All that are still open may have a chunk in the queue.
            self._changed.notify()

    def close(self, *, answer: bool) -> None:
        """End the thread: with `answer` what is queued is answered first, without it fails with PoolClosed.

        In the thread itself, as a callback of a future, it only says so.
        """
        self.end(answer=answer)
        # Without a thread, or while it starts, nothing was queued.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def end(self, *, answer: bool) -> None:
        """As `close`, but wait for nothing: so that two threads may end each other's pools as garbage."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if not answer:
            self._drop()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closing:
                thread = threading.Thread(target=self._work, name="edgeseq pool", daemon=True)
                thread.start()
                self._thread = thread

    def _push(self, item: Item) -> list[Item]:
        heap = self._heaps.setdefault(item.chunk.key, [])
        heapq.heappush(heap, item)
        self._heads += 1
        return heap

    def _is_full(self, heap: list[Item]) -> bool:
        return len(heap) >= self._max_batch or self._heads >= self._count_open()

    def _work(self) -> None:
        try:
            while self._take_next():
                self._answer(self._batch)
                # Nothing of a batch is to live on while the thread waits: streams that nobody holds are given back.
                self._batch = []
        except BaseException as error:  # noqa: BLE001 (whoever waits for an answer is told of it)
            self._broken = error
            unanswered, self._batch = [item for item in self._batch if not item.future.done()], []
            self._drop(unanswered)

    def _take_next(self) -> bool:
        """Wait for the next batch; False when there is none to come."""
        with self._changed:
            while True:
                if self._heads:
                    key, heap = min(self._heaps.items(), key=lambda entry: entry[1][0].number)
                    left_ns = heap[0].fed_ns + self._max_wait_ns - time.perf_counter_ns()
                    if left_ns > 0 and not self._closing and not self._is_full(heap):
                        self._changed.wait(left_ns / 1e9)
                    elif self._take(key):
                        return True
                elif self._closing:
                    return False
                else:
                    self._changed.wait()

    def _take(self, key: Key) -> list[Item]:
        """The oldest of a heap; those that were cancelled make room for the next of their streams."""
        heap, batch = self._heaps[key], self._batch
        while heap and len(batch) < self._max_batch:
            item = heapq.heappop(heap)
            self._heads -= 1
            if item.future.set_running_or_notify_cancel():
                batch.append(item)
            else:
                self._recorder.count(cancelled=1)
                self._end([item])
        if not heap:
            self._heaps.pop(key, None)
        return batch

    def _end(self, items: Sequence[Item]) -> None:
        """Take `items`, the oldest of their streams, off the queue, and let the next of each stream in."""
        for item in items:
            self._items.discard(item)
            queued = item.stream.queued
            queued.popleft()
            if queued:
                self._push(queued[0])
            else:
                item.stream.give_back()

    def _drop(self, unanswered: Iterable[Item] = ()) -> None:
        """Fail all that waits, and what is `unanswered` of a batch: the pool gives no answers any more."""
        with self._changed:
            self._heaps.clear()
            self._heads = 0
            dropped = sorted({*unanswered, *self._items.difference(self._batch)})
            for item in self._items.intersection(dropped):
                self._items.discard(item)
                item.stream.queued.remove(item)
                item.stream.give_back()
        for item in dropped:
            if item.future.running() or item.future.set_running_or_notify_cancel():
                error = self._closed()
                error.__cause__ = self._broken
                item.future.set_exception(error)
                self._recorder.count(failed=1)
            else:
                self._recorder.count(cancelled=1)

    def _answer(self, batch: list[Item]) -> None:
        began_ns = time.perf_counter_ns()
        answers, errors = self._outcome(batch)
        with self._changed:
            self._end(batch)
        ended_ns = time.perf_counter_ns()
        self._recorder.waited([began_ns - item.fed_ns for item in batch], [ended_ns - item.fed_ns for item in batch])
        self._recorder.count(failed=sum(error is not None for error in errors))
        # After the books are closed: who gets an answer may feed, reset or close the stream at once.
        for item, answer, error in zip(batch, answers, errors, strict=True):
            if error is None:
                item.future.set_result(answer)
            else:
                item.future.set_exception(error)

    def _outcome(self, batch: list[Item]) -> tuple[list[Any], list[Exception | None]]:
        """Answers and errors. A batch that fails is run again row by row: one of them must not harm the others."""
        try:
            return self._run(batch), [None] * len(batch)
        except Exception as error:  # noqa: BLE001 (it is the future's)
            if len(batch) == 1:
                return [None], [error]
        alone = [self._outcome([item]) for item in batch]
        return [answers[0] for answers, _ in alone], [errors[0] for _, errors in alone]

    def _closed(self) -> PoolClosed:
        if self._broken is None:
            return PoolClosed("the pool is closed")
        return PoolClosed(f"the pool broke down: {self._broken!r}")
