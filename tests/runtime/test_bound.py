"""Buffers at fixed places: what is kept is never written over, and a state has two places."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeseq.errors import InputMismatch
from edgeseq.runtime import Model
from edgeseq.runtime.bound import Bound, Buffer, States
from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec

CPU = ("cpu", 0)


def some(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def model(make_lstm: Callable[..., Any]) -> Model:
    return Model(make_lstm(streaming=True, initial=0.25).path, threads=1)


@pytest.fixture
def counter(write: Callable[..., Path]) -> Model:
    """ids (batch, time) -> their rows of a table of 3, where they are positive, and how many there were so far."""
    int_, float_ = TensorProto.INT64, TensorProto.FLOAT
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "one"], ["new"], keepdims=0),
        helper.make_node("Add", ["sum_in", "new"], ["sum_out"]),
        helper.make_node("NonZero", ["ids"], ["places"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", int_, ["batch", "time"]),
        helper.make_tensor_value_info("sum_in", float_, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info("rows", float_, ["batch", "time"]),
        helper.make_tensor_value_info("places", int_, [2, "count"]),
        helper.make_tensor_value_info("sum_out", float_, ["batch"]),
    ]
    manifest = Manifest(
        inputs=(TensorSpec(name="ids", dtype="int64", axes=("batch", "time")),),
        outputs=(
            TensorSpec(name="rows", dtype="float32", axes=("batch", "time")),
            TensorSpec(name="places", dtype="int64", axes=(2, "count")),
        ),
        states=(StateSpec(input="sum_in", output="sum_out", dtype="float32", axes=("batch",)),),
        input_structure="ids",
        output_structure=["rows", "places"],
    )
    weights = {"table": np.array([0, 1, 10], np.float32), "one": np.array([1])}
    return Model(write(nodes, inputs, outputs, weights, manifest))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "int64", "bool", "uint8"])
def test_a_buffer_copies_in_and_out(dtype: str):
    array = np.array([[1, 0, 1], [0, 1, 1]], dtype)
    buffer = Buffer((2, 3), dtype, CPU)
    place = buffer.value.data_ptr()
    buffer.write(array)
    found = buffer.read()
    array[:] = 0
    buffer.write(np.zeros((3, 2), dtype).T)  # not contiguous
    assert found.tolist() == np.array([[1, 0, 1], [0, 1, 1]], dtype).tolist()
    assert found.dtype == dtype
    assert not buffer.read().any()
    assert buffer.value.data_ptr() == place


def test_the_states_go_there_and_back(model: Model):
    """Each step reads one set of buffers and writes the other, which are the same from the first step to the last."""
    states = States(model.runner, model.manifest.states, {"batch": 2})
    states.write(model.initial_states({"batch": 2}))
    bound = Bound(model.runner, model.inputs, model.outputs, {"batch": 2, "time": 1}, states)
    places = [[buffer.value.data_ptr() for buffer in held.values()] for held in states.sets]
    assert len({place for held in places for place in held}) == 4
    x, stream = some(2, 5, 3), model.stream(batch=2)
    for step in range(5):
        before, source = states.read(), states.current
        [found] = bound.run({"x": x[:, step : step + 1]})
        assert np.array_equal(found, stream.step(x[:, step : step + 1]))
        assert states.current == 1 - source
        for name, array in before.items():
            assert np.array_equal(states.sets[source][name].read(), array)
            assert np.array_equal(states.read()[name], stream.state[name])
    assert [[buffer.value.data_ptr() for buffer in held.values()] for held in states.sets] == places


def test_every_answer_is_the_callers(model: Model):
    stream, x = model.stream(), some(1, 40, 3)
    kept = [stream.step(x[:, step : step + 1]) for step in range(40)]
    assert np.array_equal(np.concatenate(kept, axis=1), model(x))
    kept[-1][:] = 99
    assert np.abs(stream.step(x[:, :1])).max() < 1


def test_an_output_of_unknown_length(counter: Model):
    """onnxruntime makes it, in every step anew: neither an earlier answer nor its length is touched."""
    stream = counter.stream()
    kept = [stream.step(np.array([ids]))[1] for ids in ([0, 1], [1, 1], [0, 0], [2, 0], [1, 2])]
    gc.collect()
    assert [places.tolist() for places in kept] == [
        [[0], [1]],
        [[0, 0], [0, 1]],
        [[], []],
        [[0], [0]],
        [[0, 0], [0, 1]],
    ]
    assert stream.state["sum_in"].tolist() == [24.0]


def test_a_step_that_onnxruntime_refuses_leaves_the_state(counter: Model):
    stream = counter.stream()
    with pytest.raises(InputMismatch, match=r"onnxruntime refuses this input: .*out of data bounds"):
        stream.step(np.array([[3]]))
    assert stream.step(np.array([[1, 1]]))[0].tolist() == [[1, 1]]
    for bad in ([[7, 1]], [[-4]]):
        with pytest.raises(InputMismatch, match="out of data bounds"):
            stream.step(np.array(bad))
        assert stream.state["sum_in"].tolist() == [2.0]
    stream.step(np.array([[2]]))
    assert stream.state["sum_in"].tolist() == [12.0]
    stream.reset()
    with pytest.raises(InputMismatch, match="out of data bounds"):
        stream.step(np.array([[3]]))
    assert stream.state["sum_in"].tolist() == [0.0]


def test_chunks_of_many_lengths_keep_few_buffers(model: Model):
    """Those of the last used lengths: the one that comes again and again is never made anew."""
    lengths = [1, 7, 1, 3, 1, 9, 1, 2, 1, 8, 1, 5, 1, 6, 1, 4, 1, 10]
    x, stream = some(1, sum(lengths), 3), model.stream()
    pieces, ones = [], set()
    for piece in np.split(x, np.cumsum(lengths)[:-1], axis=1):
        pieces.append(stream.step(piece))
        assert stream._lane is not None
        ones.add(stream._lane._bounds[(1, 1, 3),])
    assert np.array_equal(np.concatenate(pieces, axis=1), model(x))
    assert len(ones - {None}) == 1  # None the first time: memory is made where a length comes again
    assert [shapes[0][1] for shapes in stream._lane._bounds] == [6, 4, 1, 10]


def test_nothing_is_allocated_anew_by_a_reset(model: Model):
    stream, x = model.stream(batch=2), some(2, 1, 3)
    stream.step(x)
    lane = stream._lane
    saved = stream.state
    stream.reset()
    stream.step(x)
    stream.reset(rows=[1])
    stream.state = saved
    stream.step(x)
    assert stream._lane is lane
    assert lane is not None
    assert len(lane._bounds) == 1


def test_streams_in_threads_do_not_mix(model: Model):
    x = some(8, 200, 3)
    found: dict[int, np.ndarray] = {}

    def run(row: int) -> None:
        stream = model.stream()
        steps = [stream.step(x[row : row + 1, step : step + 1]) for step in range(200)]
        found[row] = np.concatenate(steps, axis=1)

    workers = [threading.Thread(target=run, args=(row,)) for row in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for row in range(8):
        assert np.array_equal(found[row], model(x[row : row + 1]))
