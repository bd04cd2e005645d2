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
# The axis of channels in (time, batch, channels, spatial...).
_CHANNELS = 2


@dataclass(frozen=True, kw_only=True)
class Step:
    """One time step of a ConvLSTM."""

    take: onnx.NodeProto | None
    """The Gather of this step's input products, whose second input is the time; None in the body of a Scan."""
    products: str
    """Value of the step's input products."""
    convolve: onnx.NodeProto | None
    """The convolution of the hidden state; None in a first step from zero."""
    split: onnx.NodeProto
    """The Split into the gates input, forget, cell, output."""
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

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        """All of them, the last one last."""
        yield from (node for node in (self.take, self.convolve, self.split, *self.inner, self.last) if node is not None)


@dataclass(frozen=True, kw_only=True)
class ConvolutionalCell:
    """A ConvLSTM, its steps written out in the graph or the one step of a Scan."""

    project: onnx.NodeProto
    """The convolution of all steps' inputs, (time × batch, channels, spatial...), at once."""
    reshape: onnx.NodeProto
    """What gives its products their axis of time."""
    sizes: tuple[onnx.NodeProto, ...]
    """Where the size of an image is free: what hands the products' size to the Reshape."""
    steps: tuple[Step, ...]
    """In the order in which they are in the graph; the one of the body of a Scan."""
    scan: onnx.NodeProto | None = None
    """The Scan; None where the steps are written out."""
    lengths: tuple[onnx.NodeProto, ...] = ()
    """Shapes taken of the products, for the states that a Scan begins with."""

    @property
    def kernel(self) -> str:
        """Name of the input weights, (4 × filters, channels, window...)."""
        return str(self.project.input[1])

    @property
    def recurrent_kernel(self) -> str:
        """Name of the recurrent weights, (4 × filters, filters, window...)."""
        return str(self.recurrent.input[1])

    @property
    def convolutions(self) -> tuple[onnx.NodeProto, ...]:
        """Every node of the graph with weights, its own or in its body."""
        if self.scan is not None:
            return (self.project, self.scan)
        return (self.project, *(step.convolve for step in self.steps if step.convolve is not None))

    @property
    def recurrent(self) -> onnx.NodeProto:
        """A convolution of the hidden state."""
        return next(step.convolve for step in self.steps if step.convolve is not None)

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Every node of the graph that belongs to the cell."""
        yield from (self.project, self.reshape, *self.sizes, *self.lengths)
        if self.scan is not None:
            yield self.scan
            return
        for step in self.steps:
            yield from step.nodes


def find_cells(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[ConvolutionalCell, ...]:
    """The ConvLSTM layers of a graph, written as `edgeseq.lowering.unrolled` and `edgeseq.lowering.scan` do it."""
    return tuple(
        found
        for node in graph.node
        if node.op_type == "Conv" and (found := _Finder(graph, constants).cell(node)) is not None
    )


class _Finder:
    """Looks for one cell from its input convolution on. A step that is anything else makes the whole no cell."""

    def __init__(self, graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]):
        self._constants = constants
        self._maker = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._uses = Counter([*values_read(graph.node), *(output.name for output in graph.output)])

    def cell(self, project: onnx.NodeProto) -> ConvolutionalCell | None:
        sizes: tuple[onnx.NodeProto, ...] = ()
        reshape = self._only_reader(project.output[0], "Reshape")
        if reshape is None:
            reshape, sizes = self._reshape_by_size(project)
        if reshape is None or any(name not in self._constants for name in project.input[1:] if name):
            return None
        readers = self._readers[reshape.output[0]]
        if len(readers) != self._uses[reshape.output[0]]:
            return None
        scans = [node for node in readers if node.op_type == "Scan"]
        if len(scans) == 1:
            return self._in_scan(project, reshape, sizes, scans[0])
        if any(node.op_type != "Gather" for node in readers):
            return None
        steps = [self._step(take.output[0], take) for take in readers]
        found = tuple(step for step in steps if step is not None)
        kernels = {step.convolve.input[1] for step in found if step.convolve is not None}
        if len(found) < len(readers) or len(kernels) != 1:
            return None
        return ConvolutionalCell(project=project, reshape=reshape, sizes=sizes, steps=found)

    def _in_scan(
        self,
        project: onnx.NodeProto,
        reshape: onnx.NodeProto,
        sizes: tuple[onnx.NodeProto, ...],
        scan: onnx.NodeProto,
    ) -> ConvolutionalCell | None:
        """The cell whose one step is the body of `scan`."""
        name, [body] = reshape.output[0], subgraphs(scan)
        lengths = tuple(node for node in self._readers[name] if node is not scan)
        if list(scan.input).count(name) != 1 or not all(_leaves_channels_out(node) for node in lengths):
            return None
        step = _Finder(body, self._constants)._step(body.input[list(scan.input).index(name)].name, None)
        if step is None or step.convolve is None:
            return None
        return ConvolutionalCell(
            project=project, reshape=reshape, sizes=sizes, steps=(step,), scan=scan, lengths=lengths
        )

    def _reshape_by_size(self, project: onnx.NodeProto) -> tuple[onnx.NodeProto | None, tuple[onnx.NodeProto, ...]]:
        """The Reshape of products whose size it takes from themselves: Shape -> Concat -> Reshape."""
        readers = {node.op_type: node for node in self._readers[project.output[0]]}
        if set(readers) != {"Shape", "Reshape"} or self._uses[project.output[0]] != 2:
            return None, ()
        concat = self._only_reader(readers["Shape"].output[0], "Concat")
        if concat is None or self._only_reader(concat.output[0], "Reshape") is None:
            return None, ()
        return readers["Reshape"], (readers["Shape"], concat)

    def _step(self, products: str, take: onnx.NodeProto | None) -> Step | None:
        """The step with these input products."""
        convolve, total = None, products
        add = self._only_reader(total, "Add")
        if add is not None:
            convolve = self._maker.get(add.input[1] if add.input[0] == total else add.input[0])
            if convolve is None or convolve.op_type != "Conv" or convolve.input[1] not in self._constants:
                return None
            if len(convolve.input) > 2 or self._uses[convolve.output[0]] != 1:
                return None
            total = add.output[0]
        split = self._only_reader(total, "Split")
        if split is None or len(split.output) != 4:
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
            take=take,
            products=products,
            convolve=convolve,
            split=split,
            inner=(*inner, shown),
            last=last,
            gate=input_,
            candidate=candidate,
            shown=shown,
            cell_before=before,
            cell_after=after.output[0],
        )

    def _only_reader(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that alone reads a value, when it is of one of the op types."""
        readers = self._readers[name]
        return readers[0] if len(readers) == self._uses[name] == 1 and readers[0].op_type in op_types else None


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _function(node: onnx.NodeProto) -> tuple[str, dict[str, Any]]:
    return node.op_type, attributes_of(node)


def _leaves_channels_out(node: onnx.NodeProto) -> bool:
    """Whether it is a Shape of lengths that images have in common with their products: all but the channels."""
    given = attributes_of(node)
    start, end = given.get("start", 0), given.get("end", _CHANNELS + 1)
    return node.op_type == "Shape" and (start > _CHANNELS or 0 < end <= _CHANNELS)
