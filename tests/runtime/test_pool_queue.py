"""The queued form: in order, batched, bounded, cancelled and closed at any time; nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest

from edgeseq.errors import InputMismatch, PoolClosed, PoolFull, StreamClosed, WrongUsage
from edgeseq.runtime import Model, Pool, pool_queue, pool_statistics

LIMIT_S = 30


def some(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def model(make_lstm: Callable[..., Any]) -> Model:
    return Model(make_lstm(streaming=True, initial=0.25).path, threads=1)


@pytest.fixture
def pool(model: Model) -> Iterator[Pool]:
    with model.pool(max_batch=8, max_wait_ms=1, max_queue=1000) as pool:
        yield pool


class Held:
    """Keeps the pool's thread before its next run, and notes what it runs."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch):
        self.runs: list[list[tuple[int, ...]]] = []
        self.rows: list[list[int]] = []
        self.arrived, self._may_go = threading.Semaphore(0), threading.Semaphore(0)
        self._open = False
        engine = pool._engine
        run = engine.runs.step

        def held(batches: Any, rows: Any, states: Any) -> Any:
            self.arrived.release()
            if not self._open:
                assert self._may_go.acquire(timeout=LIMIT_S)
            self.rows.append(list(rows))
            return run(batches, rows, states)

        monkeypatch.setattr(engine.runs, "step", held)

    def wait(self) -> None:
        """Until the thread is before a run."""
        assert self.arrived.acquire(timeout=LIMIT_S)

    def release(self) -> None:
        self._open = True
        self._may_go.release(1000)


@pytest.fixture
def held(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held(pool, monkeypatch)
    yield found
    found.release()


def test_a_chunk_is_answered_as_by_a_stream(model: Model, pool: Pool):
    stream, alone = pool.open(), model.stream()
    for length in (1, 3, 1, 1, 2):
        x = some(1, length, 3, seed=length)
        assert np.array_equal(stream.feed(x).result(LIMIT_S), alone.step(x))
        assert np.array_equal(stream.feed(x[0]).result(LIMIT_S), alone.step(x)[0])
    assert stream.state.keys() == alone.state.keys()


def test_chunks_of_a_stream_run_in_order_and_never_together(model: Model, pool: Pool, held: Held):
    streams, x = [pool.open() for _ in range(3)], some(3, 6, 3)
    first = pool.open().feed(x[:1, :1])
    held.wait()
    fed = [(row, step) for step in range(6) for row in range(3)]
    futures = [streams[row].feed(x[row : row + 1, step : step + 1]) for row, step in fed]
    held.release()
    answers = [future.result(LIMIT_S) for future in [first, *futures]][1:]
    for row in range(3):
        own = [answer for (other, _), answer in zip(fed, answers, strict=True) if other == row]
        assert np.array_equal(np.concatenate(own, axis=1), _alone(model, x[row]))
    assert all(len(set(rows)) == len(rows) for rows in held.rows)
    assert [len(rows) for rows in held.rows[1:]] == [3] * 6


def _alone(model: Model, x: np.ndarray) -> np.ndarray:
    stream = model.stream()
    return np.concatenate([stream.step(x[None, step : step + 1]) for step in range(len(x))], axis=1)


def test_the_oldest_goes_first_whatever_its_shape(pool: Pool, held: Held):
    """A chunk of its own shape is not overtaken for ever by those that fit together."""
    blocking, odd, *many = [pool.open() for _ in range(22)]
    blocking.feed(some(1, 3))
    held.wait()
    futures = [stream.feed(some(1, 3)) for stream in many[:3]]
    futures.append(odd.feed(some(2, 3)))
    futures += [stream.feed(some(1, 3)) for stream in many[3:]]
    held.release()
    wait(futures, LIMIT_S)
    # The first batch takes what fits with the oldest, then the odd one is the oldest.
    assert held.rows[1:] == [
        [s.row for s in many[:8]],
        [odd.row],
        [s.row for s in many[8:16]],
        [s.row for s in many[16:]],
    ]


def test_the_chunk_is_copied(model: Model, pool: Pool, held: Held):
    stream, x = pool.open(), some(1, 1, 3)
    expected = model.stream().step(x)
    future = stream.feed(x)
    x[:] = 99
    held.release()
    assert np.array_equal(future.result(LIMIT_S), expected)


def test_a_full_queue_says_so_and_harms_nobody(model: Model, monkeypatch: pytest.MonkeyPatch):
    with model.pool(max_queue=5, max_batch=2, max_wait_ms=0) as pool:
        held = Held(pool, monkeypatch)
        stream, x = pool.open(), some(1, 1, 3)
        futures = [stream.feed(x) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(PoolFull, match=r"takes 5 chunks at a time\. Feed it slower") as raised:
                stream.feed(x)
        assert (raised.value.what, raised.value.limit) == ("chunks", 5)
        assert pool.statistics().refused == 2
        assert pool.statistics().queued == 5
        held.release()
        alone = model.stream()
        for future in futures:
            assert np.array_equal(future.result(LIMIT_S), alone.step(x))
        assert np.array_equal(stream.feed(x).result(LIMIT_S), alone.step(x))


def test_a_bad_chunk_is_refused_when_it_is_fed(pool: Pool):
    stream = pool.open()
    with pytest.raises(InputMismatch, match=r"stream 1: .*got \(1, 1, 4\)") as raised:
        stream.feed(np.zeros((1, 1, 4)))
    assert raised.value.stream is stream
    assert stream.feed(some(1, 1, 3)).result(LIMIT_S).shape == (1, 1, 4)


def test_one_that_fails_in_a_run_does_not_harm_the_others(model: Model, pool: Pool, monkeypatch: pytest.MonkeyPatch):
    run, bad = model.run, np.full((1, 1, 3), 7, np.float32)

    def picky(outputs: Any, feed: Any) -> Any:
        if (feed["x"] == 7).any():
            raise InputMismatch("no sevens")
        return run(outputs, feed)

    monkeypatch.setattr(model, "run", picky)
    held = Held(pool, monkeypatch)
    streams, x = [pool.open() for _ in range(6)], some(1, 1, 3)
    pool.open().feed(x)
    held.wait()
    futures = [stream.feed(bad if place == 3 else x) for place, stream in enumerate(streams)]
    again = [stream.feed(x) for stream in streams]
    held.release()
    alone = model.stream()
    first, second = alone.step(x), alone.step(x)
    with pytest.raises(InputMismatch, match="no sevens"):
        futures[3].result(LIMIT_S)
    assert all(np.array_equal(f.result(LIMIT_S), first) for place, f in enumerate(futures) if place != 3)
    assert np.array_equal(again[3].result(LIMIT_S), first)
    assert all(np.array_equal(f.result(LIMIT_S), second) for place, f in enumerate(again) if place != 3)
    assert pool.statistics().failed == 1


def test_a_cancelled_chunk_is_left_out(model: Model, pool: Pool, held: Held):
    stream, x = pool.open(), some(5, 1, 1, 3)
    futures = [stream.feed(chunk) for chunk in x]
    held.wait()
    assert not futures[0].cancel()
    assert futures[1].cancel()
    assert futures[2].cancel()
    assert futures[4].cancel()
    held.release()
    alone = model.stream()
    assert np.array_equal(futures[0].result(LIMIT_S), alone.step(x[0]))
    assert np.array_equal(futures[3].result(LIMIT_S), alone.step(x[3]))
    with pytest.raises(CancelledError):
        futures[1].result(LIMIT_S)
    pool.close()
    assert pool.statistics().cancelled == 3
    assert pool.statistics().queued == 0


def test_a_closed_stream_is_answered_still_and_then_leaves(model: Model, pool: Pool, held: Held):
    stream, x = pool.open(), some(1, 1, 3)
    futures = [stream.feed(x) for _ in range(3)]
    stream.close()
    with pytest.raises(StreamClosed, match="stream 1 is closed"):
        stream.feed(x)
    assert pool.statistics().streams == 1
    held.release()
    alone = model.stream()
    assert all(np.array_equal(future.result(LIMIT_S), alone.step(x)) for future in futures)
    assert pool.statistics().streams == 0
    other = pool.open()
    assert other.row == stream.row
    assert np.array_equal(other.step(x), model.stream().step(x))


class Late:
    """A lock before and behind which the thread called so waits until it may go on."""

    def __init__(self, lock: Any):
        self._lock = lock
        self.arrived, self.may_go = threading.Semaphore(0), threading.Semaphore(0)

    def _wait(self) -> None:
        if threading.current_thread().name == "late":
            self.arrived.release()
            assert self.may_go.acquire(timeout=LIMIT_S)

    def __enter__(self) -> Any:
        self._wait()
        return self._lock.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)
        self._wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def test_a_stream_closed_by_two_threads_stays_closed(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    """Its row is another's by then."""
    stream, x = pool.open(), some(1, 1, 3)
    stream.feed(x).result(LIMIT_S)
    late = Late(pool._queue._changed)
    monkeypatch.setattr(pool._queue, "_changed", late)
    closing = threading.Thread(target=stream.close, name="late")
    closing.start()
    assert late.arrived.acquire(timeout=LIMIT_S)
    stream.close()
    other = pool.open()
    assert other.row == stream.row
    late.may_go.release()
    assert late.arrived.acquire(timeout=LIMIT_S)
    with pytest.raises(StreamClosed):
        stream.feed(x)
    late.may_go.release()
    closing.join(LIMIT_S)
    assert pool.open().row != other.row


class Holder:
    """Found to be garbage by a collection, and no sooner."""

    def __init__(self, pool: Pool):
        self.stream, self.itself = pool.open(), self

    def __del__(self) -> None:
        self.stream.close()


def test_streams_are_closed_as_garbage_while_the_thread_starts(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    """By the thread that starts it, and by any other meanwhile, itself included."""
    start, stream = threading.Thread.start, pool.open()
    stuck = []

    def collecting(thread: threading.Thread) -> None:
        Holder(pool)
        other = threading.Thread(target=gc.collect, daemon=True)
        start(other)
        other.join(LIMIT_S / 10)
        stuck.append(other.is_alive())
        Holder(pool)
        gc.collect()
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", collecting)
        assert stream.feed(some(1, 1, 3)).result(LIMIT_S).shape == (1, 1, 4)
    assert stuck == [False]
    assert pool.statistics().streams == 1


def test_a_stream_closed_as_garbage_while_it_is_fed(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    stream, item = pool.open(), pool_queue.Item

    def closing(*given: Any) -> Any:
        stream.close()
        return item(*given)

    monkeypatch.setattr(pool_queue, "Item", closing)
    with pytest.raises(StreamClosed, match="stream 1 is closed"):
        stream.feed(some(1, 1, 3))
    assert (pool.statistics().streams, pool.statistics().queued) == (0, 0)


def test_a_stream_closed_as_garbage_while_others_are_counted(model: Model, monkeypatch: pytest.MonkeyPatch):
    """In one thread the statistics are made and a stream is closed, in the other a chunk is refused, and counted."""
    pool = model.pool(max_queue=1, max_wait_ms=1e6)
    streams, x = [pool.open() for _ in range(3)], some(1, 1, 3)
    streams[0].feed(x)

    def feed() -> None:
        with pytest.raises(PoolFull):
            streams[1].feed(x)

    feeding, made = threading.Thread(target=feed, daemon=True), pool_statistics.PoolStatistics

    def closing(**counts: Any) -> Any:
        feeding.start()
        feeding.join(0.1)
        streams[2].close()
        return made(**counts)

    with monkeypatch.context() as patch:
        patch.setattr(pool_statistics, "PoolStatistics", closing)
        telling = threading.Thread(target=pool.statistics, daemon=True)
        telling.start()
        telling.join(LIMIT_S / 10)
        assert not telling.is_alive()
    feeding.join(LIMIT_S)
    assert pool.statistics().refused == 1
    pool.close()


@pytest.mark.parametrize("answer", [True, False])
def test_closing_answers_or_fails_what_is_queued(model: Model, pool: Pool, held: Held, answer: bool):
    *streams, late = [pool.open() for _ in range(4)]
    x = some(1, 1, 3)
    futures = [stream.feed(x) for _ in range(4) for stream in streams]
    held.wait()
    futures.append(late.feed(x))
    late.close()
    closing = threading.Thread(target=lambda: pool.close(answer=answer))
    closing.start()
    if not answer:
        # Those that wait fail at once; what is being computed is answered.
        wait(futures[3:], LIMIT_S)
        assert all("the pool is closed" in str(future.exception()) for future in futures[3:])
        assert all(isinstance(future.exception(), PoolClosed) for future in futures[3:])
    held.release()
    closing.join(LIMIT_S)
    assert not closing.is_alive()
    alone = model.stream()
    expected = [alone.step(x) for _ in range(4)]
    for place, future in enumerate(futures[:-1] if answer else futures[:3]):
        assert np.array_equal(future.result(LIMIT_S), expected[place // 3])
    if answer:
        assert np.array_equal(futures[-1].result(LIMIT_S), expected[0])
    assert (pool.statistics().queued, pool.statistics().streams) == (0, 3)
    with pytest.raises(PoolClosed):
        streams[0].feed(x)


def test_a_stream_with_chunks_in_the_queue_is_not_touched(model: Model):
    with model.pool(max_wait_ms=1e6) as pool:
        stream, other, x, alone = pool.open(), pool.open(), some(1, 1, 3), model.stream()
        future = stream.feed(x)
        for touch in (lambda: stream.step(x), stream.reset, stream.to_bytes, lambda: pool.step({other: x, stream: x})):
            with pytest.raises(WrongUsage, match="stream 1 has chunks in the queue, which come first"):
                touch()
        expected = alone.step(x)
        assert np.array_equal(other.step(x), expected)
        other.feed(x)
        assert np.array_equal(future.result(LIMIT_S), expected)
        assert np.array_equal(stream.step(x), alone.step(x))


class Stop(BaseException):
    """Not an Exception, as SystemExit."""


def test_a_thread_that_dies_leaves_nobody_waiting(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    def die(*_: Any) -> Any:
        raise Stop("enough")

    held = Held(pool, monkeypatch)
    streams, x = [pool.open() for _ in range(3)], some(1, 1, 3)
    futures = [stream.feed(x) for _ in range(3) for stream in streams]
    held.wait()
    monkeypatch.setattr(pool._engine.runs, "together", die)
    held.release()
    assert not wait(futures, LIMIT_S).not_done
    for future in futures[3:]:
        error = future.exception()
        assert isinstance(error, PoolClosed)
        assert "the pool broke down: Stop('enough')" in str(error)
        assert isinstance(error.__cause__, Stop)
    with pytest.raises(PoolClosed, match="broke down") as raised:
        streams[0].feed(x)
    assert isinstance(raised.value.__cause__, Stop)
    pool.close()
    streams[0].close()


def test_a_callback_that_ends_the_thread_leaves_nobody_waiting(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    def end(_: Future[Any]) -> None:
        raise Stop

    held = Held(pool, monkeypatch)
    streams = [pool.open() for _ in range(4)]
    pool.open().feed(some(1, 1, 3))
    held.wait()
    futures = [stream.feed(some(1, 1, 3)) for stream in streams]
    futures[1].add_done_callback(end)
    held.release()
    assert not wait(futures, LIMIT_S).not_done
    assert futures[0].exception() is None
    assert isinstance(futures[3].exception(), PoolClosed)


def test_a_callback_may_feed_reset_and_close(pool: Pool):
    stream, done = pool.open(), threading.Event()
    errors: list[BaseException] = []

    def called(future: Future[Any]) -> None:
        try:
            stream.reset()
            stream.feed(some(1, 1, 3))
            pool.close()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        done.set()

    stream.feed(some(1, 1, 3)).add_done_callback(called)
    assert done.wait(LIMIT_S)
    pool.close()
    assert not errors
    assert pool.statistics().answered == 2


def test_a_pool_that_nobody_holds_ends_its_thread(model: Model):
    pool = model.pool()
    pool.open().feed(some(1, 1, 3)).result(LIMIT_S)
    assert pool._queue is not None
    thread, gone = pool._queue._thread, weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_awaited_answers(model: Model, pool: Pool):
    x = some(20, 8, 3)

    async def client(row: int) -> np.ndarray:
        with pool.open() as stream:
            return np.concatenate([await stream.afeed(x[row, step : step + 1]) for step in range(8)])

    async def clients() -> list[np.ndarray]:
        return await asyncio.gather(*map(client, range(20)))

    found = asyncio.run(clients())
    assert all(np.array_equal(found[row], _alone(model, x[row])[0]) for row in range(20))
    assert pool.statistics().streams == 0
    assert pool.statistics().batch_size.largest > 1  # type: ignore[union-attr]


def test_an_awaited_answer_may_be_given_up(model: Model, pool: Pool, held: Held):
    stream, x = pool.open(), some(1, 1, 3)

    async def client() -> np.ndarray:
        first = asyncio.create_task(stream.afeed(x))
        second = asyncio.create_task(stream.afeed(x))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        held.release()
        await first
        answer: np.ndarray = await stream.afeed(x)
        return answer

    alone = model.stream()
    alone.step(x)
    assert np.array_equal(asyncio.run(client()), alone.step(x))


def test_an_awaited_chunk_that_does_not_fit(pool: Pool):
    with pytest.raises(InputMismatch, match="stream 1"):
        asyncio.run(pool.open().afeed(np.zeros((1, 1, 4))))


def failures_of(client: Callable[[int], None], count: int) -> list[BaseException]:
    """What `count` clients raised, each in a thread of its own; they all end."""
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            client(seed)
        except BaseException as error:  # noqa: BLE001 - an assertion of a thread is seen by nobody else
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMIT_S)
    assert not any(thread.is_alive() for thread in threads)
    return failures


def test_threads_that_open_feed_and_close_at_random(model: Model):
    """Each client against an oracle of its own; nothing is lost, mixed or left over."""
    x = some(64, 3, 3)
    with model.pool(max_batch=8, max_wait_ms=0.2, max_queue=64, max_streams=16) as pool:

        def client(seed: int) -> None:
            order = random.Random(seed)
            for _ in range(6):
                with pool.open() as stream:
                    oracle = model.stream()
                    for _ in range(10):
                        chunks = [x[order.randrange(64), None, : order.choice([1, 1, 2])] for _ in range(3)]
                        futures = [stream.feed(chunk) for chunk in chunks]
                        for chunk, future in zip(chunks, futures, strict=True):
                            assert np.array_equal(future.result(LIMIT_S), oracle.step(chunk))
                    if order.random() < 0.5:
                        assert stream.to_bytes() == oracle.to_bytes()

        assert not failures_of(client, 12)
        found = pool.statistics()
    assert (found.streams, found.queued, found.failed, found.cancelled) == (0, 0, 0, 0)
    assert found.answered == 12 * 6 * 10 * 3
    assert found.queue_ns is not None
    assert found.latency_ns is not None
    assert 0 <= found.queue_ns.p50 <= found.queue_ns.p90 <= found.queue_ns.p99 <= found.queue_ns.largest
    assert found.queue_ns.p50 <= found.latency_ns.p50


def test_bulk_steps_beside_the_queue(model: Model):
    """Threads with streams of their own, opened, reset, restored, closed and left to nobody at random."""
    x = some(64, 2, 3)
    with model.pool(max_batch=8, max_wait_ms=0.2, max_streams=32) as pool:

        def client(seed: int) -> None:
            order = random.Random(seed)
            pairs: list[tuple[Any, Any]] = []
            for _ in range(60):
                while len(pairs) < 4:
                    pairs.append((pool.open(), model.stream()))
                chunks = {stream: x[order.randrange(64), None, : order.choice([1, 1, 2])] for stream, _ in pairs}
                if order.random() < 0.5:
                    found = pool.step(chunks)
                else:
                    futures = {stream: stream.feed(chunk) for stream, chunk in chunks.items()}
                    found = {stream: future.result(LIMIT_S) for stream, future in futures.items()}
                for stream, oracle in pairs:
                    assert np.array_equal(found[stream], oracle.step(chunks[stream]))
                (stream, oracle), happens = order.choice(pairs), order.random()
                if happens < 0.2:
                    stream.reset()
                    oracle.reset()
                elif happens < 0.5:
                    pairs.remove((stream, oracle))
                    other = pool.open()
                    other.restore(stream.to_bytes())
                    pairs.append((other, oracle))
                    if happens < 0.4:
                        stream.close()

        assert not failures_of(client, 6)
        found = pool.statistics()
    assert (found.queued, found.failed, found.cancelled, found.refused) == (0, 0, 0, 0)
    assert found.answered == 6 * 60 * 4


def test_a_bulk_step_waits_for_the_run_of_the_queue(model: Model, pool: Pool, held: Held):
    stream, other, x = pool.open(), pool.open(), some(1, 1, 3)
    future = stream.feed(x)
    held.wait()
    stepping = threading.Thread(target=other.step, args=(x,), daemon=True)
    stepping.start()
    assert not held.arrived.acquire(timeout=0.05)
    held.release()
    stepping.join(LIMIT_S)
    alone = model.stream()
    assert np.array_equal(future.result(LIMIT_S), alone.step(x))
    assert other.to_bytes() == stream.to_bytes() == alone.to_bytes()


def test_nothing_is_waited_for_when_every_stream_has_a_chunk(model: Model):
    with model.pool(max_wait_ms=1e6) as pool:
        one, two = pool.open(), pool.open()
        first = one.feed(some(1, 1, 3))
        with pytest.raises(TimeoutError):
            first.result(0.05)
        second = two.feed(some(1, 1, 3))
        assert len([future.result(LIMIT_S) for future in (first, second)]) == 2
        first = one.feed(some(1, 1, 3))
        with pytest.raises(TimeoutError):
            first.result(0.05)
        # Of those that are open, every one has.
        two.close()
        first.result(LIMIT_S)
        pool.open()
        one.feed(some(1, 1, 3))
        # Closing does not wait either.
