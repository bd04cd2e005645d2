"""The rules of placement, on small nodes made by hand. tests/environments holds CUDA's against the real provider."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeseq
from edgeseq.errors import InvalidFile, MissingInput, WrongUsage
from edgeseq.prediction import PredictedNode, Prediction, disagreements, kernels, predict, surprises
from edgeseq.runtime.placement import PlacedNode, Placement

CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"
FLOAT, DOUBLE, HALF, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64
LENGTHS = {"LSTM": 4, "GRU": 3, "RNN": 1}


def model(
    nodes: list[Any], inputs: dict[str, tuple[int, Any]], weights: dict[str, Any] | None = None, opset: int = 18
) -> onnx.ModelProto:
    """A model of `nodes` with inputs of (type, shape) and `weights`; what the last node puts out is its output."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    output = helper.make_tensor_value_info(nodes[-1].output[0], 0, None)
    output.type.Clear()
    graph = helper.make_graph(nodes, "g", values, [output], constants)
    domains = {"": opset, **{node.domain: 1 for node in nodes if node.domain}}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*item) for item in domains.items()])


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node of layer ``layer``; its inputs with spaces between, ``_`` for one left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, output.split(), name=f"layer/{op}_{output.split()[0]}", **attributes)


def recurrent(op: str, dtype: Any = np.float32, inputs: str = "x w r", **attributes: Any) -> onnx.ModelProto:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = LENGTHS[op]
    weights = {
        "w": np.zeros((directions, gates * 3, 2), dtype),
        "r": np.zeros((directions, gates * 3, 3), dtype),
        "p": np.zeros((directions, 9), dtype),
    }
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model([node(op, inputs, hidden_size=3, **attributes)], {"x": (kind, ("t", "b", 2))}, weights)


def only(made: onnx.ModelProto, target: str) -> PredictedNode:
    [found] = predict(made, target).nodes
    return found


STEPS = "--target cuda"
TANH = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}

ON_CUDA = {
    "lstm": recurrent("LSTM"),
    "lstm float64": recurrent("LSTM", np.float64),
    "lstm float16": recurrent("LSTM", np.float16),
    "activations named": recurrent("LSTM", activations=TANH["LSTM"]),
    "activations in small letters": recurrent("LSTM", activations=["sigmoid", "tanh", "tanh"]),
    "both directions": recurrent("LSTM", direction="bidirectional", activations=TANH["LSTM"] * 2),
    "gru": recurrent("GRU", linear_before_reset=1),
    "rnn": recurrent("RNN", activations=["Tanh"]),
    "s8 x s8": model(
        [node("MatMulInteger", "x y", "z")], {"x": (TensorProto.INT8, (2, 2)), "y": (TensorProto.INT8, (2, 2))}
    ),
    "onnxruntime's own": model([node("FusedMatMul", "x x", domain="com.microsoft")], {"x": (FLOAT, (2, 2))}),
    "equal pads": model(
        [node("ConvTranspose", "x w", pads=[1, 1])], {"x": (FLOAT, (1, 1, 5))}, {"w": np.ones((1, 1, 3), "f")}
    ),
}

OFF_CUDA = {
    # name: model, what the reason names, what the rewrite names
    "lstm relu": (recurrent("LSTM", activations=["Sigmoid", "Relu", "Relu"]), "activations=Sigmoid, Relu, Relu", STEPS),
    "lstm backward relu": (
        recurrent("LSTM", direction="bidirectional", activations=[*TANH["LSTM"], "Sigmoid", "Relu", "Relu"]),
        "cuDNN has sigmoid, tanh, tanh only",
        STEPS,
    ),
    "gru relu": (recurrent("GRU", linear_before_reset=1, activations=["Sigmoid", "Relu"]), "activations", STEPS),
    "gru reset_after=False": (recurrent("GRU"), "linear_before_reset=0", STEPS),
    "rnn relu": (recurrent("RNN", activations=["Relu"]), "cuDNN has tanh only", STEPS),
    # The provider looks whether these are given, not at their values.
    "alpha": (recurrent("LSTM", activation_alpha=[0.0]), "activation_alpha is given", STEPS),
    "beta": (recurrent("GRU", linear_before_reset=1, activation_beta=[0.5]), "activation_beta is given", STEPS),
    "clip": (recurrent("RNN", clip=0.0), "clip is given", STEPS),
    "input_forget": (recurrent("LSTM", input_forget=1), "input_forget=1", STEPS),
    "peepholes": (recurrent("LSTM", inputs="x w r _ _ _ _ p"), "peepholes (input P)", STEPS),
    "layout": (recurrent("LSTM", layout=1), "layout=1", "Transpose"),
    "u8 x s8": (
        model([node("MatMulInteger", "x y", "z")], {"x": (TensorProto.UINT8, (2, 2)), "y": (TensorProto.INT8, (2, 2))}),
        "does not take uint8 there, but int8",
        "float32 or float16",
    ),
    "dynamic int8": (
        model([node("DynamicQuantizeLinear", "x", "y s z")], {"x": (FLOAT, (2, 2))}),
        "no kernel for DynamicQuantizeLinear",
        "float32 or float16",
    ),
    "int8 lstm": (
        model([node("DynamicQuantizeLSTM", "x x x", domain="com.microsoft")], {"x": (FLOAT, (2, 2))}),
        "no kernel for DynamicQuantizeLSTM",
        "float32 or float16",
    ),
    "no kernel at all": (model([node("Det", "x")], {"x": (FLOAT, (2, 2))}), "no kernel for Det", "cuda,cpu"),
    "unequal pads": (
        model([node("ConvTranspose", "x w", pads=[0, 1])], {"x": (FLOAT, (1, 1, 5))}, {"w": np.ones((1, 1, 3), "f")}),
        "pads=[0, 1]",
        "equal pads",
    ),
    "computed pads": (
        model(
            [node("ConvTranspose", "x w", auto_pad="SAME_UPPER")],
            {"x": (FLOAT, (1, 1, 5))},
            {"w": np.ones((1, 1, 3), "f")},
        ),
        "auto_pad=SAME_UPPER",
        "equal pads",
    ),
    "last of equals": (
        model([node("ArgMax", "x", select_last_index=1)], {"x": (FLOAT, (2, 2))}),
        "select_last_index=1",
        "select_last_index=0",
    ),
}


@pytest.mark.parametrize("case", ON_CUDA)
def test_cuda_takes(case: str) -> None:
    found = only(ON_CUDA[case], "cuda")
    assert (found.provider, found.reason, found.rewrite) == ("cuda", "", "")


@pytest.mark.parametrize("case", OFF_CUDA)
def test_cuda_leaves(case: str) -> None:
    made, reason, rewrite = OFF_CUDA[case]
    found = only(made, "cuda")
    assert found.provider == "cpu"
    assert reason in found.reason
    assert rewrite in found.rewrite
    assert found.layer == "layer"


OFF_TENSORRT = {
    "input_forget": (recurrent("LSTM", input_forget=1), "input_forget=1"),
    "layout": (recurrent("GRU", layout=1), "layout=1"),
    "unlike directions": (
        recurrent("RNN", direction="bidirectional", activations=["Tanh", "Relu"]),
        "the same in both directions only",
    ),
    "affine": (recurrent("RNN", activations=["Affine"]), "Affine"),
    "float64": (recurrent("LSTM", np.float64), "float64"),
    "onnxruntime's own": (
        model([node("FusedMatMul", "x x", domain="com.microsoft")], {"x": (FLOAT, (2, 2))}),
        "does not take com.microsoft::FusedMatMul",
    ),
    "dynamic int8": (model([node("DynamicQuantizeLinear", "x", "y s z")], {"x": (FLOAT, (2, 2))}), "does not take Dyn"),
    "integers": (model([node("MatMul", "x x")], {"x": (INT64, (2, 2))}), "MatMul does not take int64, but bfloat16"),
    "computed axis": (model([node("CumSum", "x a")], {"x": (FLOAT, (2, 2)), "a": (INT64, ())}), "axis is computed"),
    "many": (model([node("TopK", "x k", "y i")], {"x": (FLOAT, (9999,))}, {"k": np.array([4000])}), "K=4000"),
    "unsorted": (
        model([node("TopK", "x k", "y i", sorted=0)], {"x": (FLOAT, (9,))}, {"k": np.array([4])}),
        "sorts only",
    ),
    "uneven": (
        model(
            [node("DequantizeLinear", "x s z")],
            {"x": (TensorProto.INT8, (2,))},
            {"s": np.float32(1), "z": np.int8(3)},
        ),
        "zero point is not 0",
    ),
}


@pytest.mark.parametrize("case", OFF_TENSORRT)
def test_tensorrt_leaves(case: str) -> None:
    made, reason = OFF_TENSORRT[case]
    found = only(made, "tensorrt")
    assert found.provider == "not tensorrt"
    assert reason in found.reason


@pytest.mark.parametrize(
    "made",
    [
        recurrent("LSTM", activations=["Sigmoid", "Relu", "Relu"]),
        recurrent("LSTM", inputs="x w r _ _ _ _ p", clip=1.0),
        recurrent("GRU"),
        model([node("CumSum", "x a")], {"x": (TensorProto.INT32, (2, 2))}, {"a": np.array(0)}),
    ],
)
def test_tensorrt_takes(made: onnx.ModelProto) -> None:
    assert only(made, "tensorrt").provider == "tensorrt"


def test_what_was_not_changed_since_has_the_older_kernel() -> None:
    assert kernels.why_not_cuda("LSTM", "", 14, [("X", "T", "float")]) == ""
    # An open-ended kernel is for the opset it is registered for alone: a later change may be another op.
    assert "as of opset 99" in kernels.why_not_cuda("LSTM", "", 99, [("X", "T", "float")])


def reshaping() -> onnx.ModelProto:
    """x reshaped to (batch, time x 2), by arithmetic on its shape: (batch, time, 2) -> Shape, Gather, Mul, Concat."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Gather", "shape one", "time", axis=0),
        node("Mul", "time two", "wide"),
        node("Concat", "batch wide", "to", axis=0),
        node("Reshape", "x to", "flat"),
        node("Cast", "wide", "number", to=FLOAT),
        node("Div", "flat number", "y"),
    ]
    weights = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    return model(nodes, {"x": (FLOAT, ("batch", "time", 2))}, weights)


def test_arithmetic_on_shapes_is_on_the_host() -> None:
    prediction = predict(reshaping(), "cuda")
    on_host = [item.op_type for item in prediction.nodes if item.provider == "cpu"]
    # The Reshape has its data on the GPU, and its kernel reads the shape on the host.
    assert on_host == ["Gather", "Gather", "Mul", "Concat", "Cast"]
    assert [item.op_type for item in prediction.host] == ["Gather", "Gather", "Mul", "Concat"]
    assert all("keeps on the host" in item.reason and not item.rewrite for item in prediction.host)
    # A length as a floating-point number is one that strict placement refuses.
    assert [item.op_type for item in prediction.leaving] == ["Cast"]
    assert prediction.counts == {"cpu": 5, "cuda": 3}


def test_constants_and_fixed_shapes_are_left_out() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], name="c", value=numpy_helper.from_array(np.array([2]))),
        node("Add", "c c", "four"),
        node("Shape", "x", "shape"),
        node("Reshape", "x shape", "same"),
        node("Expand", "same four", "y"),
    ]
    prediction = predict(model(nodes, {"x": (FLOAT, (1,))}), "cuda")
    assert [item.op_type for item in prediction.nodes] == ["Reshape", "Expand"]


def looping(op: str, *, fixed: bool) -> onnx.ModelProto:
    """A Loop that doubles a state by `op` and collects it, a fixed number of times or as often as an input says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"], name="layer/go"),
            helper.make_node(op, ["s", "s"], ["t"], name="layer/double"),
            helper.make_node("Identity", ["t"], ["each"], name="layer/each"),
        ],
        "body",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (("i", INT64, ()), ("go", TensorProto.BOOL, ()), ("s", FLOAT, (2, 2)))
        ],
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (("goes", TensorProto.BOOL, ()), ("t", FLOAT, (2, 2)), ("each", FLOAT, (2, 2)))
        ],
    )
    inputs: dict[str, Any] = {"x": (FLOAT, (2, 2))} | ({} if fixed else {"n": (INT64, ())})
    weights = {"n": np.array(3)} if fixed else {}
    return model([node("Loop", "n _ x", "last all", body=body)], inputs, weights)


def test_bodies_are_looked_into() -> None:
    prediction = predict(looping("Add", fixed=True), "cuda")
    assert [item.name for item in prediction.nodes] == ["layer/Loop_last", "layer/go", "layer/double", "layer/each"]
    assert prediction.counts == {"cuda": 4}
    assert [item.floating for item in prediction.nodes] == [True, False, True, True]


def test_tensorrt_takes_a_loop_with_all_of_its_body_or_not_at_all() -> None:
    assert predict(looping("Add", fixed=True), "tensorrt").counts == {"tensorrt": 4}
    prediction = predict(looping("BitwiseAnd", fixed=True), "tensorrt")
    assert [item.provider for item in prediction.nodes] == ["not tensorrt", "tensorrt", "not tensorrt", "tensorrt"]
    assert "only with all of its body, and there: TensorRT does not take BitwiseAnd" in prediction.nodes[0].reason
    computed = predict(looping("Add", fixed=False), "tensorrt").nodes[0]
    assert "a fixed number only" in computed.reason
    assert "edgeseq" in computed.rewrite


def test_types_reach_beyond_other_domains_ops() -> None:
    nodes = [node("FusedMatMul", "x w", "half", domain="com.microsoft"), node("Cos", "half", "y")]
    made = model(nodes, {"x": (HALF, (2, 2))}, {"w": np.zeros((2, 2), np.float16)})
    assert [item.floating for item in predict(made, "cuda").nodes] == [True, True]
    assert predict(made, "cuda").counts == {"cuda": 2}


def test_functions_of_the_file_are_looked_into() -> None:
    body = helper.make_function(
        "mine", "F", ["a"], ["b"], [helper.make_node("Det", ["a"], ["b"], name="inner")], [helper.make_opsetid("", 18)]
    )
    made = model([node("F", "x", domain="mine")], {"x": (FLOAT, (2, 2))})
    made.functions.append(body)
    assert "no kernel for Det" in only(made, "cuda").reason


def test_large_weights_are_not_needed(tmp_path: Path) -> None:
    made = model([node("MatMul", "x w")], {"x": (FLOAT, ("b", 512))}, {"w": np.ones((512, 512), "f")})
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    assert only(onnx.load(tmp_path / "m.onnx", load_external_data=False), "cuda").provider == "cuda"
    assert predict(tmp_path / "m.onnx", "cuda").counts == {"cuda": 1}


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(WrongUsage, match="cuda, tensorrt; got 'nvidia'"):
        predict(tmp_path / "bad.onnx", "nvidia")
    with pytest.raises(InvalidFile):
        predict(tmp_path / "bad.onnx", "cuda")
    with pytest.raises(MissingInput):
        predict(tmp_path / "none.onnx", "cuda")


def test_a_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(OFF_CUDA["lstm relu"][0], path)
    path.write_bytes(path.read_bytes().replace(b"LSTM", b"LS\xffM"))
    for target in (None, "cuda"):
        with pytest.raises(InvalidFile, match="no text in UTF-8"):
            edgeseq.inspect(path, target)


def test_an_engine_of_tensorrt_is_tensorrts() -> None:
    engine = node("EPContext", "x", domain="com.microsoft", source=TENSORRT)
    assert predict(model([engine], {"x": (FLOAT, ["n", 2])}), "tensorrt").leaving == ()


def test_inspect_has_the_prediction(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(OFF_CUDA["lstm relu"][0], path)
    assert edgeseq.inspect(path).prediction is None
    prediction = edgeseq.inspect(path, "cuda").prediction
    assert prediction is not None
    assert prediction.target == "cuda"
    assert len(prediction.leaving) == 1
    assert prediction.rules == f"CUDA kernels of onnxruntime {kernels.cuda_version()}"
    with pytest.raises(WrongUsage, match="cuda, tensorrt"):
        edgeseq.inspect(path, "gpu")


def test_inspect_shows_outputs_that_are_no_tensors(tmp_path: Path) -> None:
    nodes = [node("Det", "x", "d"), node("SequenceConstruct", "x d", "y")]
    made = model(nodes, {"x": (FLOAT, (2, 2))})
    onnx.save(made, tmp_path / "untyped.onnx")
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    made.graph.output[0].type.CopyFrom(kind)
    onnx.save(made, tmp_path / "typed.onnx")
    assert [edgeseq.inspect(tmp_path / f"{name}.onnx").outputs[0].dtype for name in ("untyped", "typed")] == [
        "?",
        "sequence",
    ]


def predicted(name: str, op: str, provider: str, *, floating: bool = True, reason: str = "") -> PredictedNode:
    return PredictedNode(name=name, op_type=op, layer="layer", provider=provider, floating=floating, reason=reason)


def placement(*nodes: tuple[str, str, str], provider: str = CUDA) -> Placement:
    ran = [PlacedNode(name=name, op_type=op, layer="", provider=on, floating=True) for name, op, on in nodes]
    return Placement(requested=(provider,), nodes=tuple(ran))


def test_disagreements_name_the_node() -> None:
    nodes = (
        predicted("a/Gather", "Gather", "cpu", floating=False, reason="of shapes"),
        predicted("a/LSTM", "LSTM", "cuda"),
        predicted("a/MatMul", "MatMul", "cuda"),
        predicted("a/Quick", "com.microsoft::Quick", "cuda"),
        predicted("", "Add", "cuda"),
        predicted("twice", "Add", "cuda"),
        predicted("twice", "Add", "cuda"),
        predicted("gone", "Add", "cuda"),
        predicted("renamed", "Add", "cuda"),
    )
    ran = placement(
        ("a/Gather", "Gather", CUDA),
        ("a/LSTM", "LSTM", CPU),
        ("a/MatMul", "MatMul", CUDA),
        ("a/Quick", "Quick", CPU),
        ("", "Add", CPU),
        ("twice", "Add", CPU),
        ("fused gone", "Add", CPU),
        ("renamed", "FusedAdd", CPU),
    )
    assert disagreements(Prediction(target="cuda", rules="", nodes=nodes), ran) == (
        f"predicted on cuda, ran on {CPU}: LSTM 'a/LSTM' of layer 'layer'",
        f"predicted on cuda, ran on {CPU}: com.microsoft::Quick 'a/Quick' of layer 'layer'",
        f"predicted on cpu, ran on {CUDA}: Gather 'a/Gather' of layer 'layer' (of shapes)",
    )


def test_what_tensorrt_leaves_may_be_anywhere_else() -> None:
    prediction = Prediction(target="tensorrt", rules="", nodes=(predicted("a", "Det", "not tensorrt"),))
    for provider in (CUDA, CPU):
        assert disagreements(prediction, placement(("a", "Det", provider), provider=TENSORRT)) == ()
    [line] = disagreements(prediction, placement(("a", "Det", TENSORRT), provider=TENSORRT))
    assert line.startswith("predicted on not tensorrt, ran on TensorrtExecutionProvider: Det 'a'")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    nodes = [node("Cos", "x" if step == 0 else f"y{step - 1}", f"y{step}") for step in range(8)]
    onnx.save(model(nodes, {"x": (FLOAT, (2,))}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def ran_on(provider: str, steps: int) -> Placement:
    return placement(*[(f"layer/Cos_y{step}", "Cos", provider) for step in range(steps)])


def test_surprises_are_told_and_are_few(path: Path) -> None:
    assert surprises(path, ran_on(CUDA, 8)) == ()
    [line] = surprises(path, ran_on(CPU, 1))
    assert line == f"predicted on cuda, ran on {CPU}: Cos 'layer/Cos_y0' of layer 'layer'"
    lines = surprises(path, ran_on(CPU, 8))
    assert len(lines) == 6
    assert lines[-1] == "and 3 more nodes ran elsewhere than predicted"


def test_nothing_is_compared_elsewhere_before_a_run_or_without_onnx(path: Path, monkeypatch: Any) -> None:
    assert surprises(path, None) == ()
    assert surprises(path, placement(("layer/Cos_y0", "Cos", CPU), provider="OpenVINOExecutionProvider")) == ()
    assert surprises(path, placement(provider=CPU)) == ()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert surprises(path, ran_on(CPU, 8)) == ()


def test_a_prediction_that_cannot_be_made_breaks_no_run(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff")
    [line] = surprises(tmp_path / "bad.onnx", ran_on(CPU, 1))
    assert line.startswith("placement was not compared with a prediction: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.graph.node.add(op_type="Shape", output=["s"]), "IndexError"),
        (lambda made: made.graph.initializer.add(name="w", data_type=99), "ValueError"),
        (
            lambda made: made.graph.node.add(
                op_type="RNN",
                input=["x", "x", "x"],
                output=["r"],
                attribute=[onnx.helper.make_attribute("activations", 1.0)],
            ),
            "TypeError",
        ),
    ],
)
def test_a_graph_that_no_rule_can_read_breaks_no_run(path: Path, change: Any, reason: str) -> None:
    made = onnx.load(path)
    change(made)
    path.write_bytes(made.SerializeToString())
    [line] = surprises(path, ran_on(CPU, 1))
    assert line.startswith(f"placement was not compared with a prediction: {reason}: ")
