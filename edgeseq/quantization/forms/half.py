"""A whole file in half precision, for GPUs: float16 where it is fast and safe, float32 where it is not.

Inputs and outputs stay float32. A value that is needed in both is cast once, where it is made. Which ops are computed
in float16 is a list of those that are: what is not on it, sums of many numbers and what follows from them above all,
stays float32. So do nodes whose weights float16 cannot hold, and those that the caller names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseq.quantization.forms.integers import Array
from edgeseq.quantization.rewriting import subgraphs, values_read

LARGEST = float(np.finfo(np.float16).max)
"""The largest number of float16, 65504."""

_IN_FLOAT16 = {
    *("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN"),
    *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sum"),
    *("Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "Softsign", "Selu", "Clip", "Gelu", "PRelu"),
    *("Gather", "Concat", "Split", "Slice", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"),
    *("Identity", "Pad", "Tile", "Where", "ReverseSequence", "MaxPool", "AveragePool", "GlobalMaxPool", "ReduceMax"),
    *("Scan", "Loop", "If"),
}
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_ONNX = ("", "ai.onnx")


def to_float16(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of `model` in which all nodes that can be are in float16, but those named in `keep`.

    A node with bodies is kept with all of them.
    """
    result = onnx.ModelProto()
    result.CopyFrom(onnx.shape_inference.infer_shapes(model))
    _Converter(set(keep)).convert(result.graph)
    return result


def _factors(graph: onnx.GraphProto) -> Iterator[str]:
    """Values that a MatMul or Gemm multiplies."""
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            yield from node.input[:2]
        for body in subgraphs(node):
            yield from _factors(body)


@dataclass
class _Scope:
    """The float values of one graph. A value's own name stands for its float32 form."""

    outer: _Scope | None
    is_half: dict[str, bool] = field(default_factory=dict)
    """Float value to whether it is made in float16; constants are made in float32."""
    wanted: dict[str, set[bool]] = field(default_factory=dict)
    """Float value to the precisions in which it is read."""
    inside: list[_Scope] = field(default_factory=list)

    def owner(self, name: str) -> _Scope | None:
        """The scope that has a float value of that name."""
        if name in self.is_half:
            return self
        return self.outer.owner(name) if self.outer else None

    def want(self, name: str, *, half: bool) -> None:
        owner = self.owner(name)
        if owner is not None:
            owner.wanted.setdefault(name, set()).add(half)


def _half(name: str) -> str:
    return f"{name}/float16"


class _Converter:
    def __init__(self, keep: set[str]):
        self._keep = keep
        self._large: set[str] = set()
        self._factors: set[str] = set()

    def convert(self, graph: onnx.GraphProto) -> None:
        self._factors = set(_factors(graph))
        self._large = {tensor.name for tensor in graph.initializer if _overflows(tensor)}
        scope = self._scope(graph, None, inside_half=False, is_body=False)
        self._want(graph, scope)
        for value in graph.output:
            scope.want(value.name, half=False)
        self._write(graph, scope, inside_half=False)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.domain not in _ONNX or node.op_type not in _IN_FLOAT16 or node.name in self._keep:
            return False
        # onnxruntime 1.31 crashes on the CPU where it fuses the two across the casts that it inserts for lack of a
        # float16 product, and what is made for a GPU may be opened there.
        if node.op_type == "Transpose" and node.output[0] in self._factors:
            return False
        return self._large.isdisjoint(
            [*node.input, *(name for body in subgraphs(node) for name in values_read(body.node))]
        )

    def _scope(self, graph: onnx.GraphProto, outer: _Scope | None, *, inside_half: bool, is_body: bool) -> _Scope:
        """Where the graph's float values are made in which precision, bodies included.

        In the body of a node that is kept all nodes are.
        """
        scope = _Scope(outer=outer)
        if outer:
            outer.inside.append(scope)
        types = {
            value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
        }
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        scope.is_half |= {tensor.name: False for tensor in graph.initializer if tensor.data_type == _FLOAT}
        scope.is_half |= {value.name: inside_half for value in graph.input if types[value.name] == _FLOAT}
        for node in graph.node:
            half = (inside_half or not is_body) and self._is_half(node)
            for body in subgraphs(node):
                self._scope(body, scope, inside_half=half, is_body=True)
            scope.is_half |= {name: half for name in node.output if name and types.get(name, _FLOAT) == _FLOAT}
        return scope

    def _nodes(self, graph: onnx.GraphProto, scope: _Scope, *, inside_half: bool) -> list[tuple[onnx.NodeProto, bool]]:
        may_be = inside_half or scope.outer is None
        return [(node, may_be and self._is_half(node)) for node in graph.node]

    def _want(self, graph: onnx.GraphProto, scope: _Scope, *, inside_half: bool = False) -> None:
        bodies = iter(scope.inside)
        for node, half in self._nodes(graph, scope, inside_half=inside_half):
            for name in node.input:
                scope.want(name, half=half)
            for body in subgraphs(node):
                inner = next(bodies)
                self._want(body, inner, inside_half=half)
                for value in body.output:
                    inner.want(value.name, half=half)

    def _write(self, graph: onnx.GraphProto, scope: _Scope, *, inside_half: bool) -> None:
        made = [node for value in graph.input for node in _casts(value.name, scope)]
        bodies = iter(scope.inside)
        for node, half in self._nodes(graph, scope, inside_half=inside_half):
            for body in subgraphs(node):
                inner = next(bodies)
                self._write(body, inner, inside_half=half)
                _retype(body, inner, half=half)
            casts = [cast for name in node.output for cast in _casts(name, scope)]
            if half:
                node.input[:] = [_half(name) if scope.owner(name) else name for name in node.input]
                node.output[:] = [_half(name) if name in scope.is_half else name for name in node.output]
            made += [node, *casts]
        _halve_constants(graph, scope)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
        del graph.node[:]
        graph.node.extend(copies)
        del graph.value_info[:]


def _casts(name: str, scope: _Scope) -> list[onnx.NodeProto]:
    """What makes the other form of a value, where it is read."""
    if name not in scope.is_half:
        return []
    is_half, wanted = scope.is_half[name], scope.wanted.get(name, set())
    if is_half and False in wanted:
        return [helper.make_node("Cast", [_half(name)], [name], f"{name}/to float32", to=_FLOAT)]
    if not is_half and True in wanted:
        return [helper.make_node("Cast", [name], [_half(name)], f"{name}/to float16", to=_HALF)]
    return []


def _retype(body: onnx.GraphProto, scope: _Scope, *, half: bool) -> None:
    """Inputs and outputs of a body, in the precision of its node."""
    if not half:
        return
    for value in (*body.input, *body.output):
        if value.type.tensor_type.elem_type == _FLOAT or scope.owner(value.name):
            value.type.tensor_type.elem_type = _HALF
            value.name = _half(value.name)


def _halve_constants(graph: onnx.GraphProto, scope: _Scope) -> None:
    kept = []
    # What is an input as well is cast like one.
    whole = {value.name for value in graph.input}
    for constant in graph.initializer:
        is_whole = constant.name in whole or constant.name not in scope.is_half
        wanted = {False} if is_whole else scope.wanted.get(constant.name, set())
        if True in wanted:
            kept.append(numpy_helper.from_array(_rounded(numpy_helper.to_array(constant)), _half(constant.name)))
        if False in wanted:
            kept.append(TensorProto.FromString(constant.SerializeToString()))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _rounded(array: Array) -> Array:
    return np.asarray(array).astype(np.float16)


def _overflows(constant: TensorProto) -> bool:
    if constant.data_type != _FLOAT:
        return False
    array = numpy_helper.to_array(constant)
    return bool((np.abs(array[np.isfinite(array)]) > LARGEST).any())
