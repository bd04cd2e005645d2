"""Put the real thing in the place of every marker: weights as initializers, recurrent layers by a strategy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeseq import lowering
from edgeseq.conversion import finish
from edgeseq.conversion.bridge import MARKER_DOMAIN, MARKER_OP
from edgeseq.conversion.cleaning import graphs
from edgeseq.conversion.markers import RecurrentMarker, Trace, WindowMarker
from edgeseq.conversion.names import layer_of_scope, plain_name
from edgeseq.errors import UnsupportedLayer
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
    chunk_multiple: int
    """The graph takes a multiple of so many time steps."""


def place_markers(model: ir.Model, trace: Trace, *, lowering_name: str = "auto", target: str = "cpu") -> Placed:
    """Replace all markers of `model`, in place. Raises what `lowering.choose` raises."""
    # By the layer itself: two layers of nested models may share a name.
    layers: dict[int, RecurrentLayer] = {}
    states: list[StateSpec] = []
    multiple = _chunk_multiple(model.graph, trace)
    # A traced cell brings markers of its own into the body that it becomes.
    while found := list(_markers(model)):
        for graph, node in found:
            token = node.attributes.get_string("token")
            if token in trace.weights:
                _place_weight(model.graph, graph, node, trace, token)
                continue
            if token in trace.windows:
                _place_window(model.graph, graph, node, trace.windows[token], states)
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
    return Placed(recurrent=tuple(layers.values()), states=tuple(states), chunk_multiple=multiple)


def _chunk_multiple(graph: ir.Graph, trace: Trace) -> int:
    """The least number of time steps, a multiple of which every layer with strides gets a multiple of its own from."""
    # How many steps of the input there are for each of a value's, by the value.
    steps: dict[int, int] = {}
    for node in graph:
        marker = trace.windows.get(node.attributes.get_string("token", "")) if node.op_type == MARKER_OP else None
        behind = math.lcm(*(steps.get(id(value), 1) for value in node.inputs)) * (marker.stride if marker else 1)
        steps |= {id(value): behind for value in node.outputs}
    return math.lcm(*steps.values())


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
    inputs = [value for value in node.inputs if value is not None]
    mask = inputs.pop() if spec.masked else None
    x, *initial = inputs
    count = len(spec.state_names)
    carried: list[StateSpec] = []
    if marker.carried is not None:
        _refuse_branch(main, graph, spec.layer)
        for name, lengths, beginning in zip(spec.state_names, marker.state_shapes, marker.carried, strict=True):
            carried.append(_new_state(states, f"{plain_name(spec.layer)}.{name}", spec.dtype, x, lengths, beginning))
        initial = [_state_input(main, state) for state in carried]

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
    _add_constants(main, b, token)
    if carried:
        for state, final in zip(carried, lowered.states, strict=True):
            _state_output(main, b, state, final)
    replacements: Sequence[ir.Value | None] = [
        *(lowered.outputs or [None] * marker.outputs),
        *(lowered.states or [None] * count),
    ]
    graph.insert_before(node, b.nodes)
    graphs.replace(graph, node, replacements)
    return b.nodes, lowered.op_types


def _place_window(
    main: ir.Graph, graph: ir.Graph, node: ir.Node, marker: WindowMarker, states: list[StateSpec]
) -> None:
    """The steps before x in front of it; the last of both are the next ones before."""
    (x,) = node.inputs
    assert x is not None
    if not marker.history:
        graphs.replace(graph, node, [x])
        return
    _refuse_branch(main, graph, marker.layer)
    label = f"{plain_name(marker.layer)}.x"
    state = _new_state(states, label, marker.dtype, x, (marker.history, marker.channels), 0.0)
    b = Builder(plain_name(marker.layer), dtype=marker.dtype)
    together = b.op("Concat", _state_input(main, state), x, axis=1)
    end = b.integers(np.iinfo(np.int64).max)
    _state_output(main, b, state, b.op("Slice", together, b.integers(-marker.history), end, b.integers(1)))
    _add_constants(main, b, node.attributes.get_string("token"))
    graph.insert_before(node, b.nodes)
    graphs.replace(graph, node, [together])


def _refuse_branch(main: ir.Graph, graph: ir.Graph, layer: str) -> None:
    if graph is not main:
        raise UnsupportedLayer(layer, "it is inside a condition or a loop, so it cannot carry a state along")


def _new_state(
    states: list[StateSpec], label: str, dtype: str, x: ir.Value, lengths: Sequence[int], initial: float
) -> StateSpec:
    """One more of `states`, of as many rows as x has."""
    batch = None if x.shape is None else x.shape[0]
    label = f"{len(states):02d}.{label}"
    axes = (batch if isinstance(batch, int) else "batch", *lengths)
    state = StateSpec(input=f"state_in.{label}", output=f"state_out.{label}", dtype=dtype, axes=axes, initial=initial)
    states.append(state)
    return state


def _state_input(main: ir.Graph, state: StateSpec) -> ir.Value:
    value = ir.Value(name=state.input)
    _describe(value, state)
    main.inputs.append(value)
    return value


def _state_output(main: ir.Graph, b: Builder, state: StateSpec, final: ir.Value) -> None:
    # An output of the graph needs a name of its own, whatever else reads the value.
    out = b.op("Identity", final)
    out.name = state.output
    _describe(out, state)
    main.outputs.append(out)


def _describe(value: ir.Value, state: StateSpec) -> None:
    value.shape, value.type = ir.Shape(list(state.axes)), ir.TensorType(ir.DataType.from_numpy(np.dtype(state.dtype)))


def _add_constants(main: ir.Graph, b: Builder, token: str) -> None:
    for value in b.initializers:
        # A layer that is called twice makes its constants twice; equal ones are put together when the graph is cleaned.
        value.name = f"{token}.{len(main.initializers)}.{value.name}"
        main.initializers.add(value)


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
