"""Keras sequence models to exact, native ONNX: export, verify, quantize, benchmark, embed.

Importing this package imports nothing heavy: each public name loads its room on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives. A function here never shares its name with a submodule, because importing the
# submodule would replace the function.
_HOMES = {
    "export": "edgeseq.conversion",
    "compare": "edgeseq.parity",
    "inspect": "edgeseq.inspection",
    "quantize": "edgeseq.quantization",
    "benchmark": "edgeseq.bench",
    "train": "edgeseq.recipes",
    "diagnose": "edgeseq.diagnosis",
    "compile_model": "edgeseq.compiling",
}

__all__ = ["__version__", "benchmark", "compare", "compile_model", "diagnose", "export", "inspect", "quantize", "train"]

if TYPE_CHECKING:
    from edgeseq.bench import benchmark
    from edgeseq.compiling import compile_model
    from edgeseq.conversion import export
    from edgeseq.diagnosis import diagnose
    from edgeseq.inspection import inspect
    from edgeseq.parity import compare
    from edgeseq.quantization import quantize
    from edgeseq.recipes import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeseq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
