"""The table of what providers have kernels for; `scripts/kernels` makes it, from onnxruntime-gpu and onnx-tensorrt."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTRIBUTED = "com.microsoft"
"""The domain of onnxruntime's own ops."""


@functools.cache
def _table() -> Any:
    return json.loads(Path(__file__).with_name("kernels.json").read_text(encoding="utf-8"))


def cuda_version() -> str:
    """The version of onnxruntime that the CUDA kernels are of."""
    return str(_table()["cuda"]["onnxruntime"])


def tensorrt_version() -> str:
    """The version of TensorRT that the ops are of."""
    return str(_table()["tensorrt"]["version"])


def signature(op: str) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the types of the inputs and outputs of an op of onnxruntime's own; empty where it is not known."""
    inputs, outputs = _table()["cuda"]["signatures"].get(op, ((), ()))
    return inputs, outputs


def why_not_cuda(op: str, domain: str, since: int, types: Sequence[tuple[str, str, str]]) -> str:
    """Why CUDA has no kernel for an op as it was in opset `since`; empty where it has one.

    `types` are of each input and output: its name and the name of its type in the schema, and the type itself, as
    ``float``; empty where that is not known, which any kernel fits.
    """
    known = _table()["cuda"]["kernels"].get(domain, {}).get(op)
    if known is None:
        return f"CUDA has no kernel for {op}"
    # onnxruntime takes an open-ended kernel for its first opset alone: the op may have changed since.
    fits = [
        constraints
        for first, last, constraints in known
        if first == since or (last is not None and first < since <= last)
    ]
    if not fits:
        return f"CUDA has no kernel for {op} as of opset {since}"
    refused: dict[str, set[str]] = {}
    for constraints in fits:
        wrong = [
            (kind, allowed)
            for name, declared, kind in types
            if kind and (allowed := constraints.get(declared, constraints.get(name))) and kind not in allowed.split()
        ]
        if not wrong:
            return ""
        for kind, allowed in wrong:
            refused.setdefault(kind, set()).update(allowed.split())
    kind, allowed = next(iter(refused.items()))
    return f"CUDA's kernel for {op} does not take {kind} there, but {', '.join(sorted(allowed))}"


def tensorrt_types(op: str) -> tuple[str, ...] | None:
    """The types that TensorRT's parser takes for an op; None where it does not take the op."""
    found = _table()["tensorrt"]["ops"].get(op)
    return None if found is None else tuple(found.split())
