"""A graph without what computes nothing: the litter that TensorFlow and its converter leave, removed node by node.

Every rule keeps each bit of the answers, but for a matrix product and its bias in one op, whose sums may be rounded
otherwise. Bodies of Scan, Loop and If are left as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgeseq.conversion.cleaning import graphs
from edgeseq.conversion.cleaning.products import write_products
from edgeseq.conversion.cleaning.shapes import evaluate, simplify_shapes

# Two calls of one layer share their weights, whatever the size.
_LARGEST_WEIGHT_ELEMENTS = 2**40

# What a rule does to a node of its op types; it returns whether it did anything.
Rule = Callable[[ir.Graph, ir.Node], bool]
_RULES: dict[str, list[Rule]] = {}


def clean(model: ir.Model) -> None:
    """Remove what computes nothing, in place: dead nodes, identities, lengths put together again, repeated constants.

    The graph's inputs, outputs and their names stay. Equal names of free axes must mean equal lengths. Afterwards only
    inputs and outputs have shapes.
    """
    graph = model.graph
    _drop_identities(graph)
    _share(model)
    with _shapes_known(model):
        simplify_shapes(graph)
        write_products(graph)
        _apply_rules(model)
        _drop_identities(graph)
        _share(model)


def _share(model: ir.Model) -> None:
    """Equal constants and equal nodes once; what nothing reads, not at all."""
    for graph_pass in (
        common.RemoveUnusedNodesPass(),
        # Nodes are equal only if their constants are the same ones.
        common.DeduplicateHashedInitializersPass(size_limit=_LARGEST_WEIGHT_ELEMENTS),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        graph_pass(model)


def _drop_identities(graph: ir.Graph) -> None:
    """Identities go, but for those that give one value two places among a graph's outputs.

    onnx-ir's own pass drops those too, inside the bodies of Scan, and onnxruntime then computes something else.
    """
    for node in list(graph):
        if node.op_type != "Identity" or node.domain:
            continue
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        if result.is_graph_output():
            if source.is_graph_output() or source.is_graph_input() or source.is_initializer():
                continue
            source.name, source.shape, source.type = result.name, result.shape or source.shape, result.type
            result.name = None
            graph.outputs[list(graph.outputs).index(result)] = source
        ir.convenience.replace_all_uses_with(result, source)
        graph.remove(node, safe=True)


@contextlib.contextmanager
def _shapes_known(model: ir.Model) -> Iterator[None]:
    """With inferred shapes meanwhile; afterwards without any, inferred or not, but for inputs and outputs.

    Those that came with the graph are of the layouts and lengths before, and names of free axes come by chance. In
    bodies, which are left as they are, so are those that came with them.
    """
    common.TopologicalSortPass()(model)
    common.NameFixPass()(model)
    bodies = [(value, value.shape, value.type) for body in model.graph.subgraphs() for value in _values(body)]
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    yield
    for value, shape, dtype in bodies:
        value.shape, value.type = shape, dtype
    outputs = set(map(id, model.graph.outputs))
    for node in model.graph:
        for value in node.outputs:
            if id(value) not in outputs:
                value.shape = value.type = None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _apply_rules(model: ir.Model) -> None:
    """Each node's rules, until none of them does anything more."""
    graph, changed = model.graph, True
    while changed:
        changed = False
        for node in list(graph):
            # A rule may have removed nodes after this one.
            if node.graph is graph and node.domain in ("", "ai.onnx"):
                changed |= any(rule(graph, node) for rule in _RULES.get(node.op_type, ()))
        # What nothing reads any more must not count as another reader.
        common.RemoveUnusedNodesPass()(model)


def _rule(*op_types: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            _RULES.setdefault(op_type, []).append(rule)
        return rule

    return register


@_rule("Cast")
def _cast_to_what_it_is(graph: ir.Graph, node: ir.Node) -> bool:
    """A Cast to the dtype that a value has, and the first of two where it loses nothing."""
    source = node.inputs[0]
    if source is None or source.dtype is None:
        return False
    if source.dtype == node.attributes.get_int("to"):
        graphs.replace(graph, node, [source])
        return True
    first = graphs.producer(source, "Cast")
    origin = None if first is None else first.inputs[0]
    if origin is None or origin.dtype is None or not _holds_all(source.dtype, origin.dtype):
        return False
    node.replace_input_with(0, origin)
    return True


def _holds_all(wide: ir.DataType, narrow: ir.DataType) -> bool:
    try:
        return bool(np.can_cast(narrow.numpy(), wide.numpy(), "safe"))
    except TypeError:
        # Types that numpy does not have.
        return False


@_rule("Squeeze", "Unsqueeze")
def _squeeze_and_back(graph: ir.Graph, node: ir.Node) -> bool:
    """An axis of one element that goes and comes again, also around an op that works element by element."""
    other = {"Squeeze": "Unsqueeze", "Unsqueeze": "Squeeze"}[node.op_type]
    source = node.inputs[0]
    between = graphs.producer(source, *_UNARY)
    if source is not None and between is not None:
        if not graphs.is_single_use(source):
            return False
        source = between.inputs[0]
    first = graphs.producer(source, other)
    if source is None or first is None or len(first.inputs) < 2 or len(node.inputs) < 2:
        return False
    axes, axes_before = graphs.integers(node.inputs[1]), graphs.integers(first.inputs[1])
    if axes is None or axes != axes_before or min(axes) < 0:
        return False
    (origin, *_) = first.inputs
    if origin is None:
        return False
    if between is None:
        graphs.replace(graph, node, [origin])
        return True
    if not graphs.is_single_use(source):
        return False
    between.replace_input_with(0, origin)
    between.outputs[0].shape = None if origin.shape is None else ir.Shape(list(origin.shape))
    graphs.replace(graph, node, [between.outputs[0]])
    return True


_UNARY = ("Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Neg")


@_rule("Reshape")
def _reshape_of_reshape(_: ir.Graph, node: ir.Node) -> bool:
    """A Reshape to lengths that do not look at its input's needs no Reshape before it."""
    target = graphs.integers(node.inputs[1])
    first = graphs.producer(node.inputs[0], "Reshape")
    if first is None or target is None or 0 in target or first.inputs[0] is None:
        return False
    node.replace_input_with(0, first.inputs[0])
    return True


@_rule("Reshape", "Expand")
def _reshape_to_what_it_is(graph: ir.Graph, node: ir.Node) -> bool:
    """A Reshape or Expand to the lengths that a value has."""
    source, target = graphs.lengths(node.inputs[0]), graphs.integers(node.inputs[1])
    if source is None or target is None or len(source) != len(target):
        return False
    if node.op_type == "Expand":
        same = [length == wanted or wanted == 1 for length, wanted in zip(source, target, strict=True)]
    else:
        keeps = node.attributes.get_int("allowzero", 0) == 0
        same = [length == wanted or (wanted == 0 and keeps) for length, wanted in zip(source, target, strict=True)]
        # All other lengths being the same, the one left to be found is too.
        same = [ok or (wanted == -1 and same.count(False) == 1) for ok, wanted in zip(same, target, strict=True)]
    if not all(same):
        return False
    graphs.replace(graph, node, [node.inputs[0]])
    return True


@_rule("Transpose")
def _one_transpose(graph: ir.Graph, node: ir.Node) -> bool:
    """Two transpositions in a row as one, or none."""
    second = graphs.permutation(node)
    if second is None:
        return False
    if second == sorted(second):
        graphs.replace(graph, node, [node.inputs[0]])
        return True
    inner = graphs.producer(node.inputs[0], "Transpose")
    first = graphs.permutation(inner)
    if inner is None or first is None:
        return False
    node.replace_input_with(0, inner.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
    return True


@_rule("Transpose")
def _transpose_ids_not_vectors(graph: ir.Graph, node: ir.Node) -> bool:
    """Reorder (batch, time) word ids before the table is read, instead of their vectors after it."""
    gather = graphs.producer(node.inputs[0], "Gather")
    if gather is None or graphs.permutation(node) != [1, 0, 2] or not graphs.is_single_use(gather.outputs[0]):
        return False
    table, ids = gather.inputs
    if table is None or ids is None or gather.attributes.get_int("axis", 0) != 0 or graphs.rank(table) != 2:
        return False
    b = graphs.builder(gather)
    made = b.op("Gather", table, b.transpose(ids, 1, 0), axis=0)
    graphs.insert(graph, node, b)
    graphs.replace(graph, node, [made])
    return True


@_rule("Squeeze")
def _one_step(graph: ir.Graph, node: ir.Node) -> bool:
    """One place along an axis, cut out and squeezed, as `x[:, -1]` is: a Gather does both."""
    cut = graphs.producer(node.inputs[0], "Slice")
    cuts = None if cut is None else _cuts(cut)
    if cut is None or cuts is None or len(cuts) != 1 or len(node.inputs) < 2:
        return False
    ((axis, (start, end, step)),) = cuts.items()
    one = step == 1 and (end == start + 1 if start != -1 else end >= _END)
    if not one or graphs.integers(node.inputs[1]) != (axis,):
        return False
    b = graphs.builder(node)
    made = b.op("Gather", cut.inputs[0], b.constant(start, np.int64), axis=axis)
    graphs.insert(graph, node, b)
    graphs.replace(graph, node, [made])
    return True


# Beyond the end of any axis; TensorFlow's converter writes it for an end that is left out.
_END = 2**31 - 1


def _cuts(node: ir.Node) -> dict[int, tuple[int, int, int]] | None:
    """Start, end and step of a Slice for each axis that it does not leave whole; None where they are computed."""
    rank = graphs.rank(node.inputs[0])
    bounds = [graphs.integers(value) for value in node.inputs[1:]]
    if rank is None or len(bounds) < 3 or None in bounds:
        return None
    starts, ends, axes, *steps = [bound for bound in bounds if bound is not None]
    cuts = zip(starts, ends, steps[0] if steps else [1] * len(axes), strict=True)
    whole = {axis % rank: cut for axis, cut in zip(axes, cuts, strict=True)}
    return {
        axis: (start, end, step) for axis, (start, end, step) in whole.items() if (start, step) != (0, 1) or end < _END
    }


@_rule("Gather")
def _wrapped_index(graph: ir.Graph, node: ir.Node) -> bool:
    """Indices below zero count from the end, in Gather as in Python: nobody needs to add the length to them."""
    data, index = node.inputs
    lengths = graphs.lengths(data)
    if data is None or index is None or lengths is None or not lengths:
        return False
    axis = node.attributes.get_int("axis", 0) % len(lengths)
    select = graphs.producer(index, "Where")
    if select is not None:
        condition, wrapped, plain = select.inputs
        if plain is None or not (_is_negative(condition, plain) and _plus_length(wrapped, plain, data, axis)):
            return False
        node.replace_input_with(1, plain)
        return True
    add = graphs.producer(index, "Add")
    for value in () if add is None else add.inputs:
        below = graphs.integers(value)
        if below is None or len(below) != 1 or below[0] >= 0 or not _plus_length(index, value, data, axis):
            continue
        b = graphs.builder(node)
        made = b.constant(np.array(below[0]) if graphs.rank(index) == 0 else np.array(below), np.int64)
        graphs.insert(graph, node, b)
        node.replace_input_with(1, made)
        return True
    return False


def _is_negative(condition: ir.Value | None, index: ir.Value) -> bool:
    less = graphs.producer(condition, "Less")
    if less is None:
        return False
    value, zero = less.inputs
    cast = graphs.producer(value, "Cast")
    bound = graphs.constant(zero)
    is_zero = bound is not None and bound.size == 1 and not bound.any()
    # Whatever number type the comparison takes place in, it keeps the sign.
    return is_zero and (value is index or (cast is not None and cast.inputs[0] is index))


def _plus_length(total: ir.Value | None, index: ir.Value | None, data: ir.Value, axis: int) -> bool:
    """Whether `total` is `index` + the length of `data` along `axis`."""
    add = graphs.producer(total, "Add")
    if add is None or index not in add.inputs:
        return False
    length = add.inputs[1] if add.inputs[0] is index else add.inputs[0]
    found = evaluate(length, {})
    wanted = (graphs.lengths(data) or ())[axis]
    if found is None or len(found) != 1 or wanted is None:
        return False
    return found[0] == wanted if isinstance(found[0], int) else found[0].name == wanted


@_rule("Add")
def _product_and_bias(graph: ir.Graph, node: ir.Node) -> bool:
    """A product with a constant matrix, of rows and not of sequences, and a vector added to it: one Gemm."""
    for product_at in (0, 1):
        product, bias = node.inputs[product_at], node.inputs[1 - product_at]
        matmul = graphs.producer(product, "MatMul")
        if matmul is None or product is None or not graphs.is_single_use(product):
            continue
        x, matrix = matmul.inputs
        if graphs.rank(x) != 2 or matrix is None or not matrix.is_initializer() or graphs.rank(matrix) != 2:
            continue
        columns = (graphs.lengths(matrix) or ())[1]
        if bias is None or not bias.is_initializer() or graphs.lengths(bias) != (columns,):
            continue
        b = graphs.builder(matmul)
        made = b.op("Gemm", x, matrix, bias)
        graphs.insert(graph, node, b)
        graphs.replace(graph, node, [made])
        return True
    return False


@_rule("Add")
def _convolution_and_bias(graph: ir.Graph, node: ir.Node) -> bool:
    """A bias that is added to a convolution's channels by itself, also after an axis of one element has gone."""
    for at in (0, 1):
        source, bias = node.inputs[at], graphs.constant(node.inputs[1 - at])
        squeeze = graphs.producer(source, "Squeeze")
        convolution = graphs.producer(source if squeeze is None else squeeze.inputs[0], "Conv")
        if convolution is None or bias is None or source is None or len(convolution.inputs) != 2:
            continue
        if not graphs.is_single_use(source) or not graphs.is_single_use(convolution.outputs[0]):
            continue
        axes = () if squeeze is None else graphs.integers(squeeze.inputs[1])
        channels, rank = (graphs.lengths(convolution.inputs[1]) or (None,))[0], graphs.rank(source)
        if axes is None or rank is None or min(axes, default=2) < 2 or bias.ndim > rank:
            continue
        if (1,) * (rank - bias.ndim) + bias.shape != (1, channels, *(1,) * (rank - 2)):
            continue
        b = graphs.builder(convolution)
        convolution.resize_inputs(3)
        convolution.replace_input_with(2, b.constant(bias.reshape(-1), bias.dtype))
        graphs.insert(graph, convolution, b)
        graphs.replace(graph, node, [source])
        return True
    return False
