"""A recurrent node of any ONNX file, replaced by the nodes of a strategy that compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

# Since then a constant need not be an input of the graph.
_OLDEST_IR = 4


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
    graph = _check_place(model, node, spec)
    strategy, reason = choose(spec, lowering=lowering, target=target)
    b = Builder(_free_scope(model, spec.layer), dtype=np.dtype(spec.dtype))
    lowered = STRATEGIES[strategy].lower(b, spec, _signals(b, node, spec))
    results = _onnx_outputs(b, node, spec, lowered)
    nodes = _tidy(b.nodes, results.values())

    _name_all(nodes, b.scope)
    for value in b.initializers:
        if value.uses():
            model.graph.initializers.add(value)
    old = [node.outputs[index] for index in results]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, old, list(results.values()))
    return Rewritten(
        layer=spec.layer, layer_type=spec.layer_type, strategy=strategy, reason=reason, op_types=lowered.op_types
    )


def _check_place(model: ir.Model, node: ir.Node, spec: RecurrentSpec) -> ir.Graph:
    graphs = [model.graph, *model.graph.subgraphs()]
    graph = next((graph for graph in graphs if graph is node.graph), None)
    if graph is None:
        raise UnsupportedLayer(spec.layer, "its node is not in the graph of this model; inline functions first")
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if opset < _OLDEST_OPSET:
        reason = f"the file is of operator set {opset}, and its nodes would be of {_OLDEST_OPSET} or newer"
        raise UnsupportedLayer(spec.layer, f"{reason}; onnx.version_converter.convert_version raises it")
    if model.ir_version < _OLDEST_IR:
        reason = f"the file is of IR version {model.ir_version}, where every constant is an input"
        raise UnsupportedLayer(spec.layer, f"{reason}; take them from the inputs and set ir_version to {_OLDEST_IR}")
    for key, value in reading.inputs(node).items():
        if key in reading.WEIGHTS and value.is_graph_input():
            reason = f"its weight {key} ('{value.name}') is an input too, so that a caller may give another"
            raise UnsupportedLayer(spec.layer, f"{reason}; take it from the inputs to make it a constant")
    return graph


def _free_scope(model: ir.Model, name: str) -> str:
    """`name`, lengthened until nothing in the file begins with it the way the new names will."""
    taken = list(model.graph.initializers)
    for graph in (model.graph, *model.graph.subgraphs()):
        taken += [value.name or "" for value in graph.inputs]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        taken += [node.name or "", *(value.name or "" for value in node.outputs)]
    while any(other.startswith((f"{name}/", f"{name}.")) for other in taken):
        name += "_"
    return name


def _signals(b: Builder, node: ir.Node, spec: RecurrentSpec) -> Signals:
    given = reading.inputs(node)
    x = given["X"] if reading.layout(node) == 1 else b.transpose(given["X"], 1, 0, 2)
    mask = None
    if "sequence_lens" in given:
        steps = b.op("Range", b.constant(0, np.int64), b.squeeze(b.shape(x, 1, 2), 0), b.constant(1, np.int64))
        lengths = b.op("Cast", given["sequence_lens"], to=ir.DataType.INT64)
        mask = b.op("Less", steps, b.unsqueeze(lengths, 1))
    return Signals(
        x=x,
        mask=mask,
        initial=_initial(b, node, spec) if spec.initial_state == "given" else (),
        wants_output=spec.return_sequences,
        wants_states=any(reading.is_used(node, 1 + index) for index in range(len(STATES[spec.kind]))),
    )


def _initial(b: Builder, node: ir.Node, spec: RecurrentSpec) -> tuple[ir.Value, ...]:
    """(batch, units) each, a direction's states side by side."""
    given, count = reading.inputs(node), len(spec.directions)
    starts = [given.get(f"initial_{state}") for state in STATES[spec.kind]]
    like = next(start for start in starts if start is not None)
    by_state: list[list[ir.Value]] = []
    for start in starts:
        if start is None:
            # An LSTM may be given one of its two states.
            start = b.op("ConstantOfShape", b.shape(like, 0), value=ir.tensor(np.zeros(1, b.dtype)))
        axis = reading.layout(node)
        parts = [start] if count == 1 else b.multi("Split", start, b.integers(1, 1), outputs=2, axis=axis)
        by_state.append([b.squeeze(part, axis) for part in parts])
    return tuple(states[index] for index in range(count) for states in by_state)


def _onnx_outputs(b: Builder, node: ir.Node, spec: RecurrentSpec, lowered: Lowered) -> dict[int, ir.Value]:
    """Those of Y, Y_h, Y_c that are read, by index, from outputs and states of the spec."""
    batch_first = reading.layout(node) == 1
    results: dict[int, ir.Value] = {}
    if spec.return_sequences:
        sides = []
        for output in lowered.outputs:
            steps = b.transpose(output, 1, 0, 2)
            if len(spec.directions) == 1 and spec.directions[0].backwards:
                # From the order of computation to that of time.
                steps = b.flip(steps, 0)
            sides.append(b.unsqueeze(b.transpose(steps, 1, 0, 2), 2) if batch_first else b.unsqueeze(steps, 1))
        results[0] = _together(b, sides, axis=2 if batch_first else 1)
    count = len(STATES[spec.kind])
    for index in range(count):
        if not reading.is_used(node, 1 + index):
            continue
        states = lowered.states[index::count]
        if spec.masked and spec.initial_state == "given":
            lengths = reading.inputs(node)["sequence_lens"]
            some = b.op("Greater", b.unsqueeze(lengths, 1), b.constant(0, np.int32))
            states = tuple(zero_where(b, some, state) for state in states)
        axis = 1 if batch_first else 0
        results[1 + index] = _together(b, [b.unsqueeze(state, axis) for state in states], axis)
    return results


def _together(b: Builder, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=axis)


def _tidy(nodes: list[ir.Node], results: Iterable[ir.Value]) -> list[ir.Node]:
    """Without transpositions and reversals that follow their own inverse, and without nodes that nothing reads.

    Strategies take and give batch first and a backward pass in the order of computation; ONNX's ops do neither.
    """
    wanted = {id(value) for value in results}
    for node in nodes:
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if source is not None and id(node.outputs[0]) not in wanted and _undoes(node, source):
            assert source.inputs[0] is not None
            ir.convenience.replace_all_uses_with(node.outputs[0], source.inputs[0])
    kept: list[ir.Node] = []
    for node in reversed(nodes):
        if any(value.uses() or id(value) in wanted for value in node.outputs):
            kept.append(node)
        else:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
    return kept[::-1]


def _undoes(node: ir.Node, before: ir.Node) -> bool:
    if node.op_type != before.op_type:
        return False
    if node.op_type == "Transpose":
        first, second = before.attributes.get_ints("perm", ()), node.attributes.get_ints("perm", ())
        return bool(first) and [first[axis] for axis in second] == sorted(first)
    return (
        node.op_type == "Slice" and _reversed_axis(node) is not None and _reversed_axis(node) == _reversed_axis(before)
    )


def _reversed_axis(node: ir.Node) -> int | None:
    """Which axis a Slice of `Builder.flip` reverses; None for any other Slice."""
    bounds = [
        None if value is None or value.const_value is None else value.const_value.numpy().tolist()
        for value in node.inputs[1:]
    ]
    match bounds:
        case [[-1], [end], [int(axis)], [-1]] if end == np.iinfo(np.int64).min:
            return axis
    return None


def _name_all(nodes: Iterable[ir.Node], prefix: str) -> None:
    """Names that none in the file has, in bodies too: a name inside must not be one of outside."""
    for number, node in enumerate(nodes):
        node.name = f"{prefix}/{node.op_type}_{number}"
        for index, value in enumerate(node.outputs):
            value.name = node.name if len(node.outputs) == 1 else f"{node.name}:{index}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                for index, value in enumerate(body.inputs):
                    value.name = f"{node.name}/in_{index}"
                _name_all(body, node.name)
