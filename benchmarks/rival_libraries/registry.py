"""All rivals in the order they are shown, Keras's `predict` first: its answers are the reference."""

from __future__ import annotations

from rival_libraries import keras_rivals, litert, onnx_files, onnxruntime_int8, openvino_rivals, ours, pytorch

RIVALS = {
    rival.name: rival
    for module in (keras_rivals, onnx_files, litert, openvino_rivals, pytorch, onnxruntime_int8, ours)
    for rival in module.RIVALS
}
