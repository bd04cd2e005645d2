"""Which forms are for which processors, from what the system says of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantization.candidates import CANDIDATES, apply, candidates_for, unsuited_for
from edgeseq.quantization.forms.processors import Sums, reason_against, sums_of
from edgeseq.quantization.layers import find_layers

Make = Callable[..., onnx.ModelProto]


@pytest.mark.parametrize(
    ("architecture", "features", "sums"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), "wide"),
        ("x86_64", ("avx2", "avx_vnni"), "wide"),
        ("AMD64", ("amx_int8",), "wide"),
        ("x86_64", ("avx", "avx2", "fma", "avx512f"), "narrow"),
        # What is not known, as on Windows.
        ("AMD64", (), "narrow"),
        ("aarch64", ("asimd", "asimddp"), "wide"),
        ("arm64", (), "wide"),
        ("armv7l", (), "wide"),
    ],
)
def test_which_processors_sum_in_16_bits(architecture: str, features: tuple[str, ...], sums: str) -> None:
    assert sums_of(architecture, features) == sums


def gru(make_model: Make) -> onnx.ModelProto:
    constants = {"W": np.ones((1, 48, 8), np.float32), "R": np.ones((1, 48, 16), np.float32)}
    node = helper.make_node("GRU", ["x", "W", "R"], ["y"], "node", hidden_size=16)
    return make_model([node], {"x": (TensorProto.FLOAT, ["time", "batch", 8])}, {"y": None}, constants)


@pytest.mark.parametrize("sums", ["wide", "narrow"])
def test_a_form_that_can_overflow_has_weights_of_7_bits_there(make_model: Make, sums: Sums) -> None:
    [layer], _ = find_layers(gru(make_model))
    names = {entry.name for entry in candidates_for(layer, sums)}
    # Blocks add in 32 bits everywhere, and stored weights are no products.
    assert {"steps-8-bit-blocks", "steps-4-bit-blocks-32", "int8-weights"} <= names
    assert {name for name in names if "int8-dynamic" in name} == {
        "steps-int8-dynamic" if sums == "wide" else "steps-int8-dynamic-7-bit"
    }


def test_what_is_left_out_is_said(make_model: Make) -> None:
    [layer], _ = find_layers(gru(make_model))
    assert unsuited_for(layer, "wide") == {}
    left_out = unsuited_for(layer, "narrow")
    assert set(left_out) == {"steps-int8-bounded", "steps-int8-dynamic"}
    assert all("has no VNNI, or does not tell" in reason for reason in left_out.values())


def test_the_forms_that_multiply_8_bits_by_8_bits_come_in_pairs() -> None:
    wide = {name for name, entry in CANDIDATES.items() if entry.sums == "wide"}
    narrow = {name.removesuffix("-7-bit") for name, entry in CANDIDATES.items() if entry.sums == "narrow"}
    assert wide == narrow
    assert "cell-int8" in wide
    for name in wide:
        assert CANDIDATES[name].op_types == CANDIDATES[f"{name}-7-bit"].op_types


def test_why_a_form_is_not_used() -> None:
    assert reason_against("any", "narrow") == reason_against("wide", "wide") == ""
    assert "no VNNI" in reason_against("wide", "narrow")
    assert "needs no weights of 7 bits" in reason_against("narrow", "wide")


OPS = ("LSTM", "GRU", "RNN", "MatMul", "Gemm")


@pytest.mark.parametrize(
    ("op_type", "name"),
    [(op, name) for name, entry in CANDIDATES.items() for op in OPS if entry.sums == "narrow" and op in entry.op_types],
)
def test_no_number_of_7_bits_is_beyond_64(make_model: Make, op_type: str, name: str) -> None:
    random = np.random.default_rng(0)
    if op_type in ("MatMul", "Gemm"):
        constants = {"B": random.standard_normal((8, 12)).astype(np.float32)}
        node = helper.make_node(op_type, ["x", "B"], ["y"], "node")
        model = make_model([node], {"x": (TensorProto.FLOAT, ["batch", 8])}, {"y": None}, constants)
    else:
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
        constants = {
            "W": random.standard_normal((1, gates * 16, 8)).astype(np.float32),
            "R": random.standard_normal((1, gates * 16, 16)).astype(np.float32),
        }
        node = helper.make_node(op_type, ["x", "W", "R"], ["y"], "node", hidden_size=16)
        model = make_model([node], {"x": (TensorProto.FLOAT, ["time", "batch", 8])}, {"y": None}, constants)
    layers, _ = find_layers(model)
    parameters = {"node": {"x_low": -3.0, "x_high": 3.0}}
    changed = apply(model, layers, {"node": name}, parameters)
    integers = [entry for entry in changed.graph.initializer if entry.data_type == TensorProto.INT8 and entry.dims]
    matrices = [numpy_helper.to_array(entry).astype(int) for entry in integers if len(entry.dims) > 1]
    assert matrices
    assert all(np.abs(matrix).max() <= 64 for matrix in matrices)
