"""What CUDA's own kernels take, asked of the real onnxruntime-gpu: the lowering for `target="cuda"` keeps all of a
recurrent layer there, and what the lowering for the CPU would lose is what the rules say.

Asked for by scripts/test --gpu-wheel. The GPU is pretended: placing nodes computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers as L

import edgeseq

pytestmark = pytest.mark.gpu_wheel

# Ops that onnxruntime keeps on the host where they compute with shapes and lengths.
SHAPES = {"Concat", "Squeeze", "Unsqueeze", "Gather", "Shape", "Slice", "Cast", "Add", "Sub", "Mul", "Max", "Range"}

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    # name: layers of a model of (batch, time, 4), and the op that leaves the GPU when lowered for the CPU
    "lstm": (lambda: [L.LSTM(8)], ""),
    "lstm relu": (lambda: [L.LSTM(8, activation="relu")], "LSTM"),
    "lstm hard_sigmoid": (lambda: [L.LSTM(8, recurrent_activation="hard_sigmoid")], "LSTM"),
    "gru": (lambda: [L.GRU(8)], ""),
    "gru reset before": (lambda: [L.GRU(8, reset_after=False)], "GRU"),
    "gru gelu": (lambda: [L.GRU(8, activation="gelu")], ""),
    "rnn": (lambda: [L.SimpleRNN(8)], ""),
    "rnn relu": (lambda: [L.SimpleRNN(8, activation="relu")], "RNN"),
    "masked": (lambda: [L.Masking(), L.LSTM(8, return_sequences=True), L.GRU(4)], ""),
    "bidirectional": (lambda: [L.Masking(), L.Bidirectional(L.GRU(8, return_sequences=True)), L.Dense(3)], ""),
    "bidirectional relu": (lambda: [L.Bidirectional(L.LSTM(8, activation="relu"))], "LSTM"),
    "convolution": (lambda: [L.Conv1D(8, 3), L.MaxPooling1D(2), L.LSTM(8)], ""),
    "normalised": (lambda: [L.LSTM(8, return_sequences=True), L.LayerNormalization(), L.GlobalAveragePooling1D()], ""),
}


@pytest.fixture(scope="module")
def placed(place_on_cuda: Any, tmp_path_factory: Any) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """Name, op type and provider of every node, by case and target."""
    folder: Path = tmp_path_factory.mktemp("models")
    paths: dict[tuple[str, str], Path] = {}
    for number, (case, (layers, _)) in enumerate(CASES.items()):
        model = keras.Sequential([L.Input((None, 4)), *layers()])
        for target in ("cpu", "cuda"):
            paths[case, target] = folder / f"{number}-{target}.onnx"
            edgeseq.export(model, paths[case, target], target=target)
    model = keras.Sequential([L.Input((5, 8, 8, 1)), L.ConvLSTM2D(4, 3, padding="same")])
    paths["convlstm", "cuda"] = folder / "convlstm.onnx"
    edgeseq.export(model, paths["convlstm", "cuda"], target="cuda")
    model = keras.Sequential([L.Input((None, 4)), L.GRU(8, return_sequences=True), L.LSTM(4)])
    paths["streaming", "cuda"] = folder / "streaming.onnx"
    edgeseq.export(model, paths["streaming", "cuda"], target="cuda", streaming=True)
    found = place_on_cuda(list(paths.values()))
    return {case: found[path] for case, path in paths.items()}


@pytest.mark.parametrize("case", [*CASES, "convlstm", "streaming"])
def test_what_is_lowered_for_cuda_stays_there(placed: Any, case: str) -> None:
    nodes = placed[case, "cuda"]
    on_host = {op for _, op, provider in nodes if provider != "CUDAExecutionProvider"}
    assert on_host <= SHAPES
    assert len([op for _, op, _ in nodes if op in SHAPES]) < len(nodes)
    assert sum(provider == "CUDAExecutionProvider" for _, _, provider in nodes) > len(nodes) / 2


@pytest.mark.parametrize("case", CASES)
def test_what_is_lowered_for_the_cpu_leaves_where_the_rules_say(placed: Any, case: str) -> None:
    lost = {op for _, op, provider in placed[case, "cpu"] if provider != "CUDAExecutionProvider"} - SHAPES
    assert lost == ({CASES[case][1]} if CASES[case][1] else set())
