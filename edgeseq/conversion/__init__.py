"""Keras models to ONNX: load, trace, convert, lower, finish, verify."""

from __future__ import annotations

import importlib
import sys

from edgeseq.errors import MissingExtra, Unavailable


def _check_backend() -> None:
    """Raise Unavailable where Keras runs on another backend than TensorFlow, installed or not."""
    cause = None
    try:
        importlib.import_module("keras")
    except (ImportError, ValueError) as error:
        # Keras reads its configuration before it imports the backend, so that it can still be asked.
        cause = error
    config = sys.modules.get("keras.src.backend.config")
    if config is not None and (backend := config.backend()) != "tensorflow":
        raise Unavailable(
            f"an export needs Keras on its TensorFlow backend, and Keras is set to the backend '{backend}' here. Set "
            "KERAS_BACKEND=tensorflow before keras is imported; a model file that another backend saved loads there too"
        ) from cause
    if cause is not None:
        raise cause


try:
    _check_backend()
    from edgeseq.conversion.exporting import export
    from edgeseq.conversion.report import ExportReport
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "h5py"):
        raise
    raise MissingExtra(str(error.name), "export", "exporting a Keras model") from error

__all__ = ["ExportReport", "export"]
