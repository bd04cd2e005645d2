"""Every form computes what it says, keeps rows apart where it says so, and declines with a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantization.calibration import observe
from edgeseq.quantization.candidates import CANDIDATES, apply, candidates_for
from edgeseq.quantization.layers import Layer, _name_nodes, find_layers
from edgeseq.quantization.rewriting import Declined
from edgeseq.quantization.runs import serialize
from edgeseq.runtime.providers import open_session

Make = Callable[..., onnx.ModelProto]

# An 8-bit number is off by at most 1/254 of its scale's largest value; sums of many are off by far less, relatively.
INT8_ERROR = 0.05
# A 4-bit number is off by at most 1/16 of what it stands for in its block's scale, and steps add up.
FOUR_BIT_ERROR = 0.3


def largest_error(name: str) -> float:
    if name in ("float16", "float16-weights"):
        return 0.002
    return FOUR_BIT_ERROR if "4-bit" in name else INT8_ERROR


def answers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    return open_session(serialize(model), threads=1).run(None, feed)[0]


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.square(ours - exact).mean() / np.square(exact).mean()))


def only_layer(model: onnx.ModelProto, op_type: str) -> Layer:
    _name_nodes(model.graph)
    return next(layer for layer in find_layers(model)[0] if layer.op_type == op_type)


def calibrated(model: onnx.ModelProto, layer: Layer, name: str) -> dict[str, Mapping[str, float]]:
    """The parameters of a form of the only layer, from samples unlike those that the test looks at."""
    calibration = CANDIDATES[name].calibration
    if calibration is None:
        return {}
    seen = observe(model, calibration.observed(layer), [feed_for(model, seed=seed) for seed in range(7, 40)])
    return {layer.name: calibration.calibrate(layer, seen)}


def in_form(model: onnx.ModelProto, layer: Layer, name: str) -> onnx.ModelProto:
    changed = apply(model, [layer], {layer.name: name}, calibrated(model, layer, name))
    onnx.checker.check_model(changed)
    return changed


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


FLOAT = TensorProto.FLOAT


def one_node(make_model: Make, op_type: str, seed: int = 0, **attributes: object) -> onnx.ModelProto:
    """A model of one layer, input `x` with rows on its first axis (second for recurrent ops)."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1]).astype(np.float32)

    if op_type in ("LSTM", "GRU", "RNN"):
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        constants = {
            "W": normal(directions, gates * 16, 8),
            "R": normal(directions, gates * 16, 16),
            "B": normal(directions, 2 * gates * 16),
        }
        node = helper.make_node(op_type, ["x", "W", "R", "B"], ["y"], "node", hidden_size=16, **attributes)
        return make_model([node], {"x": (FLOAT, ["time", "batch", 8])}, {"y": None}, constants)
    if op_type == "Conv":
        images = len(attributes.get("pads", [])) == 4
        constants = {"W": normal(6, 3, 5, 5) if images else normal(6, 3, 5), "B": normal(6)}
        node = helper.make_node("Conv", ["x", "W", "B"], ["y"], "node", **attributes)
        shape = ["batch", 3, "time", 7] if images else ["batch", 3, "time"]
        return make_model([node], {"x": (FLOAT, shape)}, {"y": None}, constants)
    if op_type in ("Scan", "Loop", "If"):
        return with_body(make_model, op_type)
    if op_type == "Gather":
        node = helper.make_node("Gather", ["table", "x"], ["y"], "node", **attributes)
        constants = {"table": normal(50, 20) * np.exp(random.standard_normal((50, 1))).astype(np.float32)}
        return make_model([node], {"x": (TensorProto.INT64, ["batch", "time"])}, {"y": None}, constants)
    shape = (12, 8) if attributes.get("transB") else (8, 12)
    constants = {"B": normal(*shape)}
    if op_type == "Gemm":
        # A bias of each row is no bias of each output.
        constants["C"] = normal(4, 12) if attributes.pop("rows_differ", False) else normal(12)
    inputs = ["x", *constants]
    node = helper.make_node(op_type, inputs, ["y"], "node", **attributes)
    return make_model([node], {"x": (FLOAT, ["batch", 8])}, {"y": None}, constants)


def feed_for(model: onnx.ModelProto, rows: int = 4, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    axes = model.graph.input[0].type.tensor_type.shape.dim
    shape = [{"batch": rows, "time": 9}.get(axis.dim_param, axis.dim_value) for axis in axes]
    if model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64:
        return {"x": random.integers(-50, 50, shape)}
    return {"x": random.standard_normal(shape).astype(np.float32)}


def with_body(make_model: Make, op_type: str) -> onnx.ModelProto:
    """A model of one Scan, Loop or If that multiplies by constant matrices, by MatMul and by Gemm."""
    random = np.random.default_rng(0)
    matrix = [random.standard_normal((16, 16)).astype(np.float32) / 4 for _ in range(2)]
    value = helper.make_tensor_value_info
    products = [
        helper.make_node("MatMul", ["h", "recurrent"], ["product"]),
        helper.make_node("Gemm", ["x_t", "other", "product"], ["sum"], transB=1),
        helper.make_node("Tanh", ["sum"], ["h_next"]),
    ]
    states = {"recurrent": matrix[0], "other": matrix[1], "h0": np.full((4, 16), 0.5, np.float32)}
    step = [value(name, FLOAT, ["batch", 16]) for name in ("h", "x_t", "h_next", "y_t")]
    if op_type == "Scan":
        body = helper.make_graph(
            [*products, helper.make_node("Identity", ["h_next"], ["y_t"])], "step", step[:2], step[2:]
        )
        node = helper.make_node("Scan", ["h0", "x"], ["h_last", "y"], "node", body=body, num_scan_inputs=1)
        return make_model([node], {"x": (FLOAT, ["time", 4, 16])}, {"y": None}, states)
    if op_type == "Loop":
        taken = helper.make_node("Gather", ["x", "i"], ["x_t"])
        kept = helper.make_node("Identity", ["going"], ["still"])
        flags = [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])]
        body = helper.make_graph(
            [taken, *products, kept, helper.make_node("Identity", ["h_next"], ["y_t"])],
            "step",
            [*flags, step[0]],
            [value("still", TensorProto.BOOL, []), *step[2:]],
        )
        node = helper.make_node("Loop", ["steps", "true", "h0"], ["h_last", "y"], "node", body=body)
        states |= {"steps": np.array(9), "true": np.array(True)}
        return make_model([node], {"x": (FLOAT, ["time", 4, 16])}, {"y": None}, states)
    branches = {}
    for name, first in (("then_branch", "recurrent"), ("else_branch", "other")):
        made = helper.make_node("MatMul", ["x", first], [f"{name}_y"])
        branches[name] = helper.make_graph([made], name, [], [value(f"{name}_y", FLOAT, ["time", 4, 16])])
    node = helper.make_node("If", ["true"], ["y"], "node", **branches)
    constants = {"recurrent": matrix[0], "other": matrix[1], "true": np.array(True)}
    return make_model([node], {"x": (FLOAT, ["time", 4, 16])}, {"y": None}, constants)


RELU = {"activations": ["Relu"]}
LAYERS = {
    "LSTM": ("LSTM", {}),
    "LSTM reverse": ("LSTM", {"direction": "reverse"}),
    "LSTM bidirectional": ("LSTM", {"direction": "bidirectional"}),
    "GRU": ("GRU", {"linear_before_reset": 1}),
    "GRU bidirectional": ("GRU", {"direction": "bidirectional"}),
    "RNN": ("RNN", {}),
    "RNN relu": ("RNN", RELU),
    "MatMul": ("MatMul", {}),
    "Gemm": ("Gemm", {}),
    "Gemm transposed": ("Gemm", {"transB": 1}),
    "Gemm scaled": ("Gemm", {"alpha": 0.5, "beta": 2.0}),
    "Gemm scaled, bias by rows": ("Gemm", {"beta": 2.0, "transB": 1, "rows_differ": True}),
    "Conv": ("Conv", {"pads": [2, 2]}),
    "Conv of images": ("Conv", {"pads": [2, 2, 0, 0], "strides": [1, 2], "group": 1}),
    "Scan": ("Scan", {}),
    "Loop": ("Loop", {}),
    "If": ("If", {}),
    "Gather": ("Gather", {}),
}


def declines(name: str, attributes: dict[str, object]) -> bool:
    """Whether a test of its own shows that the form does not take the layer."""
    if name.startswith("dynamic-int8") and attributes.get("alpha", attributes.get("beta")) is not None:
        return True
    return attributes == RELU and name.startswith("steps-int8-bounded")


CASES = [
    pytest.param(op_type, attributes, name, id=f"{case} {name}")
    for case, (op_type, attributes) in LAYERS.items()
    for name, candidate in CANDIDATES.items()
    if op_type in candidate.op_types and not declines(name, attributes)
]
BODIES = ("Scan", "Loop", "If")


@pytest.mark.parametrize(("op_type", "attributes", "name"), CASES)
def test_a_form_is_near_fp32_but_not_equal_to_it(
    make_model: Make, op_type: str, attributes: dict[str, object], name: str
) -> None:
    model = one_node(make_model, op_type, **attributes)
    layer = only_layer(model, op_type)
    changed = in_form(model, layer, name)
    feed = feed_for(model)
    error = relative_error(answers(changed, feed), answers(model, feed))
    # Equal answers would mean that nothing was quantized.
    assert 0 < error < largest_error(name)
    # Float weights left in the graph would mean that nothing was saved.
    floats = {tensor.name for tensor in changed.graph.initializer if tensor.data_type == FLOAT}
    assert not floats & set(layer.weights)


# Rows of a lookup are chosen by id, so there is no value to enlarge.
@pytest.mark.parametrize(("op_type", "attributes", "name"), [case for case in CASES if case.values[0] != "Gather"])
def test_rows_are_independent_exactly_where_a_form_says_so(
    make_model: Make, op_type: str, attributes: dict[str, object], name: str
) -> None:
    model = one_node(make_model, op_type, **attributes)
    layer = only_layer(model, op_type)
    session = open_session(serialize(in_form(model, layer, name)), threads=1)
    feed = feed_for(model, rows=4 if attributes.get("rows_differ") else 2)
    batch_axis = 1 if op_type in ("LSTM", "GRU", "RNN", *BODIES) else 0
    enlarged = np.moveaxis(feed["x"].copy(), batch_axis, 0)
    enlarged[1] *= 1000
    with_loud_neighbour = np.moveaxis(enlarged, 0, batch_axis)
    # Outputs of recurrent ops are (time, directions, batch, units), of those with bodies here (time, batch, units).
    row = (0,) if not batch_axis else (slice(None), 0) if op_type in BODIES else (slice(None), slice(None), 0)
    quiet, loud = (session.run(None, {"x": np.ascontiguousarray(x)})[0][row] for x in (feed["x"], with_loud_neighbour))
    if CANDIDATES[name].rows_independent:
        # Matrix products of another batch may add in another order: a few roundings of float32.
        np.testing.assert_allclose(loud, quiet, rtol=0, atol=1e-6 * np.abs(quiet).max())
    else:
        assert relative_error(loud, quiet) > 0.1


def test_stored_weights_compute_what_the_decoded_numbers_compute(make_model: Make) -> None:
    model = one_node(make_model, "GRU", direction="bidirectional")
    layer = only_layer(model, "GRU")
    changed = apply(model, [layer], {layer.name: "int8-weights"})
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    by_hand = onnx.ModelProto()
    by_hand.CopyFrom(model)
    for tensor in by_hand.graph.initializer:
        if tensor.name in layer.weights:
            assert tensors[f"{tensor.name}/int8"].dtype == np.int8
            # One scale for each direction and unit of each gate.
            assert tensors[f"{tensor.name}/scale"].shape == (2, 48, 1)
            decoded = tensors[f"{tensor.name}/int8"] * tensors[f"{tensor.name}/scale"]
            exact = layer.constants[tensor.name]
            assert (np.abs(decoded - exact) <= tensors[f"{tensor.name}/scale"] * 0.5001).all()
            tensor.CopyFrom(numpy_helper.from_array(decoded, tensor.name))
    feed = feed_for(model)
    np.testing.assert_array_equal(answers(changed, feed), answers(by_hand, feed))


def test_an_embedding_has_a_scale_a_row_and_keeps_int8_in_memory(make_model: Make) -> None:
    model = one_node(make_model, "Gather")
    layer = only_layer(model, "Gather")
    changed = apply(model, [layer], {layer.name: "int8-rows"})
    shapes = {tensor.name: tuple(tensor.dims) for tensor in changed.graph.initializer}
    assert shapes == {"table/int8": (50, 20), "table/scale": (50, 1)}
    assert op_types(changed) == ["Gather", "Gather", "Cast", "Mul"]
    # Rows of very different length: one scale for all of them loses the short ones.
    feed = feed_for(model)
    exact = answers(model, feed)
    whole = answers(apply(model, [layer], {layer.name: "int8-table"}), feed)
    rows = answers(changed, feed)
    assert relative_error(rows, exact) < 0.5 * relative_error(whole, exact)


def test_a_row_of_zeros_stays_zeros(make_model: Make) -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"], "node")
    table = np.zeros((3, 4), np.float32)
    table[1] = 1e-30
    model = make_model([node], {"x": (TensorProto.INT64, ["batch"])}, {"y": None}, {"table": table})
    layer = only_layer(model, "Gather")
    for name in ("int8-rows", "int8-weights"):
        found = answers(apply(model, [layer], {layer.name: name}), {"x": np.arange(3)})
        np.testing.assert_allclose(found, table, rtol=1e-6)


def test_what_replaces_an_lstm_is_onnxruntimes_quantized_lstm(make_model: Make) -> None:
    model = one_node(make_model, "LSTM")
    layer = only_layer(model, "LSTM")
    changed = apply(model, [layer], {layer.name: "dynamic-int8"})
    assert op_types(changed) == ["DynamicQuantizeLSTM"]
    assert {entry.domain: entry.version for entry in changed.opset_import} == {"": 18, "com.microsoft": 1}


def test_the_same_plan_gives_the_same_bytes(make_classifier: Make) -> None:
    plan = {
        "embedding/Gather_0": "int8-rows",
        "rnn/fused_2": "dynamic-int8",
        "dense/Gemm_5": "dynamic-int8-per-channel",
    }
    contents = set()
    for _ in range(3):
        model = make_classifier()
        contents.add(serialize(apply(model, find_layers(model)[0], plan)))
    assert len(contents) == 1


def test_the_given_model_is_left_as_it_was(make_classifier: Make) -> None:
    model = make_classifier()
    before = serialize(model)
    layers, _ = find_layers(model)
    plain = {layer.name: [entry.name for entry in candidates_for(layer) if not entry.calibration] for layer in layers}
    apply(model, layers, {layer: names[0] for layer, names in plain.items()})
    assert serialize(model) == before


def test_onnxruntimes_quantizer_leaves_the_users_logging_alone(
    make_model: Make, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = list(logging.getLogger().handlers)
    model = one_node(make_model, "LSTM")
    layer = only_layer(model, "LSTM")
    apply(model, [layer], {layer.name: "dynamic-int8"})
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize(
    ("op_type", "attributes", "name", "reason"),
    [
        ("Gemm", {"alpha": 0.5}, "dynamic-int8", "onnxruntime's quantizer leaves this Gemm as it is"),
        ("Gemm", {"beta": 0.5}, "dynamic-int8-7-bit", "onnxruntime's quantizer leaves this Gemm as it is"),
        ("Gather", {"axis": 1}, "int8-rows", "it gathers along axis 1 of an array of rank 2, not rows of a table"),
        ("Gather", {"axis": 1}, "int8-table", "it gathers along axis 1 of an array of rank 2, not rows of a table"),
    ],
)
def test_a_form_that_does_not_fit_declines_with_the_reason(
    make_model: Make, op_type: str, attributes: dict[str, object], name: str, reason: str
) -> None:
    model = one_node(make_model, op_type, **attributes)
    layer = only_layer(model, op_type)
    with pytest.raises(Declined) as raised:
        apply(model, [layer], {layer.name: name})
    assert str(raised.value) == reason


def test_batch_first_lstm_is_declined_because_the_quantizer_drops_the_layout(make_model: Make) -> None:
    model = one_node(make_model, "LSTM")
    model.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    layer = only_layer(model, "LSTM")
    with pytest.raises(Declined, match="layout=1"):
        apply(model, [layer], {layer.name: "dynamic-int8"})


def test_half_precision_declines_values_it_cannot_hold(make_model: Make) -> None:
    kernel = np.full((8, 12), 70000, np.float32)
    node = helper.make_node("MatMul", ["x", "B"], ["y"], "node")
    model = make_model([node], {"x": (FLOAT, ["batch", 8])}, {"y": None}, {"B": kernel})
    layer = only_layer(model, "MatMul")
    with pytest.raises(Declined, match="values beyond float16's 65504"):
        apply(model, [layer], {layer.name: "float16-weights"})


def test_nodes_that_share_their_weights_are_one_layer_and_stored_once(make_model: Make) -> None:
    """A layer called twice."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "B"], ["y"], "first"),
        helper.make_node("MatMul", ["y", "B"], ["z"], "second"),
        helper.make_node("MatMul", ["x", "B"], ["w"], "third"),
    ]
    constants = {"B": random.standard_normal((8, 8)).astype(np.float32)}
    model = make_model(nodes, {"x": (FLOAT, ["batch", 8])}, {"z": None, "w": None}, constants)
    layers, _ = find_layers(model)
    assert [(layer.name, len(layer.nodes)) for layer in layers] == [("first", 3)]
    feed = feed_for(model)
    for candidate in candidates_for(layers[0]):
        changed = in_form(model, layers[0], candidate.name)
        # As int8, in blocks of 8 bits, or of 4.
        numbers = [
            tensor
            for tensor in changed.graph.initializer
            if tensor.data_type != FLOAT and not tensor.name.endswith("/zeros")
        ]
        matrices = [tensor for tensor in numbers if len(tensor.dims) > 1 and tensor.dims[0] == 8]
        assert len(matrices) == 1
        assert relative_error(answers(changed, feed), answers(model, feed)) < largest_error(candidate.name)


def test_forms_that_make_one_weight_differently_are_declined(make_model: Make) -> None:
    """Embedding and output kernel that are one table."""
    table = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["vectors"], "embedding"),
        helper.make_node("Gemm", ["h", "table"], ["y"], "output", transB=1),
        helper.make_node("ReduceMean", ["vectors"], ["h"], "mean", keepdims=0, axes=[1]),
    ]
    nodes = [nodes[0], nodes[2], nodes[1]]
    inputs = {"x": (TensorProto.INT64, ["batch", "time"])}
    model = make_model(nodes, inputs, {"y": None}, {"table": table}, opset=17)
    layers, _ = find_layers(model)
    assert [layer.op_type for layer in layers] == ["Gather", "Gemm"]
    feed = {"x": np.arange(6).reshape(2, 3)}
    both = apply(model, layers, {"embedding": "int8-weights", "output": "int8-weights"})
    assert relative_error(answers(both, feed), answers(model, feed)) < INT8_ERROR
    assert [tensor.name for tensor in both.graph.initializer] == ["table/int8", "table/scale"]
    with pytest.raises(Declined, match="makes the value 'table' in another way"):
        apply(model, layers, {"embedding": "int8-weights", "output": "float16-weights"})


def test_weights_read_in_a_scans_body_are_stored_smaller(make_model: Make) -> None:
    random = np.random.default_rng(0)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "recurrent"], ["product"]),
            helper.make_node("Add", ["product", "x_t"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["y_t"]),
        ],
        "step",
        [helper.make_tensor_value_info(name, FLOAT, ["batch", 16]) for name in ("h", "x_t")],
        [helper.make_tensor_value_info(name, FLOAT, ["batch", 16]) for name in ("h_next", "y_t")],
    )
    node = helper.make_node("Scan", ["h0", "x"], ["h_last", "y"], "scan", body=body, num_scan_inputs=1)
    constants = {
        "recurrent": random.standard_normal((16, 16)).astype(np.float32) / 4,
        "h0": np.zeros((3, 16), np.float32),
    }
    model = make_model([node], {"x": (FLOAT, ["time", 3, 16])}, {"y": None}, constants)
    layer = only_layer(model, "Scan")
    assert list(layer.weights) == ["recurrent"]
    feed = feed_for(model)
    for name in ("int8-weights", "float16-weights"):
        changed = apply(model, [layer], {layer.name: name})
        onnx.checker.check_model(changed)
        assert 0 < relative_error(answers(changed, feed), answers(model, feed)) < INT8_ERROR
        assert "recurrent" not in {tensor.name for tensor in changed.graph.initializer}


def test_weights_that_are_not_constant_are_left_alone_and_said(make_model: Make) -> None:
    model = one_node(make_model, "LSTM")
    model.graph.input.append(helper.make_tensor_value_info("R", FLOAT, [1, 64, 16]))
    layers, notes = find_layers(model)
    assert layers == ()
    assert notes == ("LSTM 'node' is left as it is: its weights are not float32 constants.",)
