"""A recurrent node of any ONNX file, replaced by the nodes of a strategy that compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeseq.errors import UnsupportedLayer
from edgeseq.lowering import STRATEGIES, choose, reading
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import STATES, RecurrentSpec
from edgeseq.lowering.strategy import Lowered, Signals, zero_where

# Nodes of a strategy are those of operator set 18; Shape with bounds came with 15, the last change they rely on.
_OLDEST_OPSET = 15


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What took the place of a node."""

    layer: str
    """The node's name, or that of its first output."""
    layer_type: str
    """LSTM, GRU or RNN."""
    strategy: str
    """Name of the strategy."""
    reason: str
    """Why that one."""
    op_types: tuple[str, ...]
    """ONNX op types that compute the recurrence now."""


def rewrite_node(model: ir.Model, node: ir.Node, *, lowering: str = "auto", target: str = "cpu") -> Rewritten:
    """Replace an LSTM, GRU or RNN node, in place, by nodes that give the same Y, Y_h and Y_c.

    `node` is of the graph of `model` or of one of its subgraphs; `lowering` and `target` are those of
    `lowering.choose`. Outputs keep names, shapes and types; the nodes made have `layout` 0. A row of `sequence_lens` 0
    ends with states of zero, as it does in onnxruntime, even when an initial state is given. When an error is raised,
    nothing was changed. Weights that nothing reads any more stay in the graph; `RemoveUnusedNodesPass` takes them.

    Raises WrongUsage for an unknown lowering, and UnsupportedLayer with the node's name and the reason.
    """
    spec = reading.read_node(node)
    _check_place(model, node, spec)
    strategy, reason = choose(spec, lowering=lowering, target=target)
    b = Builder(_free_scope(model, spec.layer), dtype=np.dtype(spec.dtype))
    signals = _signals(b, node, spec)
    results = _onnx_outputs(b, node, spec, STRATEGIES[strategy].lower(b, spec, signals))

    _name_all(b.nodes, b.scope)
    for value in b.initializers:
        model.graph.initializers.add(value)
    graph = node.graph
    assert graph is not None
    old = [node.outputs[index] for index in results]
    for value in node.outputs:
        if value not in old:
            # Absent or unread: the name goes with the node.
            value.name = None
    ir.convenience.replace_nodes_and_values(graph, node, [node], b.nodes, old, list(results.values()))
    op_types: tuple[str, ...] = ()
    return Rewritten(layer=spec.layer, layer_type=spec.layer_type, strategy=strategy, reason=reason, op_types=op_types)
