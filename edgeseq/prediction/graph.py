"""A graph as the rules look at it: nodes with their types, and what is constant when onnxruntime opens the file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner

from edgeseq.prediction import kernels

_LARGE = 4096
"""Bytes of weights that no rule and no shape is read from."""

# Not the same on every call, or kept as they are for the providers to see.
_NEVER_FOLDED = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
    | {"DequantizeLinear", "QuantizeLinear"}
)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A weight, or what is computed of weights alone."""

    elements: int = 1
    """How many; 1 where that is not known."""
    value: npt.NDArray[Any] | None = None
    """The value of a small one."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node with what the rules ask for."""

    name: str
    op_type: str
    domain: str
    """Empty for ONNX's own."""
    since: int
    """The opset that its op was last changed in, as of the file's opset."""
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    """Names; empty where one is left out."""
    outputs: tuple[str, ...]
    types: tuple[tuple[str, str, str], ...]
    """Of each input and output that there is: its name and type's name in the schema, and its type, as ``float``."""
    output_count: int
    """How many of the last of `types` are outputs."""
    bodies: tuple[Graph, ...]
    """Its subgraphs."""

    @property
    def floating(self) -> bool:
        """Whether floating-point numbers go in or come out; Shape and Size look at no number."""
        if self.op_type in ("Shape", "Size") and not self.domain:
            return False
        return any(kind.startswith(("float", "double", "bfloat")) for _, _, kind in self.types)

    @property
    def label(self) -> str:
        """Its op type, with the domain where that is not ONNX's."""
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph, or the body of a Scan, Loop or If."""

    nodes: tuple[Node, ...]
    """Without those that onnxruntime computes when it opens the file."""
    inputs: frozenset[str]
    constants: Mapping[str, Constant]
    """By name, those of the graphs around it included."""

    def constant(self, node: Node, index: int) -> bool:
        """Whether input `index` of `node` is left out, or constant."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        return not name or name in self.constants

    def value(self, node: Node, index: int) -> npt.NDArray[Any] | None:
        """The value of a small constant input; None where it is none."""
        found = self.constants.get(node.inputs[index]) if index < len(node.inputs) else None
        return found.value if found else None


@dataclass
class _Scope:
    """What is known by name where a graph is read."""

    types: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, list[int | None]] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)

    def inner(self) -> _Scope:
        return _Scope(dict(self.types), dict(self.shapes), dict(self.constants))


def read(model: onnx.ModelProto) -> Graph:
    """The graph of `model`, functions inlined, with types as far as ONNX's own inference finds them."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    light = onnx.ModelProto()
    light.CopyFrom(model)
    _lighten(light.graph)
    _declare(light.graph)
    # A contradiction is for onnxruntime to refuse: what is declared in the file still tells the types.
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in light.opset_import}
    return _read(light.graph, opsets, _Scope())


def _read(graph: onnx.GraphProto, opsets: Mapping[str, int], scope: _Scope) -> Graph:
    for info in (*graph.input, *graph.value_info, *graph.output):
        scope.types[info.name], shape = _type(info.type)
        if shape is not None:
            scope.shapes[info.name] = shape
    inputs = {info.name for info in graph.input}
    for name in inputs:
        scope.constants.pop(name, None)  # It hides a name of the graph around it.
    for tensor in graph.initializer:
        scope.types[tensor.name] = _kind(tensor.data_type)
        scope.shapes[tensor.name] = list(tensor.dims)
        scope.constants[tensor.name] = Constant(elements=math.prod(tensor.dims), value=_value(tensor))
        inputs.discard(tensor.name)
    nodes = []
    for proto in graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in proto.attribute}
        if _folded(proto, attributes, scope):
            value = attributes.get("value") if proto.op_type == "Constant" else None
            for name in proto.output:
                shape = scope.shapes.get(name, [])
                scope.constants[name] = Constant(
                    elements=math.prod(length or 1 for length in shape),
                    value=_value(value) if isinstance(value, onnx.TensorProto) else None,
                )
            continue
        nodes.append(_node(proto, attributes, opsets, scope))
    return Graph(nodes=tuple(nodes), inputs=frozenset(inputs), constants=scope.constants)


def _node(proto: onnx.NodeProto, attributes: Mapping[str, Any], opsets: Mapping[str, int], scope: _Scope) -> Node:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    since, formal_inputs, formal_outputs = _signature(proto.op_type, domain, opsets.get(domain, 1))
    types = []
    output_count = 0
    for names, formal in ((proto.input, formal_inputs), (proto.output, formal_outputs)):
        for place, name in enumerate(names):
            # The last of a schema's inputs may stand for any number of them.
            declared = formal[min(place, len(formal) - 1)] if formal else ("", "")
            if name:
                types.append((*declared, scope.types.get(name, "")))
                output_count += names is proto.output
    return Node(
        name=proto.name,
        op_type=proto.op_type,
        domain=domain,
        since=since,
        attributes={name: value for name, value in attributes.items() if not isinstance(value, onnx.GraphProto)},
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        types=tuple(types),
        output_count=output_count,
        bodies=tuple(
            _read(value, opsets, scope.inner()) for value in attributes.values() if isinstance(value, onnx.GraphProto)
        ),
    )


def _signature(op: str, domain: str, opset: int) -> tuple[int, Sequence[tuple[str, str]], Sequence[tuple[str, str]]]:
    """The opset that the op was last changed in, and the names and types of its inputs and outputs."""
    if onnx.defs.has(op, domain):
        try:
            schema = onnx.defs.get_schema(op, opset, domain)
        except onnx.defs.SchemaError:
            return opset, (), ()  # Newer than the file's opset: onnxruntime will say so.
        return (
            schema.since_version,
            [(item.name, item.type_str) for item in schema.inputs],
            [(item.name, item.type_str) for item in schema.outputs],
        )
    inputs, outputs = kernels.signature(op) if domain == kernels.CONTRIBUTED else ((), ())
    return 1, [("", kind) for kind in inputs], [("", kind) for kind in outputs]


def _folded(proto: onnx.NodeProto, attributes: Mapping[str, Any], scope: _Scope) -> bool:
    """Whether onnxruntime computes the node once, when it opens the file."""
    if proto.domain not in ("", "ai.onnx") or proto.op_type in _NEVER_FOLDED:
        return False
    if proto.op_type == "Constant":
        return True
    if any(isinstance(value, onnx.GraphProto) for value in attributes.values()):
        return False
    if proto.op_type == "Shape":
        shape = scope.shapes.get(proto.input[0])
        return shape is not None and None not in shape[attributes.get("start", 0) : attributes.get("end")]
    named = [name for name in proto.input if name]
    return bool(named) and all(name in scope.constants for name in named)


def _declare(graph: onnx.GraphProto) -> None:
    """Give a type to what comes out of other domains' ops, where ONNX's inference would stop."""
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    known = {info.name for info in (*graph.value_info, *graph.output)}
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _declare(attribute.g)
        if node.domain in ("", "ai.onnx"):
            continue
        # Its scales and biases have the type that it computes in.
        kind = next((weights[name] for name in node.input if weights.get(name) in halves), onnx.TensorProto.FLOAT)
        for name in node.output:
            if name and name not in known:
                graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, None))


def _lighten(graph: onnx.GraphProto) -> None:
    """Take the values of large weights away: inference would copy them, and stop at 2 GB."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _lighten(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
    for tensor in tensors:
        if tensor.ByteSize() > _LARGE:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)


def _value(tensor: onnx.TensorProto) -> npt.NDArray[Any] | None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or not 0 < math.prod(tensor.dims) <= _LARGE:
        return None
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except ValueError:
        return None  # Its values were taken away.


def _type(proto: onnx.TypeProto) -> tuple[str, list[int | None] | None]:
    """Type, as ``float``, and lengths of the axes; None for one not known, and for a rank not known."""
    if proto.HasField("optional_type"):
        return "optional", None
    if not proto.HasField("tensor_type"):
        inner = proto.sequence_type.elem_type.tensor_type.elem_type if proto.HasField("sequence_type") else 0
        return (f"seq(tensor({_kind(inner)}))" if inner else ""), None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return _kind(tensor.elem_type), None
    return _kind(tensor.elem_type), [
        axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim
    ]


def _kind(data_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(data_type)).lower() if data_type else ""


def walk(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """Every node with its graph, those of a body right after the node it belongs to."""
    for node in graph.nodes:
        yield graph, node
        for body in node.bodies:
            yield from walk(body)
