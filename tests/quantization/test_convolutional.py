"""A ConvLSTM that is written out is found as one layer, and is near itself when it computes in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import DeduplicateInitializersPass

from edgeseq.lowering import scan, unrolled
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import Activation, Convolution, Direction, RecurrentSpec
from edgeseq.lowering.strategy import Signals
from edgeseq.quantization.calibration import observe
from edgeseq.quantization.candidates import CANDIDATES, apply
from edgeseq.quantization.forms.convolutional import _best_bound
from edgeseq.quantization.forms.hoisting import hoist_constants
from edgeseq.quantization.layers import CONV_LSTM, find_layers
from edgeseq.quantization.rewriting import Declined, subgraphs
from edgeseq.quantization.runs import run_all, serialize

STEPS, SIZE, CHANNELS, FILTERS = 4, 8, 2, 3
# Eight bits an activation and a weight: a hundredth each, and steps add up.
ERROR = 0.05


def conv_lstm(
    *,
    padding: str = "same",
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    bias: bool = True,
    return_sequences: bool = True,
    initial: bool = False,
    in_scan: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """x (batch, time, size, size, channels) to the layer's output, as the exporter writes it."""
    random = np.random.default_rng(seed)
    direction = Direction(
        kernel=(random.standard_normal((3, 3, CHANNELS, 4 * FILTERS)) / 3).astype(np.float32),
        recurrent_kernel=(random.standard_normal((3, 3, FILTERS, 4 * FILTERS)) / 4).astype(np.float32),
        bias=random.standard_normal(4 * FILTERS).astype(np.float32) if bias else None,
        activation=Activation(name=activation),
        recurrent_activation=Activation(name=recurrent_activation),
    )
    spec = RecurrentSpec(
        layer="cell",
        layer_type="ConvLSTM2D",
        kind="conv_lstm",
        units=FILTERS,
        directions=(direction,),
        return_sequences=return_sequences,
        initial_state="given" if initial else "zero",
        time_steps=None if in_scan else STEPS,
        convolution=Convolution(strides=(1, 1), padding=padding, dilation=(1, 1), channels_last=True),
    )
    b = Builder("cell")

    def value(name: str, *shape: int | str) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))

    x = value("x", "batch", STEPS, SIZE, SIZE, CHANNELS)
    states = [value(name, "batch", SIZE, SIZE, FILTERS) for name in ("h", "c")] if initial else []
    signals = Signals(x=x, mask=None, initial=tuple(states), wants_output=True, wants_states=initial)
    lowered = (scan if in_scan else unrolled).lower(b, spec, signals)
    name_all(b.nodes, "cell")
    outputs = [lowered.outputs[0], *(lowered.states if initial else ())]
    for name, output in zip(("y", "h_after", "c_after"), outputs, strict=False):
        output.name, output.type = name, ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape([None] * (5 if name == "y" and return_sequences else 4))
    graph = ir.Graph(
        [x, *states], outputs, nodes=b.nodes, initializers=b.initializers, opset_imports={"": 18}, name="test"
    )
    model = ir.Model(graph, ir_version=9)
    # As the exporter does: every step brings its own copy of the weights.
    DeduplicateInitializersPass(size_limit=10**6)(model)
    made: onnx.ModelProto = ir.serde.serialize_model(model)
    # As every file is loaded to be quantized.
    hoist_constants(made.graph)
    return made


def name_all(nodes: Sequence[ir.Node], prefix: str) -> None:
    for index, node in enumerate(nodes):
        node.name = f"{prefix}/{node.op_type}_{index}"
        for place, made in enumerate(node.outputs):
            made.name = f"{node.name}:{place}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                for place, value in enumerate(body.inputs):
                    value.name = f"{node.name}/in_{place}"
                name_all(list(body), node.name)


def again(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph with the same constants, all else under other names."""
    copy = onnx.GraphProto.FromString(graph.SerializeToString())
    constants = {name for node in copy.node for name in node.input if ".constant." in name or ".weights." in name}
    for node in copy.node:
        node.name = f"again/{node.name}"
        for names in (node.input, node.output):
            names[:] = [name if name in constants else f"again/{name}" for name in names]
    return list(copy.node)


def feeds_for(model: onnx.ModelProto, rows: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        entry.name: random.uniform(-1, 1, [axis.dim_value or rows for axis in entry.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for entry in model.graph.input
    }


def in_8_bits(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> onnx.ModelProto:
    layers, _ = find_layers(model)
    [layer] = [layer for layer in layers if layer.op_type == CONV_LSTM]
    calibration = CANDIDATES["cell-int8"].calibration
    assert calibration is not None
    parameters = calibration.calibrate(layer, observe(model, calibration.observed(layer), [feed]))
    return apply(model, layers, {layer.name: "cell-int8"}, {layer.name: parameters})


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.square(ours - exact).mean() / np.square(exact).mean()))


CASES: dict[str, dict[str, Any]] = {
    "sequence": {},
    "last": {"return_sequences": False},
    "no bias": {"bias": False},
    "initial states": {"initial": True},
    "relu": {"activation": "relu"},
    "hard sigmoid": {"recurrent_activation": "hard_sigmoid"},
    "scan": {"in_scan": True},
    "scan, last": {"in_scan": True, "return_sequences": False},
    "scan, initial states": {"in_scan": True, "initial": True},
    "scan, relu": {"in_scan": True, "activation": "relu"},
}


@pytest.mark.parametrize("case", CASES)
def test_in_8_bits_it_is_near_itself(case: str) -> None:
    model = conv_lstm(**CASES[case])
    feed = feeds_for(model)
    changed = in_8_bits(model, feed)
    onnx.checker.check_model(changed)
    bodies = [body for node in changed.graph.node for body in subgraphs(node)]
    assert "Conv" not in {node.op_type for graph in (changed.graph, *bodies) for node in graph.node}
    [exact], [ours] = run_all(serialize(model), [feed]), run_all(serialize(changed), [feed])
    for mine, theirs in zip(ours, exact, strict=True):
        assert 0 < relative_error(mine, theirs) < ERROR


def test_rows_are_independent() -> None:
    model = conv_lstm()
    feed = feeds_for(model)
    changed = serialize(in_8_bits(model, feed))
    loud = {"x": np.concatenate([feed["x"][:1], 1000 * feed["x"][1:]])}
    [[alone], [beside]] = run_all(changed, [{"x": feed["x"][:1]}, loud])
    np.testing.assert_array_equal(alone[0], beside[0])


def test_the_cell_is_one_layer_with_both_kernels() -> None:
    [layer] = find_layers(conv_lstm())[0]
    assert layer.op_type == CONV_LSTM
    assert sorted(layer.constants[name].shape for name in layer.weights) == [(12, 2, 3, 3), (12, 3, 3, 3)]


@pytest.mark.parametrize("name", ["int8-weights", "float16-weights"])
def test_its_weights_can_be_stored_small(name: str) -> None:
    model = conv_lstm()
    layers, _ = find_layers(model)
    feed = feeds_for(model)
    changed = apply(model, layers, {layers[0].name: name})
    [exact], [ours] = run_all(serialize(model), [feed]), run_all(serialize(changed), [feed])
    assert 0 < relative_error(ours[0], exact[0]) < ERROR
    assert len(serialize(changed)) < len(serialize(model))


@pytest.mark.parametrize(("options", "reason"), [({"activation": "gelu"}, None), ({"padding": "valid"}, "padding")])
def test_other_cells_are_left_or_declined(options: dict[str, Any], reason: str | None) -> None:
    model = conv_lstm(**options)
    layers, _ = find_layers(model)
    if reason is None:
        assert {layer.op_type for layer in layers} == {"Conv"}
        return
    with pytest.raises(Declined, match=reason):
        in_8_bits(model, feeds_for(model))


def test_a_cell_somebody_else_looks_into_is_none() -> None:
    model = conv_lstm()
    for gates in [node for node in model.graph.node if node.op_type == "Split"]:
        model.graph.output.append(onnx.helper.make_tensor_value_info(gates.output[0], onnx.TensorProto.FLOAT, None))
    assert {layer.op_type for layer in find_layers(model)[0]} == {"Conv"}


def test_a_layer_that_is_called_twice_is_one() -> None:
    model = conv_lstm()
    model.graph.node.extend(again(model.graph))
    for values in (model.graph.input, model.graph.output):
        second = values.add()
        second.CopyFrom(values[0])
        second.name = f"again/{values[0].name}"
    feed = feeds_for(model)
    [layer] = find_layers(model)[0]
    assert (layer.op_type, len(layer.nodes)) == (CONV_LSTM, 2 * (2 * STEPS - 1))
    [exact], [ours] = run_all(serialize(model), [feed]), run_all(serialize(in_8_bits(model, feed)), [feed])
    for mine, theirs in zip(ours, exact, strict=True):
        assert 0 < relative_error(mine, theirs) < ERROR


def test_two_cells_in_one_body_are_none() -> None:
    model = conv_lstm(in_scan=True)
    [scan] = [node for node in model.graph.node if node.op_type == "Scan"]
    [body] = subgraphs(scan)
    body.node.extend(again(body))
    assert [layer.op_type for layer in find_layers(model)[0]] == ["Scan"]


def test_nothing_but_zeros_gives_no_range() -> None:
    model = conv_lstm(bias=False)
    with pytest.raises(Declined, match="zero in all samples"):
        in_8_bits(model, {"x": np.zeros((1, STEPS, SIZE, SIZE, CHANNELS), np.float32)})


@pytest.mark.parametrize(("op_type", "wide"), [("Tanh", False), ("Relu", True), ("Elu", True)])
def test_the_bound_has_the_least_error(op_type: str, wide: bool) -> None:
    numbers = np.append(np.random.default_rng(0).standard_normal(10_000), 40.0).astype(np.float32)
    # A single number far out costs tanh nothing, and without it others everything.
    assert (_best_bound(numbers, op_type) > 20) == wide


def test_what_is_never_negative_has_all_numbers_for_itself() -> None:
    model = conv_lstm(activation="relu")
    feed = {name: np.abs(array) for name, array in feeds_for(model).items()}
    changed = in_8_bits(model, feed)
    zeros = {entry.name: onnx.numpy_helper.to_array(entry) for entry in changed.graph.initializer}
    assert [array for name, array in zeros.items() if name.endswith("/zero_xh")] == [0]
