"""Holding a prediction against what really ran."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from edgeseq.errors import EdgeseqError, InvalidFile
from edgeseq.files import StrPath
from edgeseq.prediction.result import PredictedNode, Prediction
from edgeseq.runtime.placement import PlacedNode, Placement
from edgeseq.runtime.providers import SHORT_NAMES

Named = TypeVar("Named", PredictedNode, PlacedNode)

_SHOWN = 5
# What reading a graph can raise: the file was replaced meanwhile, protobuf and onnx (also C++) refuse what is in it, or
# a rule meets a node without its inputs, or with attributes of another type. The graph is as somebody wrote it.
_UNREADABLE = (InvalidFile, OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)
_TARGETS = {SHORT_NAMES[name]: name for name in ("cuda", "tensorrt")}


def disagreements(prediction: Prediction, placement: Placement) -> tuple[str, ...]:
    """Where nodes ran elsewhere than predicted, one line a node, floating-point nodes first.

    Nodes are compared by name. Those without one, those that share theirs, and those that onnxruntime has fused, folded
    or put into a TensorRT engine, where no profile shows them, cannot be compared.
    """
    placed = _unique(placement.nodes)
    found = []
    for name, node in _unique(prediction.nodes).items():
        ran = placed.get(name)
        if ran is None or ran.op_type != node.op_type.rpartition("::")[2]:
            continue
        there = SHORT_NAMES[prediction.target]
        if (ran.provider == there) == (node.provider == prediction.target):
            continue
        line = f"predicted on {node.provider}, ran on {ran.provider}: {node.op_type} '{name}'"
        if node.layer:
            line += f" of layer '{node.layer}'"
        found.append((not node.floating, line + (f" ({node.reason})" if node.reason else "")))
    return tuple(line for _, line in sorted(found, key=lambda item: item[0]))


def surprises(path: StrPath, placement: Placement | None) -> tuple[str, ...]:
    """Notes of where the file's nodes ran elsewhere on CUDA or TensorRT than `predict` says.

    Empty before the first run, for other providers, and where the onnx package is not installed: nothing is compared
    then, since running a file must need no more than onnxruntime.
    """
    target = _TARGETS.get(placement.requested[0]) if placement else None
    if placement is None or target is None or importlib.util.find_spec("onnx") is None:
        return ()
    from edgeseq.prediction.predicting import apply_rules

    try:
        lines = disagreements(apply_rules(path, target), placement)
    except _UNREADABLE as error:  # What has run must not fail for a prediction that cannot be made.
        reason = str(error) if isinstance(error, EdgeseqError) else f"{type(error).__name__}: {error}"
        return (f"placement was not compared with a prediction: {reason}",)
    if len(lines) > _SHOWN:
        lines = (*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more nodes ran elsewhere than predicted")
    return lines


def _unique(nodes: Sequence[Named]) -> dict[str, Named]:
    counts = Counter(node.name for node in nodes)
    return {node.name: node for node in nodes if node.name and counts[node.name] == 1}
