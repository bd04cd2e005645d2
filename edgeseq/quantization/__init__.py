"""Smaller and faster files within an accuracy budget: every layer's possible forms are measured, the best are kept."""

from __future__ import annotations

from edgeseq.errors import MissingExtra

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
except ModuleNotFoundError as error:
    package, extra = ("onnxruntime", "cpu") if error.name == "onnxruntime" else (error.name or "onnx", "quantize")
    raise MissingExtra(package, extra, "quantizing a model") from error

from edgeseq.quantization.pipeline import quantize
from edgeseq.quantization.report import CandidateReport, LayerReport, QuantizationReport, SpeedRatio

__all__ = ["CandidateReport", "LayerReport", "QuantizationReport", "SpeedRatio", "quantize"]
