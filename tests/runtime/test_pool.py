"""Bulk calls of a pool: each stream as if it were alone; nothing runs unless all may; rows come and go."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeseq.errors import (
    InputMismatch,
    PlacementRefused,
    PoolClosed,
    PoolFull,
    StateMismatch,
    StreamClosed,
    WrongUsage,
)
from edgeseq.runtime import Model, Pool
from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec

HASH = "ab" * 32
AZURE = "AzureExecutionProvider"

needs_azure = pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="this onnxruntime has no second provider"
)
plain_or_proven = pytest.mark.parametrize(
    "model", ["cpu", pytest.param(f"{AZURE},cpu", marks=needs_azure)], indirect=True
)


def some(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def model(make_lstm: Callable[..., Any], request: pytest.FixtureRequest) -> Model:
    path = make_lstm(streaming=True, initial=0.25, model_hash=HASH).path
    return Model(path, threads=1, provider=getattr(request, "param", "cpu"))


@pytest.fixture
def pool(model: Model) -> Pool:
    return model.pool(max_batch=8)


@pytest.fixture
def adder(write: Callable[..., Path]) -> Model:
    """ids (batch, time) and a (batch, time, 2) -> [sums of a so far, last row of a table of 4], not said."""
    int_, float_ = TensorProto.INT64, TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceSum", ["a", "one"], ["new"], keepdims=0),
        helper.make_node("Add", ["sum_in", "new"], ["sum_out"]),
        helper.make_node("Identity", ["sum_out"], ["total"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", int_, ["batch", "time"]),
        helper.make_tensor_value_info("a", float_, ["batch", "time", 2]),
        helper.make_tensor_value_info("sum_in", float_, ["batch", 2]),
    ]
    outputs = [
        helper.make_tensor_value_info("total", float_, ["batch", 2]),
        helper.make_tensor_value_info("rows", float_, ["batch", "time"]),
        helper.make_tensor_value_info("sum_out", float_, ["batch", 2]),
    ]
    manifest = Manifest(
        inputs=(
            TensorSpec(name="ids", dtype="int64", axes=("batch", "time")),
            TensorSpec(name="a", dtype="float32", axes=("batch", "time", 2)),
        ),
        outputs=(
            TensorSpec(name="total", dtype="float32", axes=("batch", 2)),
            TensorSpec(name="rows", dtype="float32", axes=("batch", "time")),
        ),
        states=(StateSpec(input="sum_in", output="sum_out", dtype="float32", axes=("batch", 2)),),
        input_structure=["ids", "a"],
        output_structure={"dict": {"sum": "total", "row": "rows"}},
    )
    weights = {"table": np.arange(4, dtype=np.float32), "one": np.array([1])}
    return Model(write(nodes, inputs, outputs, weights, manifest))


@plain_or_proven
def test_each_stream_answers_as_if_alone(model: Model, pool: Pool):
    """Bit for bit: the LSTM's sums of a row do not depend on how many rows there are. More streams than a batch has."""
    x = some(20, 6, 3)
    streams = [pool.open() for _ in range(20)]
    alone = [model.stream() for _ in range(20)]
    order = random.Random(1)
    for step in range(6):
        chosen = order.sample(range(20), order.randint(1, 20)) if step % 2 else range(20)
        found = pool.step({streams[row]: x[row : row + 1, step : step + 1] for row in chosen})
        assert list(found) == [streams[row] for row in chosen]
        for row in chosen:
            assert np.array_equal(found[streams[row]], alone[row].step(x[row : row + 1, step : step + 1]))
    for stream, other in zip(streams, alone, strict=True):
        assert {name: array.tolist() for name, array in stream.state.items()} == {
            name: array.tolist() for name, array in other.state.items()
        }


@needs_azure
def test_where_a_pool_runs_is_proven(make_lstm: Callable[..., Any]):
    model, x = Model(make_lstm(streaming=True).path, provider=AZURE), some(1, 1, 3)
    with model.pool(max_wait_ms=0) as pool:
        streams = [pool.open() for _ in range(2)]
        before = [stream.to_bytes() for stream in streams]
        for _ in range(2):  # and stays so
            for run in (lambda: pool.step(dict.fromkeys(streams, x)), lambda: streams[0].feed(x).result(30)):
                with pytest.raises(PlacementRefused, match=r"not on AzureExecutionProvider"):
                    run()
        assert [stream.to_bytes() for stream in streams] == before


def test_chunks_of_all_lengths_and_forms_in_one_call(model: Model, pool: Pool):
    lengths = [1, 3, 1, 2, 3, 3]
    streams, alone = [pool.open() for _ in lengths], [model.stream() for _ in lengths]
    for seed in range(4):
        chunks = [some(1, length, 3, seed=seed) for length in lengths]
        given: list[Any] = [chunks[0], chunks[1][0], chunks[2][0], chunks[3].tolist(), chunks[4], chunks[5][0].tolist()]
        found = pool.step(dict(zip(streams, given, strict=True)))
        for place, (stream, other) in enumerate(zip(streams, alone, strict=True)):
            expected = other.step(chunks[place])
            assert np.array_equal(found[stream], expected[0] if np.ndim(given[place]) == 2 else expected)


def test_answers_may_be_kept_and_written(pool: Pool):
    streams = [pool.open() for _ in range(3)]
    x = dict.fromkeys(streams, some(1, 2, 3))
    kept = [pool.step(x) for _ in range(5)]
    copies = [{stream: array.copy() for stream, array in found.items()} for found in kept]
    kept[0][streams[0]][:] = 99
    pool.step(x)
    assert np.array_equal(kept[0][streams[1]], copies[0][streams[1]])
    for found, copy in zip(kept[1:], copies[1:], strict=True):
        assert all(np.array_equal(found[stream], copy[stream]) for stream in streams)


def test_several_inputs_and_nested_outputs(adder: Model):
    with adder.pool() as pool:
        one, two = pool.open(), pool.open()
        for step in range(1, 5):
            found = pool.step({one: [[[1, 2]], np.ones((1, 2, 2))], two: {"ids": [3], "a": np.full((1, 2), 5.0)}})
            assert found[one]["sum"].tolist() == [[2.0 * step, 2.0 * step]]
            assert found[one]["row"].tolist() == [[1.0, 2.0]]
            assert found[two]["sum"].tolist() == [5.0 * step, 5.0 * step]
            assert found[two]["row"].tolist() == [3.0]
        with pytest.raises(InputMismatch, match="either all inputs of a stream have a batch axis, or none has"):
            one.step([[[1]], np.ones((1, 2))])


def test_a_bad_chunk_is_named_and_nothing_ran(model: Model, pool: Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.feed, "_finite_only", True)
    streams = [pool.open() for _ in range(12)]
    good = dict.fromkeys(streams, some(1, 1, 3))
    for _ in range(3):
        pool.step(good)
    before = [stream.to_bytes() for stream in streams]
    infinite = np.full((1, 1, 3), np.inf, np.float32)
    for bad, message in (
        (
            np.zeros((1, 1, 4), np.float32),
            r"stream 11: input 'x' has the shape \(batch=1, time=1, 3\); got \(1, 1, 4\)",
        ),
        (np.zeros((2, 1, 3), np.float32), r"stream 11: .*got \(2, 1, 3\)"),
        (np.zeros((1, 0, 3), np.float32), "No axis may be empty"),
        (infinite, r"stream 11: input 'x' holds NaN or infinity, first at \[0, 0, 0\]"),
        (np.full((1, 1, 3), "text"), "stream 11: input 'x' takes"),
        ([[1], [1, 2]], "stream 11: input 'x' takes"),
    ):
        with pytest.raises(InputMismatch, match=message) as raised:
            pool.step({**good, streams[10]: bad})
        assert raised.value.stream is streams[10]
        assert [stream.to_bytes() for stream in streams] == before
    # Squares that overflow are still numbers, and other dtypes are taken as ever.
    assert np.isfinite(pool.step({**good, streams[3]: np.full((1, 1, 3), 3e38, np.float32)})[streams[3]]).all()
    swapped = pool.step({streams[0]: some(1, 1, 3).astype(">f4"), streams[1]: some(1, 1, 3)})
    assert len(swapped) == 2


def test_shapes_that_would_fill_the_same_batch_are_told_apart(pool: Pool):
    """(2, 3) and (1, 3) beside (1, 3) and (2, 3): put together they look alike."""
    streams = [pool.open() for _ in range(2)]
    for shape in ((2, 3), (1, 3)):
        for _ in range(3):
            pool.step({stream: some(*shape) for stream in streams})
    found = pool.step({streams[0]: some(2, 3), streams[1]: some(1, 3)})
    assert [answer.shape for answer in found.values()] == [(2, 4), (1, 4)]
    with pytest.raises(InputMismatch, match="stream 2"):
        pool.step({streams[0]: some(1, 3), streams[1]: some(1, 4)})
    with pytest.raises(InputMismatch, match="stream 2: input 'x' takes float32"):
        pool.step({streams[0]: some(1, 3), streams[1]: np.full((1, 3), 1e300)})
    lengths = dict(zip([*streams, pool.open()], (2, 1, 3), strict=True))
    found = pool.step({stream: some(length, 3) for stream, length in lengths.items()})
    assert [len(answer) for answer in found.values()] == [2, 1, 3]


def test_what_onnxruntime_refuses_leaves_every_state(adder: Model):
    """The second of two runs fails: the first is as if it had not been."""
    with adder.pool(max_batch=2) as pool:
        streams = [pool.open() for _ in range(4)]
        for _ in range(3):
            pool.step({stream: [[0], np.ones((1, 2))] for stream in streams})
        with pytest.raises(InputMismatch, match="out of data bounds"):
            pool.step({stream: [[7 if stream is streams[3] else 0], np.ones((1, 2))] for stream in streams})
        assert [stream.state["sum_in"].tolist() for stream in streams] == [[[3.0, 3.0]]] * 4


def test_a_new_stream_begins_anew_in_a_row_that_was_anothers(model: Model, pool: Pool):
    x = some(1, 2, 3)
    first = pool.open()
    expected = first.step(x)
    first.step(x)
    row = first.row
    first.close()
    first.close()
    with pool.open() as second:
        assert second.row == row
        assert np.array_equal(second.step(x), expected)
        second.reset()
        assert np.array_equal(second.step(x), expected)
    for touch in (first.step, first.feed):
        with pytest.raises(StreamClosed, match="stream 1 is closed") as raised:
            touch(x)
        assert raised.value.stream is first
    with pytest.raises(StreamClosed):
        _ = second.state


def test_rows_grow_and_keep_their_states(model: Model):
    with model.pool(max_streams=100) as pool:
        streams, x = [], some(1, 1, 3)
        alone = model.stream()
        for _ in range(100):
            streams.append(pool.open())
            streams[0].step(x)
            alone.step(x)
        assert streams[0].to_bytes() == alone.to_bytes()
        with pytest.raises(PoolFull, match=r"takes 100 streams at a time\. Close streams that are done") as raised:
            pool.open()
        assert (raised.value.what, raised.value.limit) == ("streams", 100)
        streams[5].close()
        assert pool.open().row == streams[5].row
        assert pool.statistics().refused == 1


def test_a_stream_that_nobody_holds_gives_its_row_back(model: Model):
    with model.pool(max_streams=1) as pool:
        for _ in range(5):
            stream = pool.open()
            stream.step(some(1, 1, 3))
            assert pool.statistics().streams == 1
            del stream
            gc.collect()
        assert pool.statistics().streams == 0


def test_states_move_between_streams_and_pools(model: Model, pool: Pool):
    x, alone = some(1, 2, 3), model.stream()
    alone.step(x)
    with model.pool() as other:
        one, two = pool.open(), other.open()
        one.restore(alone.to_bytes())
        two.restore(one.to_bytes())
        two.state = MappingProxyType(two.state)
        expected = alone.step(x)
        assert np.array_equal(one.step(x), expected)
        assert np.array_equal(two.step(x), expected)
    three = pool.open()
    before = three.to_bytes()
    with pytest.raises(StateMismatch, match="another batch"):
        three.restore(model.stream(batch=2).to_bytes())
    with pytest.raises(InputMismatch, match=r"has the shape \(batch=1, 4\); got \(2, 4\)"):
        three.state = model.stream(batch=2).state
    assert three.to_bytes() == before
    for array in three.state.values():
        array[:] = 99
    assert three.to_bytes() == before


def test_what_is_no_stream_of_the_pool(model: Model, pool: Pool):
    with model.pool() as other:
        for wrong in (other.open(), "stream", model.stream()):
            with pytest.raises(WrongUsage, match="is no stream of this pool"):
                pool.step({wrong: some(1, 1, 3)})  # type: ignore[dict-item]
    with pytest.raises(WrongUsage, match="step takes a dict, stream to chunk; got a list"):
        pool.step([])  # type: ignore[arg-type]
    assert pool.step({}) == {}


def test_a_closed_pool(model: Model):
    with model.pool() as pool:
        stream = pool.open()
    pool.close()
    for touch in (pool.open, lambda: stream.step(some(1, 1, 3)), lambda: stream.feed(some(1, 1, 3)), stream.reset):
        with pytest.raises(PoolClosed, match="the pool is closed"):
            touch()
    stream.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_streams": 0}, "max_streams must be a positive integer; got 0"),
        ({"max_batch": True}, "max_batch must be a positive integer"),
        ({"max_queue": 1.5}, "max_queue must be a positive integer"),
        ({"max_wait_ms": -1}, "max_wait_ms must be a number of milliseconds, 0 or more"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms"),
    ],
)
def test_options_that_are_none(model: Model, options: dict[str, Any], message: str):
    with pytest.raises(WrongUsage, match=message):
        model.pool(**options)


def test_files_that_have_no_row_for_each_stream(make_lstm: Callable[..., Any]):
    with pytest.raises(WrongUsage, match="has no states to carry"):
        Model(make_lstm().path).pool()
    with pytest.raises(WrongUsage, match=r"fixed batch of 4, .*model.stream\(batch=4\)"):
        Model(make_lstm(streaming=True, batch=4).path).pool()
    model = Model(make_lstm(streaming=True, batch=1).path)
    with model.pool() as pool:
        assert pool.max_batch == 1
        x, alone = some(1, 1, 3), model.stream()
        streams = [pool.open() for _ in range(3)]
        for _ in range(3):
            found, expected = pool.step(dict.fromkeys(streams, x)), alone.step(x)
            assert all(np.array_equal(answer, expected) for answer in found.values())


def test_chunks_of_a_model_with_strides(make_lstm: Callable[..., Any]):
    with Model(make_lstm(streaming=True, chunk_multiple=2).path).pool() as pool:
        stream = pool.open()
        for chunk in (some(4, 3), some(2, 3)):
            assert len(stream.step(chunk)) == len(chunk)
        with pytest.raises(InputMismatch, match="stream 1: input 'x' takes chunks of 2, 4, 6"):
            stream.step(some(3, 3))


def test_counts(pool: Pool):
    streams = [pool.open() for _ in range(11)]
    for _ in range(2):
        pool.step(dict.fromkeys(streams, some(1, 1, 3)))
    found = pool.statistics()
    assert (found.streams, found.answered, found.runs, found.queued) == (11, 22, 4, 0)
    assert found.batch_size is not None
    assert (found.batch_size.p50, found.batch_size.largest) == (3, 8)
    assert found.latency_ns is None


@plain_or_proven
def test_many_streams_come_and_go(model: Model):
    """Some thousand steps at random, each against a stream of its own that never shared anything."""
    order, x = random.Random(3), some(64, 3, 3)
    with model.pool(max_streams=40, max_batch=16) as pool:
        open_: list[tuple[Any, Any]] = []
        for _ in range(400):
            while len(open_) < 40 and order.random() < 0.6:
                open_.append((pool.open(), model.stream()))
            chosen = [pair for pair in open_ if order.random() < 0.5]
            chunks = {stream: x[order.randrange(64), None, : order.choice([1, 1, 1, 2])] for stream, _ in chosen}
            found = pool.step(chunks)
            for stream, oracle in chosen:
                assert np.array_equal(found[stream], oracle.step(chunks[stream]))
            for pair in [pair for pair in open_ if order.random() < 0.1]:
                assert pair[0].to_bytes() == pair[1].to_bytes()
                pair[0].close()
                open_.remove(pair)
