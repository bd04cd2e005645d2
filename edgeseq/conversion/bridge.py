"""From a traced TensorFlow function to an ONNX graph that still holds its markers. The only user of tf2onnx."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf
import tf2onnx
from onnx import helper
from tf2onnx import optimizer, tf_loader, tfonnx

from edgeseq.conversion.failures import reason_of
from edgeseq.conversion.lock import LOCK
from edgeseq.conversion.names import layer_of_scope
from edgeseq.errors import EdgeseqError, Refused, UnsupportedOp, WrongUsage

MARKER_DOMAIN = "edgeseq"
# Told by its name alone: inside the branches of a condition tf2onnx forgets the domain.
MARKER_OP = "EdgeseqMarker"
# tf2onnx names nodes by all scopes around them.
_LONGEST_REASON = 300
OPSETS = range(15, 19)
"""Opsets that both tf2onnx and the lowering can write."""


def to_onnx(
    function: Any, input_names: Sequence[str], output_names: Sequence[str], *, opset: int, layers: Sequence[str] = ()
) -> ir.Model:
    """Convert a concrete function of flat tensors; its markers become nodes ``EdgeseqMarker`` with a `token`.

    `layers` are the names of a model's layers, to say in which of them an op lies. Raises WrongUsage for an opset that
    cannot be written, UnsupportedOp for TensorFlow ops that ONNX lacks, and Refused for what tf2onnx fails on.
    """
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise WrongUsage(f"opset must be an integer from {OPSETS.start} to {OPSETS.stop - 1}; got {opset!r}")
    captured = {id(tensor) for tensor in function.graph.internal_captures}
    inputs = [tensor.name for tensor in function.inputs if id(tensor) not in captured]
    outputs = [tensor.name for tensor in function.outputs]
    with working_tf2onnx(), _naming_layers(function, layers):
        frozen = tf_loader.from_function(function, inputs, outputs)
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(frozen, name="")
            converted = tfonnx.process_tf_graph(
                graph,
                opset=opset,
                extra_opset=[helper.make_opsetid(MARKER_DOMAIN, 1)],
                custom_op_handlers=_HANDLERS,
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename=dict(zip([*inputs, *outputs], [*input_names, *output_names], strict=True)),
            )
        converted = optimizer.optimize_graph(converted, catch_errors=False, optimizers=_OPTIMIZERS)
        proto = converted.make_model("edgeseq")
    _refuse_unknown_ops(proto.graph, layers)
    model: ir.Model = ir.from_proto(proto)
    return model


def _keep_marker(context: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001
    node.domain = MARKER_DOMAIN
    node.type = MARKER_OP
    for attribute in list(node.attr):
        if attribute != "token":
            del node.attr[attribute]


def _expm1(context: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001
    """exp(x) - 1, which tf2onnx lacks. Near zero it loses digits of a number that is next to nothing there."""
    exponential = context.make_node("Exp", node.input, name=f"{name}/exp").output[0]
    _subtract(context, node, name, exponential, _one(context, node, name))


def _erfc(context: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001
    """1 - erf(x), which tf2onnx lacks; Keras's gelu is made of it."""
    error_function = context.make_node("Erf", node.input, name=f"{name}/erf").output[0]
    _subtract(context, node, name, _one(context, node, name), error_function)


def _one(context: Any, node: Any, name: str) -> str:
    dtype = helper.tensor_dtype_to_np_dtype(context.get_dtype(node.input[0]))
    made: str = context.make_const(f"{name}/one", np.ones((), dtype)).output[0]
    return made


def _subtract(context: Any, node: Any, name: str, first: str, second: str) -> None:
    shapes, dtypes = node.output_shapes, node.output_dtypes
    context.remove_node(name)
    context.make_node("Sub", [first, second], name=name, outputs=node.output, shapes=shapes, dtypes=dtypes)


def _where(context: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001
    """One of two values, as it is: tf2onnx would multiply with 1 and 0, and infinity × 0 is NaN."""
    node.type = "Where"


_HANDLERS: dict[str, tuple[Any, list[str]]] = {
    "PyFuncStateless": (_keep_marker, []),
    "Expm1": (_expm1, []),
    "Erfc": (_erfc, []),
    "SelectV2": (_where, []),
}
# ONNX has Einsum itself; written out it is some twenty nodes.
_OPTIMIZERS = {name: factory for name, factory in optimizer._get_optimizers().items() if name != "einsum_optimizer"}


@contextlib.contextmanager
def _naming_layers(function: Any, layers: Sequence[str]) -> Iterator[None]:
    """Raise Refused for what tf2onnx fails on, naming the layers of the ops that its message speaks of."""
    try:
        yield
    except (EdgeseqError, MemoryError):
        raise
    except Exception as error:
        told, ops = str(error), function.graph.get_operations()
        loops = [op.name for op in ops if op.type in ("While", "StatelessWhile")]
        branches = [op.name for op in ops if op.type in ("If", "StatelessIf")]
        # Its messages say "While loop", or the kind of an op, which a branch may hide.
        named = loops if "loop" in told else [op.name for op in ops if re.search(rf"\b{op.type}\b", told)] or branches
        found = dict.fromkeys(layer_of_scope(name, layers) or name for name in named)
        where = f", it seems that of layer {' or '.join(map(repr, found))}" if found else ""
        advice = (
            "a while-loop with keras.layers.RNN and a cell" if loops and named == loops else "it with other keras.ops"
        )
        reason = reason_of(error)
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:60]} ... {reason[-200:]}"
        raise Refused(
            f"tf2onnx cannot convert the model's own code{where}: {reason}. Write {advice}, or leave that layer to the "
            "application"
        ) from error


def _refuse_unknown_ops(graph: onnx.GraphProto, layers: Sequence[str]) -> None:
    """tf2onnx only logs an op that it cannot convert, and writes it out as it is."""
    unknown: set[str] = set()
    where: dict[str, None] = {}

    def visit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            if node.op_type != MARKER_OP and not onnx.defs.has(node.op_type, node.domain):
                unknown.add(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
                if layer := layer_of_scope(node.name, layers):
                    where[layer] = None
            for attribute in node.attribute:
                for inner in [attribute.g, *attribute.graphs]:
                    visit(inner)

    visit(graph)
    if unknown:
        found = f"They come from layer {', '.join(map(repr, where))}. " if where else ""
        if any("Table" in op or "String" in op for op in unknown):
            advice = "Text and vocabulary layers belong before the model: give them to export as `preprocessing`."
        elif any("Random" in op or "Multinomial" in op for op in unknown):
            advice = (
                "The model draws random numbers, which no file repeats: pass them to it as an input, or leave them out"
            )
        else:
            advice = "Write that layer with other keras.ops, or leave it to the application"
        raise UnsupportedOp(sorted(unknown), found + advice)


@contextlib.contextmanager
def working_tf2onnx() -> Iterator[None]:
    """tf2onnx with the NumPy names that it still asks for and NumPy 2 dropped, and without its log lines.

    What matters in those becomes an exception. Both are for the whole process, so only one thread is here at a time.
    """
    with LOCK:
        yield from _work_around()


def _work_around() -> Iterator[None]:
    missing = [(name, value) for name, value in (("object", object), ("bool", np.bool_)) if name not in vars(np)]
    rewriters = {name: getattr(tfonnx, name) for name in ("rewrite_layer_normalization", "rewrite_gemm")}
    logger = logging.getLogger(tf2onnx.__name__)
    level = logger.level
    for name, value in missing:
        setattr(np, name, value)
    for name, original in rewriters.items():
        setattr(tfonnx, name, _not_in_double(original))
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, _ in missing:
            delattr(np, name)
        for name, original in rewriters.items():
            setattr(tfonnx, name, original)


def _not_in_double(rewrite: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """These rewriters compute in float32, whatever they are given: the ops that they would replace do not."""

    def guarded(graph: Any, ops: Any) -> Any:
        double = any(graph.get_dtype(name) == onnx.TensorProto.DOUBLE for op in ops for name in op.output)
        return ops if double else rewrite(graph, ops)

    return guarded
