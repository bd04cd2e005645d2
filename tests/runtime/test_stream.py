"""Chunks equal the whole; reset, state, and steps that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.runtime import Model
from edgeseq.runtime.bound import Bound
from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec
from edgeseq.runtime.repeat import Repeat

H = "state_in.00.lstm.h"
C = "state_in.01.lstm.c"


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@pytest.fixture
def model(make_lstm: Callable[..., Any]) -> Model:
    return Model(make_lstm(streaming=True, initial=0.25).path, threads=1)


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 1, 4, 2]])
def test_chunks_equal_the_whole(model: Model, chunks: list[int]):
    x = some(3, 12, 3)
    stream = model.stream(batch=3)
    pieces = [stream.step(piece) for piece in np.split(x, np.cumsum(chunks)[:-1], axis=1)]
    # The same op does the same sums in the same order, step by step.
    assert np.array_equal(np.concatenate(pieces, axis=1), model(x))


def test_answers_may_be_kept(model: Model):
    stream, x = model.stream(), some(1, 3, 3)
    first = stream.step(x)
    copy = first.copy()
    stream.step(x)
    assert np.array_equal(first, copy)


def test_reset_starts_anew(model: Model):
    stream, x = model.stream(batch=2), some(2, 3, 3)
    first = stream.step(x)
    assert not np.array_equal(stream.step(x), first)
    stream.reset()
    assert np.array_equal(stream.step(x), first)


def test_reset_of_rows_leaves_the_others(model: Model):
    x = some(3, 2, 3)
    stream, other = model.stream(batch=3), model.stream(batch=3)
    first = stream.step(x)
    other.step(x)
    stream.reset(rows=[0, 2])
    again, untouched = stream.step(x), other.step(x)
    assert np.array_equal(again[[0, 2]], first[[0, 2]])
    assert np.array_equal(again[1], untouched[1])
    assert not np.array_equal(again[1], first[1])
    stream.reset(rows=[])
    assert np.array_equal(stream.step(x)[1], other.step(x)[1])


def test_rows_may_be_reset_before_the_first_step(model: Model):
    stream = model.stream(batch=2)
    stream.reset(rows=np.array([1]))
    assert np.array_equal(stream.step(some(2, 1, 3)), model(some(2, 1, 3)))


@pytest.mark.parametrize("rows", [[2], [-1], [0.5], ["a"], [True]])
def test_rows_that_are_none(model: Model, rows: list[Any]):
    with pytest.raises(WrongUsage, match=r"rows must be integers from 0 to 1; got \["):
        model.stream(batch=2).reset(rows=rows)


def test_rows_are_several(model: Model):
    with pytest.raises(WrongUsage, match="rows must be a list of integers; got 1"):
        model.stream(batch=2).reset(rows=1)  # type: ignore[arg-type]


def test_state_is_saved_and_restored(model: Model):
    stream, x = model.stream(), some(1, 3, 3)
    stream.step(x)
    saved = stream.state
    assert {name: array.shape for name, array in saved.items()} == {H: (1, 4), C: (1, 4)}
    for array in stream.state.values():
        array[:] = 99  # a copy: the stream does not see it
    expected = stream.step(x)
    assert not np.array_equal(expected, model.stream().step(x))
    other = model.stream()
    other.state = saved
    for array in saved.values():
        array[:] = 99  # neither stream holds these arrays
    restored = other.step(x)
    assert np.array_equal(restored, expected)
    assert np.abs(restored).max() < 1
    assert not np.array_equal(stream.step(x), expected)


def test_the_state_before_the_first_step_is_the_initial_one(model: Model):
    assert {name: array.tolist() for name, array in model.stream(batch=1).state.items()} == {
        H: [[0.25] * 4],
        C: [[0.25] * 4],
    }


def test_a_state_is_as_finite_as_the_inputs(model: Model, monkeypatch: pytest.MonkeyPatch):
    """Where an op of the file may answer a number to what is none."""
    stream = model.stream()
    stream.step(some(1, 2, 3))
    infinite = {name: np.full_like(array, np.inf) for name, array in stream.state.items()}
    monkeypatch.setattr(model.feed, "_finite_only", True)
    with pytest.raises(InputMismatch, match=r"state 'state_in\.00\.lstm\.h' holds NaN or infinity"):
        stream.state = infinite


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({C: None}, "the state is a dict with the keys .* missing 'state_in.01.lstm.c'"),
        ({"h": np.zeros((1, 4), np.float32)}, "unexpected 'h'"),
        ({H: np.zeros((2, 4), np.float32)}, r"state 'state_in.00.lstm.h' has the shape \(batch=1, 4\); got \(2, 4\)"),
        ({H: np.zeros((1, 5), np.float32)}, r"\(batch=1, 4\); got \(1, 5\)"),
        ({H: np.full((1, 4), 1e300)}, r"state 'state_in.00.lstm.h' takes float32 \(.*got 1e\+300"),
        ({H: np.full((1, 4), "a")}, r"state 'state_in.00.lstm.h' takes float32 \(.*got dtype <U1"),
        ({H: [[1, 2, 3, 4], [1]]}, r"state 'state_in.00.lstm.h' takes float32; got a list that is no .*inhomogeneous"),
    ],
)
def test_a_state_that_does_not_fit(model: Model, change: dict[str, Any], message: str):
    stream, x = model.stream(), some(1, 2, 3)
    stream.step(x)
    before = stream.state
    with pytest.raises(InputMismatch, match=message):
        stream.state = {name: array for name, array in {**before, **change}.items() if array is not None}
    assert all(np.array_equal(stream.state[name], before[name]) for name in before)


def test_a_state_is_what_a_step_takes(model: Model):
    stream, x = model.stream(), some(1, 2, 3)
    stream.step(x)
    other = model.stream()
    other.state = {H: stream.state[H].tolist(), C: stream.state[C].astype(np.float64)}
    assert np.array_equal(other.step(x), stream.step(x))


def test_any_mapping_is_a_state(model: Model):
    stream, x = model.stream(), some(1, 2, 3)
    stream.step(x)
    other = model.stream()
    other.state = MappingProxyType(stream.state)
    assert np.array_equal(other.step(x), stream.step(x))


def test_a_state_must_be_a_dict(model: Model):
    with pytest.raises(InputMismatch, match=r"the state is a dict with the keys .* got a list of 0"):
        model.stream().state = []  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 3), r"input 'x' has the shape \(batch=1, time, 3\); got \(2, 1, 3\)"),
        ((1, 1, 4), r"got \(1, 1, 4\)"),
        ((1, 3), "An axis is missing"),
        ((1, 0, 3), "No axis may be empty"),
    ],
)
def test_a_step_that_does_not_fit_leaves_the_state(model: Model, shape: tuple[int, ...], message: str):
    stream, x = model.stream(), some(1, 2, 3)
    stream.step(x)
    before = stream.state
    with pytest.raises(InputMismatch, match=message):
        stream.step(np.zeros(shape, np.float32))
    assert all(np.array_equal(stream.state[name], before[name]) for name in before)


def test_a_file_without_states_does_not_stream(make_lstm: Callable[..., Any]):
    with pytest.raises(WrongUsage, match=r"has no states to carry. Export the model with streaming=True"):
        Model(make_lstm().path).stream()


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, None])
def test_a_batch_that_is_none(model: Model, batch: Any):
    with pytest.raises(WrongUsage, match="batch must be a positive integer; got"):
        model.stream(batch=batch)


def test_a_fixed_batch_must_be_met(make_lstm: Callable[..., Any]):
    lstm = make_lstm(streaming=True, batch=4)
    model = Model(lstm.path)
    with pytest.raises(WrongUsage, match=r"has a fixed batch of 4; got 1. Use: model.stream\(batch=4\)"):
        model.stream()
    assert model.stream(batch=4).step(some(4, 1, 3)).shape == (4, 1, 4)


@pytest.fixture
def frames(write: Callable[..., Path]) -> Model:
    """A running sum of frames whose height is free: the state's size is known from the first frame."""
    shape: list[Any] = ["batch", "time", "height"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, ["batch", "height"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "height"]),
        helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, ["batch", "height"]),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x", "one"], ["new"], keepdims=0),
        helper.make_node("Add", ["new", "sum_in"], ["y"]),
        helper.make_node("Identity", ["y"], ["sum_out"]),
    ]
    manifest = Manifest(
        inputs=(TensorSpec(name="x", dtype="float32", axes=("batch", "time", "height")),),
        outputs=(TensorSpec(name="y", dtype="float32", axes=("batch", "height")),),
        states=(StateSpec(input="sum_in", output="sum_out", dtype="float32", axes=("batch", "height")),),
        input_structure="x",
        output_structure="y",
    )
    return Model(write(nodes, inputs, outputs, {"one": np.array([1])}, manifest))


def test_a_state_sized_by_the_input(frames: Model):
    stream = frames.stream()
    with pytest.raises(WrongUsage, match=r"the states' size \(height\) is known only after the first step"):
        _ = stream.state
    assert stream.step(np.ones((1, 2, 3))).tolist() == [[2.0, 2.0, 2.0]]
    assert stream.step(np.ones((1, 1, 3))).tolist() == [[3.0, 3.0, 3.0]]
    # Without the check this step would be broadcast over the state, and answer.
    with pytest.raises(InputMismatch, match=r"height=3\); got \(1, 1, 1\)"):
        stream.step(np.ones((1, 1, 1)))
    stream.reset()
    assert stream.step(np.ones((1, 1, 1))).tolist() == [[1.0]]
    stream.state = {"sum_in": np.ones((1, 2), np.float32)}
    assert stream.step(np.ones((1, 1, 2))).tolist() == [[2.0, 2.0]]


def same_as_anew(model: Model, chunks: list[np.ndarray]) -> None:
    """Each chunk through one stream, and through a new one that is given the states: nothing remembered."""
    stream = model.stream(batch=len(chunks[0]))
    for chunk in chunks:
        before = stream.state
        found = stream.step(chunk)
        other = model.stream(batch=len(chunk))
        other.state = before
        assert np.array_equal(found, other.step(chunk))


def test_steps_that_repeat_answer_as_the_first(model: Model):
    x = some(2, 6, 3)
    alike = [x[:, step : step + 1] for step in range(6)]
    same_as_anew(
        model, [*alike, x, x, x, *alike, x.astype(np.float64), *alike[:2], x[:, ::-1], np.asfortranarray(x), x]
    )


@pytest.mark.filterwarnings("error")
def test_a_repeated_step_refuses_what_the_first_does(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.feed, "_finite_only", True)
    stream, x = model.stream(), some(1, 1, 3)
    for _ in range(4):
        stream.step(x)
    assert stream._again is not None
    before = stream.state
    for bad in (np.nan, np.inf, -np.inf):
        wrong = x.copy()
        wrong[0, 0, 1] = bad
        with pytest.raises(InputMismatch, match=r"'x' holds NaN or infinity, first at \[0, 0, 1\]"):
            stream.step(wrong)
    for shape in ((1, 1, 4), (2, 1, 3), (1, 0, 3), (1, 3)):
        with pytest.raises(InputMismatch):
            stream.step(np.zeros(shape, np.float32))
    assert all(np.array_equal(stream.state[name], array) for name, array in before.items())
    with pytest.raises(InputMismatch, match="input 'x' takes float32"):
        stream.step(np.full((1, 1, 3), 1e300))
    # Squares of these overflow: they are looked at one by one, and taken.
    assert np.isfinite(stream.step(np.full_like(x, 3e38))).all()


def test_a_repeated_step_sees_what_was_set_between(model: Model):
    stream, x = model.stream(batch=2), some(2, 1, 3)
    first = [stream.step(x) for _ in range(4)]
    stream.reset()
    assert np.array_equal(stream.step(x), first[0])
    saved = stream.state
    assert np.array_equal(stream.step(x), first[1])
    assert np.array_equal(stream.step(x), first[2])
    stream.reset(rows=[1])
    mixed = stream.step(x)
    assert np.array_equal(mixed[0], first[3][0])
    assert np.array_equal(mixed[1], first[0][1])
    stream.state = saved
    assert np.array_equal(stream.step(x), first[1])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Bound]:
    """What was bound."""
    found: list[Bound] = []
    init = Bound.__init__

    def noted(self: Bound, *arguments: Any) -> None:
        init(self, *arguments)
        found.append(self)

    monkeypatch.setattr(Bound, "__init__", noted)
    return found


def test_memory_is_made_for_what_comes_again_and_is_small(model: Model, made: list[Bound]):
    stream = model.stream()
    for length in (1, 2, 3, 4):
        stream.step(some(1, length, 3))
    large = some(1, 1 << 16, 3)
    assert large.nbytes < 1 << 20 < large.nbytes + large.nbytes * 4 // 3  # with the answer
    for _ in range(3):
        stream.step(large)
    assert made == []
    for _ in range(3):
        stream.step(some(1, 4, 3))
    [bound] = made
    assert bound.states is not None
    # A chunk of another length leaves it.
    for length in (5, 4, 6, 4):
        stream.step(some(1, length, 3))
    assert len(made) == 1


def test_large_chunks_equal_the_whole(model: Model):
    x = some(2, 80_000, 3)
    stream = model.stream(batch=2)
    pieces = [stream.step(piece) for piece in np.split(x, 2, axis=1)]
    assert np.array_equal(np.concatenate(pieces, axis=1), model(x))


def test_a_state_that_grows_is_refused(write: Callable[..., Path]):
    """The file says that it keeps its size. Were it not looked at, it would be cut or spread to that."""
    value, float_ = helper.make_tensor_value_info, TensorProto.FLOAT
    nodes = [
        helper.make_node("Concat", ["past_in", "x"], ["past_out"], axis=1),
        helper.make_node("ReduceSum", ["past_out", "one"], ["y"], keepdims=1),
    ]
    manifest = Manifest(
        inputs=(TensorSpec(name="x", dtype="float32", axes=("batch", "time")),),
        outputs=(TensorSpec(name="y", dtype="float32", axes=("batch", 1)),),
        states=(StateSpec(input="past_in", output="past_out", dtype="float32", axes=("batch", "time")),),
        input_structure="x",
        output_structure="y",
    )
    inputs = [value("x", float_, ["batch", "time"]), value("past_in", float_, ["batch", "time"])]
    outputs = [value("y", float_, ["batch", 1]), value("past_out", float_, ["batch", "time"])]
    stream = Model(write(nodes, inputs, outputs, {"one": np.array([1])}, manifest)).stream()
    with pytest.raises(InputMismatch, match=r"state 'past_out' has the shape \(batch=1, time=1\); got \(1, 2\)"):
        stream.step(np.ones((1, 1), np.float32))


def test_chunks_of_a_model_with_strides(make_lstm: Callable[..., Any]):
    stream = Model(make_lstm(streaming=True, chunk_multiple=2).path).stream()
    for _ in range(3):
        assert stream.step(some(1, 4, 3)).shape == (1, 4, 4)
    with pytest.raises(InputMismatch, match="takes chunks of 2, 4, 6"):
        stream.step(some(1, 3, 3))


def test_a_repeated_step_of_a_state_that_changed_its_size(frames: Model):
    stream, x = frames.stream(), np.ones((1, 1, 3), np.float32)
    for _ in range(4):
        stream.step(x)
    stream.state = {"sum_in": np.ones((1, 2), np.float32)}
    with pytest.raises(InputMismatch, match=r"height=2\); got \(1, 1, 3\)"):
        stream.step(x)
    assert stream.step(x[..., :2]).tolist() == [[2.0, 2.0]]


def test_chunks_of_alternating_lengths_are_all_short(make_lstm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    made = []
    of = Repeat.of
    monkeypatch.setattr(Repeat, "of", lambda *what: made.append(what) or of(*what))
    stream = Model(make_lstm(streaming=True).path).stream()
    for _ in range(6):
        for length in (1, 2):
            stream.step(np.zeros((1, length, stream._model.inputs[0].axes[2]), np.float32))
    assert len(made) == 2, "once for each length"
