"""onnxruntime's own dynamic int8, of edgeseq's fp32 file."""

from __future__ import annotations

from rival_libraries.onnx_files import open_onnx
from rival_libraries.ours import BY_NAME, FP32
from rival_libraries.rival import Rival


def quantize(case, path, inputs, threads):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = case.converted(BY_NAME[FP32], inputs, threads)
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)


RIVALS = (
    Rival(
        name="onnxruntime dynamic int8, edgeseq's file", provider="onnxruntime", open=open_onnx, convert=quantize,
        precision="int8", file="onnxruntime_int8.onnx", per=("edgeseq",),
    ),
)  # fmt: skip
