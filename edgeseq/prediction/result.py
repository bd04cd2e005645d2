"""What a prediction is. Plain data: needs no other package."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

TARGETS = ("cuda", "tensorrt")
ELSEWHERE = "not tensorrt"
"""Provider of what TensorRT does not take: CUDA or the CPU, by the list that the user gives."""


@dataclass(frozen=True, kw_only=True)
class PredictedNode:
    """One node of the file."""

    name: str
    """Its name; empty where it has none."""
    op_type: str
    """Its op type, with its domain where that is not ONNX's."""
    layer: str
    """Name of the Keras layer it computes a part of; empty where the name does not tell."""
    provider: str
    """``cpu``, ``cuda``, ``tensorrt``, or ``not tensorrt``: then CUDA or the CPU has it, by the list of providers."""
    floating: bool
    """Whether floating-point numbers go in or come out. The others are arithmetic on shapes, lengths and masks."""
    reason: str = ""
    """What decides that it is not on the target; empty where it is."""
    rewrite: str = ""
    """What would keep it there; empty where it is there, or need not be."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Where onnxruntime would place each node of a file, by the rules of a target."""

    target: str
    """``cpu``, ``cuda`` or ``tensorrt``."""
    rules: str
    """What the rules come from, such as ``kernels of onnxruntime 1.31.1``."""
    nodes: tuple[PredictedNode, ...]
    """In the file's order, the nodes of a subgraph right after the node they belong to; constants left out."""

    @property
    def leaving(self) -> tuple[PredictedNode, ...]:
        """Floating-point nodes that would not run on the target: an error where it alone is asked for."""
        return tuple(node for node in self.nodes if node.floating and node.provider != self.target)

    @property
    def host(self) -> tuple[PredictedNode, ...]:
        """Integer and Boolean nodes that would not: onnxruntime keeps arithmetic on shapes on the host on purpose."""
        return tuple(node for node in self.nodes if not node.floating and node.provider != self.target)

    @property
    def counts(self) -> dict[str, int]:
        """Number of nodes by provider, most first."""
        return dict(Counter(node.provider for node in self.nodes).most_common())
