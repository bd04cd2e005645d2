"""A small collector of ONNX nodes: one `Builder` a graph, constants in the outermost one unless they say otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeseq.lowering.spec import Array


class Builder:
    """Collects the nodes and constants that replace one node of a graph.

    `scope` is the Keras layer's name; every node made here carries it, so that profiles can be read by layer. `dtype`
    is that of float constants, unless they say otherwise.
    """

    def __init__(self, scope: str, outer: Builder | None = None, dtype: Any = np.float32):
        self.scope = scope
        self.dtype = np.dtype(dtype)
        self.nodes: list[ir.Node] = []
        self._outer = outer
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._initializers: list[ir.Value] = []
        self._inlined: dict[tuple[int, str], ir.Value] = {}
        self.own: list[ir.Value] = []
        """Constants of a body itself."""

    @property
    def initializers(self) -> list[ir.Value]:
        """Constants made so far; they belong to the outermost graph, where bodies can read them too."""
        return self._outer.initializers if self._outer else self._initializers

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Add a node with one output and return that output."""
        return self.multi(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def multi(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs and return them."""
        node = ir.Node(
            domain,
            op_type,
            inputs=list(inputs),
            attributes=ir.convenience.convert_attributes(attributes),
            num_outputs=outputs,
        )
        node.metadata_props["layer"] = self.scope
        self.nodes.append(node)
        return node.outputs

    def constant(self, value: Array | float | Sequence[float], dtype: Any = None) -> ir.Value:
        """A constant as an initializer, by default of the builder's own dtype; equal small ones are shared."""
        array = np.ascontiguousarray(np.asarray(value, self.dtype if dtype is None else dtype))
        if self._outer:
            return self._outer.constant(array, array.dtype)
        # np.ascontiguousarray turns a scalar into one element; ONNX scalars keep rank 0.
        array = array.reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 16 else None
        if key in self._constants:
            return self._constants[key]
        made = _initializer(f"{self.scope}.constant.{len(self._initializers)}", array)
        self._initializers.append(made)
        if key is not None:
            self._constants[key] = made
        return made

    def weights(self, value: Array) -> ir.Value:
        """A constant of this very graph, a body too: where onnxruntime looks for those of convolutions to lay out."""
        if self._outer is None:
            return self.constant(value)
        made = _initializer(f"{self.scope}.weights.{len(self.own)}", np.ascontiguousarray(value, self.dtype))
        self.own.append(made)
        return made

    def integers(self, *values: int) -> ir.Value:
        """An int64 vector, as shapes, axes and indices are."""
        return self.constant(np.array(values, np.int64), np.int64)

    def transpose(self, x: ir.Value, *axes: int) -> ir.Value:
        """Reorder the axes of `x`."""
        return self.op("Transpose", x, perm=list(axes))

    def squeeze(self, x: ir.Value, axis: int) -> ir.Value:
        """Drop an axis of length one."""
        return self.op("Squeeze", x, self.integers(axis))

    def unsqueeze(self, x: ir.Value, axis: int) -> ir.Value:
        """Insert an axis of length one."""
        return self.op("Unsqueeze", x, self.integers(axis))

    def shape(self, x: ir.Value, start: int, end: int | None = None) -> ir.Value:
        """The lengths of axes `start` to `end` as an int64 vector."""
        bounds: dict[str, Any] = {"start": start} if end is None else {"start": start, "end": end}
        return self.op("Shape", x, **bounds)

    def flip(self, x: ir.Value, axis: int) -> ir.Value:
        """Reverse an axis."""
        lowest = np.iinfo(np.int64).min
        return self.op("Slice", x, self.integers(-1), self.integers(lowest), self.integers(axis), self.integers(-1))

    def inline(self, model: bytes, *inputs: ir.Value) -> list[ir.Value]:
        """Put the nodes of an ONNX model here, fed with `inputs`; return its outputs.

        Its constants are made once, however often it is put in: `model` must be the same object then.
        """
        graph = ir.serde.from_proto(onnx.ModelProto.FromString(model)).graph
        for formal, actual in zip(graph.inputs, inputs, strict=True):
            ir.convenience.replace_all_uses_with(formal, actual, replace_graph_outputs=True)
        for name, value in list(graph.initializers.items()):
            assert value.const_value is not None
            shared = self._shared(model, name, value.const_value.numpy())
            ir.convenience.replace_all_uses_with(value, shared, replace_graph_outputs=True)
        outputs = list(graph.outputs)
        graph.outputs.clear()
        nodes = list(graph)
        graph.remove(nodes)
        for node in nodes:
            node.metadata_props["layer"] = self.scope
            for output in node.outputs:
                # Its shape was that of another batch and layout.
                output.shape = None
        self.nodes += nodes
        return outputs

    def _shared(self, model: bytes, name: str, array: Array) -> ir.Value:
        if self._outer:
            return self._outer._shared(model, name, array)
        key = (id(model), name)
        if key not in self._inlined:
            self._inlined[key] = self.constant(array, array.dtype)
        return self._inlined[key]

    def body(self) -> Builder:
        """A builder for a subgraph, whose constants go to the outermost graph, but for its `weights`."""
        return Builder(self.scope, outer=self, dtype=self.dtype)


def _initializer(name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
