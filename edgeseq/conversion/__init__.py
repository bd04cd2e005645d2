"""Keras models to ONNX: load, trace, convert, lower, finish, verify."""

from __future__ import annotations

from edgeseq.errors import MissingExtra

try:
    from edgeseq.conversion.exporting import export
    from edgeseq.conversion.report import ExportReport
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "h5py"):
        raise
    raise MissingExtra(str(error.name), "export", "exporting a Keras model") from error

__all__ = ["ExportReport", "export"]
