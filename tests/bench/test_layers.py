"""Time by layer: events put together by name, bodies counted once, and real exports tell their layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import edgeseq
from edgeseq.bench.layers import layer_times, time_layers
from edgeseq.bench.subjects import Subject, file_subject
from edgeseq.errors import EdgeseqError, InputMismatch, WrongUsage

CPU = "CPUExecutionProvider"


def run(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "tid": 1, "args": {}}


def node(name: str, op: str, ts: int, dur: int, *, tid: int = 1, provider: str = CPU) -> dict[str, Any]:
    arguments = {"op_name": op, "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "tid": tid, "args": arguments}


def test_layers_are_sums_over_calls_the_largest_first() -> None:
    events = [
        node("a/LSTM_0", "LSTM", 0, 60),
        node("a/Squeeze_1", "Squeeze", 60, 10),
        node("node/MatMul_2", "MatMul", 70, 5),
        run(0, 200),
        node("a/LSTM_0", "LSTM", 200, 40),
        node("b/GRU_3", "GRU", 240, 140),
        node("nameless", "MatMul", 385, 5),
        run(200, 200),
        # The machine stood still: not among the quieter half.
        node("a/LSTM_0", "LSTM", 1000, 9000),
        run(1000, 9100),
    ]
    b, a, rest = layer_times(events)
    assert {time.calls for time in (b, a, rest)} == {2}
    assert (b.layer, b.op_types, b.mean_ns, b.share) == ("b", ("GRU",), 70_000, pytest.approx(0.35))
    assert (a.layer, a.op_types, a.mean_ns, a.share) == ("a", ("LSTM", "Squeeze"), 55_000, pytest.approx(0.275))
    assert (rest.layer, rest.op_types, rest.mean_ns) == ("", ("MatMul",), 5_000)


def test_first_calls_are_left_out() -> None:
    events = [node("a/LSTM_0", "LSTM", 0, 900), run(0, 1000), node("a/LSTM_0", "LSTM", 1000, 30), run(1000, 60)]
    [a] = layer_times(events, leave_out=1)
    assert (a.mean_ns, a.share) == (30_000, 0.5)
    with pytest.raises(EdgeseqError, match="no run after the first 2"):
        layer_times(events, leave_out=2)


def test_bodies_are_counted_once() -> None:
    # A Scan of 100 µs whose steps take 40 + 30; beside it another thread, whose nodes are in nobody's body.
    events = [
        node("a/Scan_0", "Scan", 0, 100),
        node("a/Scan_0/a/MatMul_0", "MatMul", 0, 40),
        node("a/Scan_0/inner/Add_1", "Add", 50, 30),
        node("c/Tanh_0", "Tanh", 10, 20, tid=2),
        node("b/Mul_1", "Mul", 100, 7),
        run(0, 110),
    ]
    found = {time.layer: time for time in layer_times(events)}
    assert (found["a"].mean_ns, found["a"].op_types) == (100_000, ("MatMul", "Scan", "Add"))
    assert (found["b"].mean_ns, found["c"].mean_ns) == (7_000, 20_000)


def test_the_provider_is_the_one_that_took_most() -> None:
    events = [
        node("a/Cast_0", "Cast", 0, 10),
        node("a/LSTM_1", "LSTM", 10, 90, provider="CUDAExecutionProvider"),
        run(0, 100),
    ]
    assert layer_times(events)[0].provider == "CUDAExecutionProvider"


def test_a_file_of_another_tool_is_profiled_too(make_lstm: Any) -> None:
    subject = file_subject(make_lstm(manifest=False), time_steps=200)
    found = time_layers(subject, calls=2)
    assert {time.layer for time in found} == {""}
    assert found[0].op_types == ("LSTM",)
    assert found[0].provider == CPU
    assert 0.5 < found[0].share <= 1.0


def test_what_has_no_file_has_no_profile(make_lstm: Any) -> None:
    with pytest.raises(WrongUsage, match="'rival' was not made from an ONNX file"):
        time_layers(Subject(name="rival", call=lambda: 0.0))
    with pytest.raises(WrongUsage, match="calls must be at least 1"):
        time_layers(file_subject(make_lstm()), calls=0)
    odd = dataclasses.replace(file_subject(make_lstm()), feeds=(np.zeros((1, 5, 2), np.float32),))
    with pytest.raises(InputMismatch):
        time_layers(odd)


class Leaky(keras.layers.Layer):
    """A cell that no ONNX op computes: it becomes a Scan."""

    def __init__(self, units: int, **options: Any):
        super().__init__(**options)
        self.units = self.state_size = self.output_size = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units))
        self.recurrent = self.add_weight(shape=(self.units, self.units))
        self.built = True

    def call(self, x: Any, states: Any) -> Any:
        h = 0.9 * keras.ops.tanh(x @ self.kernel + states[0] @ self.recurrent)
        return h, [h]


def stacked() -> tuple[Any, ...]:
    layers = keras.layers
    both = layers.Bidirectional(layers.LSTM(16, return_sequences=True), name="both")
    return keras.Input((None, 12)), layers.Masking(name="skip"), both, layers.GRU(8, name="top"), layers.Dense(3)


def convolutional() -> tuple[Any, ...]:
    layers = keras.layers
    return keras.Input((3, 8, 8, 1)), layers.ConvLSTM2D(4, 3, padding="same", name="frames"), layers.Flatten()


def custom() -> tuple[Any, ...]:
    return keras.Input((20, 4)), keras.layers.RNN(Leaky(8), name="own"), keras.layers.Dense(2)


@pytest.mark.parametrize(
    ("make", "layers", "op_types"),
    [(stacked, {"both", "top"}, {"LSTM", "GRU"}), (convolutional, {"frames"}, {"Conv"}), (custom, {"own"}, {"Scan"})],
)
def test_real_exports_tell_their_recurrent_layers(make: Any, layers: Any, op_types: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    path = tmp_path / "model.onnx"
    edgeseq.export(keras.Sequential(make()), path)
    found = time_layers(file_subject(path, batch=2), calls=3)
    assert {time.layer for time in found} == {"", *layers}
    assert op_types <= {op for time in found if time.layer for op in time.op_types}
    # A body that was counted twice would make it more than the whole.
    assert 0.0 < sum(time.share for time in found) <= 1.0
