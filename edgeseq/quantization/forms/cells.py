"""ConvLSTM layers found in a graph, written as `edgeseq.lowering.unrolled` and `edgeseq.lowering.scan` do it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from edgeseq.quantization.rewriting import subgraphs, values_read

# Functions that are one node, which a step may have for its gates, its candidate and its cell state on the way out.
_FUNCTIONS = ("Sigmoid", "Tanh", "HardSigmoid", "Relu", "LeakyRelu", "Elu", "Selu", "Softsign", "Softplus")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One time step of a ConvLSTM."""

    of_input: onnx.NodeProto
    """The convolution of the step's input, with the bias."""
    of_state: onnx.NodeProto | None
    """The convolution of the hidden state; None in a first step from zero."""
    split: onnx.NodeProto
    """The Split of their sum into the gates input, forget, cell, output."""
    inner: tuple[onnx.NodeProto, ...]
    """All other nodes of the step but the last."""
    last: onnx.NodeProto
    """The node that makes the hidden state after the step."""
    gate: onnx.NodeProto
    """The function of the input gate, and so of every gate."""
    candidate: onnx.NodeProto
    """The function of the candidate."""
    shown: onnx.NodeProto
    """The function of the cell state on its way out."""
    cell_before: str | None
    """Value of the cell state before the step; None where it is zero."""
    cell_after: str
    """Value of the cell state after the step."""
    scan: onnx.NodeProto | None
    """The Scan whose body the step is in; None where it is in the graph itself."""

    @property
    def x(self) -> str:
        """Value of the step's input, (batch, channels, spatial...)."""
        return str(self.of_input.input[0])

    @property
    def convolutions(self) -> tuple[onnx.NodeProto, ...]:
        """The one or two of them."""
        return (self.of_input,) if self.of_state is None else (self.of_input, self.of_state)

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """All of them, the last one last."""
        return (*self.convolutions, self.split, *self.inner, self.last)


@dataclass(frozen=True, kw_only=True)
class ConvolutionalCell:
    """A ConvLSTM: the steps that share its weights, written out in the graph or the one step of a Scan."""

    steps: tuple[Step, ...]
    """In the order in which they are in the graph."""

    @property
    def of_input(self) -> onnx.NodeProto:
        """A convolution of an input, with weights (4 × filters, channels, window...)."""
        return self.steps[0].of_input

    @property
    def of_state(self) -> onnx.NodeProto:
        """A convolution of the hidden state, with weights (4 × filters, filters, window...)."""
        return next(step.of_state for step in self.steps if step.of_state is not None)

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Every node of the graph that belongs to the cell."""
        for step in self.steps:
            yield from step.nodes if step.scan is None else (step.scan,)


def find_cells(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[ConvolutionalCell, ...]:
    """The ConvLSTM layers of a graph, written as `edgeseq.lowering.unrolled` and `edgeseq.lowering.scan` do it."""
    steps = _Finder(graph, constants).steps(None)
    for node in graph.node:
        if node.op_type == "Scan":
            [body] = subgraphs(node)
            inside = _Finder(body, constants).steps(node)
            # A body is rewritten for one layer alone.
            steps += inside if len(inside) == 1 else []
    cells: dict[tuple[str, ...], list[Step]] = defaultdict(list)
    for step in steps:
        cells[tuple(step.of_input.input[1:])].append(step)
    return tuple(
        ConvolutionalCell(steps=tuple(cell))
        for cell in cells.values()
        if len({step.of_state.input[1] for step in cell if step.of_state is not None}) == 1
    )


class _Finder:
    """Looks for steps from their Split on. What is anything else is none."""

    def __init__(self, graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]):
        self._graph, self._constants = graph, constants
        self._maker = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._uses = Counter([*values_read(graph.node), *(output.name for output in graph.output)])

    def steps(self, scan: onnx.NodeProto | None) -> list[Step]:
        """All in the graph, which is the body of `scan` where one is given."""
        found = (self._step(node, scan) for node in self._graph.node if node.op_type == "Split")
        return [step for step in found if step is not None]

    def _step(self, split: onnx.NodeProto, scan: onnx.NodeProto | None) -> Step | None:
        """The step with these gates."""
        add = self._only_maker(split.input[0], "Add")
        sides = [split.input[0]] if add is None else list(add.input)
        convolutions = [self._only_maker(name, "Conv") for name in sides]
        known = [node for node in convolutions if node is not None and self._has_weights(node)]
        if len(known) < len(sides) or len(split.output) != 4:
            return None
        of_input, of_state = known[0], known[1] if add is not None else None
        if of_state is not None and len(of_state.input) > 2:
            return None
        input_, forget, candidate, output = (self._only_reader(name, *_FUNCTIONS) for name in split.output)
        if input_ is None or candidate is None or output is None:
            return None
        if any(gate is not None and _function(gate) != _function(input_) for gate in (forget, output)):
            return None
        new = self._only_reader(input_.output[0], "Mul")
        if new is None or set(new.input) != {input_.output[0], candidate.output[0]}:
            return None
        inner = [input_, candidate, output, new, *([add] if add is not None else [])]
        before, after = None, new
        if forget is not None:
            kept = self._only_reader(forget.output[0], "Mul")
            added = self._only_reader(new.output[0], "Add")
            if kept is None or added is None or set(added.input) != {kept.output[0], new.output[0]}:
                return None
            before = next(name for name in kept.input if name != forget.output[0])
            inner += [forget, kept, added]
            after = added
        last = self._only_reader(output.output[0], "Mul")
        if last is None:
            return None
        shown = self._maker.get(next((name for name in last.input if name != output.output[0]), ""))
        if shown is None or shown.op_type not in _FUNCTIONS or list(shown.input) != [after.output[0]]:
            return None
        return Step(
            of_input=of_input,
            of_state=of_state,
            split=split,
            inner=(*inner, shown),
            last=last,
            gate=input_,
            candidate=candidate,
            shown=shown,
            cell_before=before,
            cell_after=after.output[0],
            scan=scan,
        )

    def _has_weights(self, node: onnx.NodeProto) -> bool:
        return all(name in self._constants for name in node.input[1:] if name)

    def _only_maker(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The node that makes a value which is read once, when it is of that op type."""
        node = self._maker.get(name)
        return node if node is not None and self._uses[name] == 1 and node.op_type == op_type else None

    def _only_reader(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that alone reads a value, when it is of one of the op types."""
        readers = self._readers[name]
        return readers[0] if len(readers) == self._uses[name] == 1 and readers[0].op_type in op_types else None


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _function(node: onnx.NodeProto) -> tuple[str, dict[str, Any]]:
    return node.op_type, attributes_of(node)
