"""Put the real thing in the place of every marker: weights as initializers, recurrent layers by a strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeseq import lowering
from edgeseq.conversion import finish
from edgeseq.conversion.bridge import MARKER_DOMAIN, MARKER_OP
from edgeseq.conversion.cleaning import graphs
from edgeseq.conversion.markers import RecurrentMarker, Trace
from edgeseq.conversion.names import layer_of_scope, plain_name
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.strategy import Signals
from edgeseq.runtime.manifest import RecurrentLayer, StateSpec

# A layer in two parts, or called twice, is reported as the less native of them.
_LEAST_NATIVE_LAST = ("fused", "unrolled", "scan", "loop")


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What was put into the graph."""

    recurrent: tuple[RecurrentLayer, ...]
    """One entry a Keras layer, in graph order."""
    states: tuple[StateSpec, ...]
    """States that became inputs and outputs of the graph."""


def place_markers(model: ir.Model, trace: Trace, *, lowering_name: str = "auto", target: str = "cpu") -> Placed:
    """Replace all markers of `model`, in place. Raises what `lowering.choose` raises."""
    # By the layer itself: two layers of nested models may share a name.
    layers: dict[int, RecurrentLayer] = {}
    states: list[StateSpec] = []
    # A traced cell brings markers of its own into the body that it becomes.
    while found := list(_markers(model)):
        for graph, node in found:
            token = node.attributes.get_string("token")
            if token in trace.weights:
                _place_weight(model.graph, graph, node, trace, token)
                continue
            marker = trace.recurrent[token]
            try:
                strategy, reason = lowering.choose(marker.spec, lowering=lowering_name, target=target)
                nodes, op_types = _place_recurrent(model.graph, graph, node, token, marker, strategy, states)
            except Exception as error:
                error.add_note(f"while lowering layer '{marker.spec.layer}'")
                raise
            if finish.loops(nodes):
                strategy, reason = "loop", "its own code holds a while-loop"
            layer = RecurrentLayer(
                name=marker.layer, layer_type=marker.layer_type, strategy=strategy, op_types=op_types, reason=reason
            )
            before = layers.get(marker.layer_id)
            layers[marker.layer_id] = layer if before is None else _together(before, layer)
    for layer_id, layer in _left_to_keras(model, trace).items():
        layers[layer_id] = _together(layers[layer_id], layer) if layer_id in layers else layer
    model.opset_imports.pop(MARKER_DOMAIN, None)
    return Placed(recurrent=tuple(layers.values()), states=tuple(states))


def _left_to_keras(model: ir.Model, trace: Trace) -> dict[int, RecurrentLayer]:
    """What became of the layers that no marker was left for: the converter knows some of Keras's loops by itself."""
    names = [layer.name for layer in trace.loops.values()]
    # Nodes of our own say which layer they are of; the converter's recurrent ops have names that do not tell.
    theirs = [node for node in model.graph.all_nodes() if "layer" not in node.metadata_props]
    looped = {layer_of_scope(str(node.name), names) for node in theirs if node.op_type == "Loop"}
    native = tuple(node.op_type for node in theirs if node.op_type in ("LSTM", "GRU", "RNN"))
    layers = {}
    for layer_id, layer in trace.loops.items():
        if layer.name not in looped:
            layer = dataclasses.replace(layer, strategy="fused" if native else "unrolled", op_types=native)
        layers[layer_id] = layer
    return layers


def _markers(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Node]]:
    for graph in [model.graph, *model.graph.subgraphs()]:
        for node in graph:
            if node.op_type == MARKER_OP:
                yield graph, node


def _together(first: RecurrentLayer, second: RecurrentLayer) -> RecurrentLayer:
    """What to say of a layer in two parts: the strategy and the reason of the less native one, the ops of both."""
    least = max(first, second, key=lambda part: _LEAST_NATIVE_LAST.index(part.strategy))
    return dataclasses.replace(least, op_types=(*first.op_types, *second.op_types))


def _place_weight(main: ir.Graph, graph: ir.Graph, node: ir.Node, trace: Trace, token: str) -> None:
    existing = main.initializers.get(token)
    if existing is None:
        tensor = ir.tensor(trace.weights[token], name=token)
        shape = ir.Shape(trace.weights[token].shape)
        existing = ir.Value(name=token, const_value=tensor, shape=shape, type=ir.TensorType(tensor.dtype))
        main.initializers.add(existing)
    graphs.replace(graph, node, [existing])


def _place_recurrent(
    main: ir.Graph,
    graph: ir.Graph,
    node: ir.Node,
    token: str,
    marker: RecurrentMarker,
    strategy: str,
    states: list[StateSpec],
) -> tuple[list[ir.Node], tuple[str, ...]]:
    spec = marker.spec
    dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
    inputs = [value for value in node.inputs if value is not None]
    mask = inputs.pop() if spec.masked else None
    x, *initial = inputs
    count = len(spec.state_names)
    carried_in: list[ir.Value] = []
    first = len(states)
    if marker.carried is not None:
        batch = None if x.shape is None else x.shape[0]
        for index, (name, lengths) in enumerate(zip(spec.state_names, marker.state_shapes, strict=True)):
            shape = (batch if isinstance(batch, int) else "batch", *lengths)
            label = f"{first + index:02d}.{plain_name(spec.layer)}.{name}"
            carried_in.append(
                ir.Value(name=f"state_in.{label}", shape=ir.Shape(list(shape)), type=ir.TensorType(dtype))
            )
            states.append(
                StateSpec(
                    input=f"state_in.{label}",
                    output=f"state_out.{label}",
                    dtype=spec.dtype,
                    axes=shape,
                    initial=marker.carried[index],
                )
            )
        main.inputs.extend(carried_in)
        initial = carried_in

    b = Builder(plain_name(spec.layer), dtype=spec.dtype)
    finals = node.outputs[marker.outputs : marker.outputs + count]
    signals = Signals(
        x=x,
        mask=mask,
        initial=tuple(initial),
        wants_output=any(_used(value) for value in node.outputs[: marker.outputs]),
        wants_states=marker.carried is not None or any(_used(value) for value in finals),
    )
    lowered = lowering.STRATEGIES[strategy].lower(b, spec, signals)
    for value in b.initializers:
        # A layer that is called twice makes its constants twice; equal ones are put together when the graph is cleaned.
        value.name = f"{token}.{len(main.initializers)}.{value.name}"
        main.initializers.add(value)
    if marker.carried is not None:
        for state, final in zip(states[first:], lowered.states, strict=True):
            # An output of the graph needs a name of its own, whatever else reads the value.
            out = b.op("Identity", final)
            out.name = state.output
            out.shape, out.type = ir.Shape(list(state.axes)), ir.TensorType(dtype)
            main.outputs.append(out)
    replacements: Sequence[ir.Value | None] = [
        *(lowered.outputs or [None] * marker.outputs),
        *(lowered.states or [None] * count),
    ]
    graph.insert_before(node, b.nodes)
    graphs.replace(graph, node, replacements)
    return b.nodes, lowered.op_types


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
