"""Recurrent layers of any file written out step by step: what the node reads and gives stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseq.quantization.candidates import CANDIDATES, apply
from edgeseq.quantization.layers import find_layers
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.runs import serialize
from edgeseq.runtime.providers import open_session

Make = Callable[..., onnx.ModelProto]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
UNITS, FEATURES, TIME, ROWS = 24, 8, 7, 3
FORMS = [name for name in CANDIDATES if name.startswith("steps-")]
# Of numbers of 8 bits, and of 4, over a few steps.
ERRORS = {"8": 0.05, "4": 0.3}


def recurrent(make_model: Make, op_type: str, *, opset: int = 18, calls: int = 1, **options: Any) -> onnx.ModelProto:
    """Steps (time, batch, features) through one layer, called once or twice; lengths and states are inputs."""
    random = np.random.default_rng(0)
    directions = 2 if options.get("direction") == "bidirectional" else 1
    width = GATES[op_type] * UNITS

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    constants = {
        "W": normal(directions, width, FEATURES),
        "R": normal(directions, width, UNITS),
        "B": normal(directions, 2 * width),
    }
    names = ["lengths" if options.pop("lengths", False) else "", *(["h0"] if options.pop("states", False) else [])]
    inputs: dict[str, Any] = {"x": (TensorProto.FLOAT, ["time", "batch", FEATURES])}
    if names[0]:
        inputs["lengths"] = (TensorProto.INT32, ["batch"])
    if "h0" in names:
        state = (TensorProto.FLOAT, [directions, "batch", UNITS])
        inputs |= dict.fromkeys(["h0", "c0"] if op_type == "LSTM" else ["h0"], state)
        names = [names[0], *list(inputs)[-2 if op_type == "LSTM" else -1 :]]
    nodes = [
        helper.make_node(
            op_type, ["x", "W", "R", "B", *names], [f"y{call}", f"h{call}"], f"rnn/{call}", hidden_size=UNITS, **options
        )
        for call in range(1, calls + 1)
    ]
    outputs = {name: None for call in range(1, calls + 1) for name in (f"y{call}", f"h{call}")}
    return make_model(nodes, inputs, outputs, constants, opset=opset)


def feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    directions = model.graph.initializer[0].dims[0]
    every = {
        "x": random.standard_normal((TIME, ROWS, FEATURES)).astype(np.float32),
        "lengths": np.array([7, 4, 1], np.int32),
        "h0": random.uniform(-1, 1, (directions, ROWS, UNITS)).astype(np.float32),
        "c0": random.uniform(-1, 1, (directions, ROWS, UNITS)).astype(np.float32),
    }
    return {value.name: every[value.name] for value in model.graph.input}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM bidirectional": ("LSTM", {"direction": "bidirectional"}),
    "LSTM masked": ("LSTM", {"lengths": True}),
    "LSTM reverse, masked": ("LSTM", {"lengths": True, "direction": "reverse"}),
    "LSTM from states": ("LSTM", {"states": True}),
    "GRU reset before": ("GRU", {"linear_before_reset": 0}),
    "GRU of PyTorch": ("GRU", {"linear_before_reset": 1, "states": True, "direction": "bidirectional"}),
    "GRU masked, from states": ("GRU", {"linear_before_reset": 1, "lengths": True, "states": True}),
    "RNN": ("RNN", {}),
    "RNN bidirectional, masked": ("RNN", {"lengths": True, "direction": "bidirectional"}),
    "LSTM called twice": ("LSTM", {"calls": 2}),
    "GRU of opset 15": ("GRU", {"opset": 15}),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_written_out_it_gives_what_it_gave(make_model: Make, case: str, name: str) -> None:
    op_type, options = CASES[case]
    model = recurrent(make_model, op_type, **options)
    layers, notes = find_layers(model)
    assert ([layer.name for layer in layers], notes) == (["rnn/1"], ())
    changed = apply(model, layers, {"rnn/1": name})
    onnx.checker.check_model(changed)
    assert op_type not in {node.op_type for node in changed.graph.node}
    fed = feed(model)
    exact = open_session(serialize(model), threads=1).run(None, fed)
    found = open_session(serialize(changed), threads=1).run(None, fed)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        error = np.sqrt(np.square(ours - theirs).mean() / np.square(theirs).mean())
        assert 0 < error < ERRORS["4" if "4-bit" in name else "8"]


@pytest.mark.parametrize("name", [name for name in FORMS if CANDIDATES[name].rows_independent])
def test_a_step_does_not_depend_on_those_after_it(make_model: Make, name: str) -> None:
    """Nor on how many rows and steps share a call: what a stream needs."""
    model = recurrent(make_model, "GRU", states=True)
    layers, _ = find_layers(model)
    session = open_session(serialize(apply(model, layers, {"rnn/1": name})), threads=1)
    fed = feed(model)
    whole, _ = session.run(None, fed)
    state, parts = fed["h0"], []
    for step in range(TIME):
        part, state = session.run(None, {"x": fed["x"][step : step + 1], "h0": state})
        parts.append(part)
    # Products of another number of rows may add in another order, and a number on the edge between two of 8 bits then
    # falls on the other side.
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=0.01)
    first, _ = session.run(None, {"x": fed["x"][:, :1], "h0": fed["h0"][:, :1]})
    np.testing.assert_allclose(first, whole[:, :, :1], rtol=0, atol=0.01)


@pytest.mark.parametrize("name", FORMS)
def test_an_old_file_is_declined_by_name(make_model: Make, name: str) -> None:
    model = recurrent(make_model, "GRU", opset=14)
    layers, _ = find_layers(model)
    words = "layer 'rnn/1' cannot be exported exactly: the file is of operator set 14"
    with pytest.raises(Declined, match=words):
        apply(model, layers, {"rnn/1": name})


def test_two_calls_share_their_weights(make_model: Make) -> None:
    model = recurrent(make_model, "GRU", calls=2)
    layers, _ = find_layers(model)
    once = apply(recurrent(make_model, "GRU"), layers, {})
    for name in FORMS:
        changed = apply(model, layers, {"rnn/1": name})
        one = apply(recurrent(make_model, "GRU"), find_layers(recurrent(make_model, "GRU"))[0], {"rnn/1": name})
        weights = [sum(len(tensor.raw_data) for tensor in made.graph.initializer) for made in (changed, one)]
        # Everything but the weights is small: the biases, and what is read of the shapes.
        assert weights[0] < 1.2 * weights[1]
        assert weights[0] < 0.6 * sum(len(tensor.raw_data) for tensor in once.graph.initializer)
