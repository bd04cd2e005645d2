"""Smaller and faster files within an accuracy budget: every layer's possible forms are measured, the best are kept."""

from __future__ import annotations

from edgeseq.errors import MissingExtra

try:
    import onnx  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtra("onnx", "quantize", "quantizing a model") from error

from edgeseq.quantization.pipeline import quantize
from edgeseq.quantization.report import CandidateReport, LayerReport, QuantizationReport, SpeedRatio

__all__ = ["CandidateReport", "LayerReport", "QuantizationReport", "SpeedRatio", "quantize"]
