"""`convert`: from a model's signature to a finished ONNX graph, before anything has been verified."""

from __future__ import annotations

import re
from dataclasses import dataclass

import keras
import onnx_ir as ir
import tensorflow as tf

from edgeseq.conversion import finish
from edgeseq.conversion.axes import output_specs
from edgeseq.conversion.bridge import to_onnx
from edgeseq.conversion.cleaning.rules import clean
from edgeseq.conversion.failures import reason_of
from edgeseq.conversion.lengths import ADVICE, Sizes, candidates, in_words
from edgeseq.conversion.markers import Trace
from edgeseq.conversion.place import Placed, place_markers
from edgeseq.conversion.reference import keras_fails
from edgeseq.conversion.signature import Signature
from edgeseq.conversion.streamable import has_state
from edgeseq.conversion.trace import trace_model
from edgeseq.errors import EdgeseqError, InputMismatch, InvalidFile, Refused, UnsupportedOp
from edgeseq.runtime.manifest import TensorSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """A graph in its canonical form; its outputs have numbers for names until Keras has been asked for them."""

    graph: ir.Model
    """The graph, without a manifest."""
    signature: Signature
    """With the axes that are free in the graph."""
    placed: Placed
    """How its recurrent layers were lowered, and its states."""
    inputs: tuple[TensorSpec, ...]
    """Inputs, states left out, with the axes that are free in the graph."""
    outputs: tuple[TensorSpec, ...]
    """Outputs, states left out, in the order of the model's flat outputs."""
    lengths: tuple[Sizes, ...]
    """Lengths of the free axes at which the graph has run."""
    loops: int
    """Number of Loop nodes."""
    user_loops: tuple[str, ...]
    """TensorFlow's names of the while-loops in the model's own code."""
    notes: tuple[str, ...]
    """What the user should know."""


def convert(
    signature: Signature,
    *,
    opset: int,
    target: str,
    streaming: bool,
    lowering: str,
    allow_loop: bool,
    known: Sizes | None = None,
) -> Converted:
    """Trace, convert, lower and clean; the arguments are those of `edgeseq.export`.

    `known` are lengths of the free axes that the model takes.

    Raises Refused and its kinds for what cannot be exact, and WrongUsage for arguments that mean nothing.
    """
    trace, signature, notes = _trace(signature, streaming=streaming, opset=opset, allow_loop=allow_loop, known=known)
    names = [f"output:{index}" for index in range(len(trace.function.outputs))]
    layers = [layer.name for layer in signature.layers]
    graph = to_onnx(trace.function, [spec.name for spec in signature.inputs], names, opset=opset, layers=layers)
    finish.name_axes(graph.graph.inputs, {spec.name: spec.axes for spec in signature.inputs})
    user_loops = tuple(str(node.name) for node in finish.loops(graph.graph))
    placed = place_markers(graph, trace, lowering_name=lowering, target=target)
    clean(graph)
    finish.canonical(graph)
    inputs = tuple(
        TensorSpec(name=spec.name, dtype=spec.dtype, axes=spec.axes, vocabulary_size=spec.vocabulary)
        for spec in signature.inputs
    )
    try:
        outputs, lengths = output_specs(graph, inputs, placed.states, known, multiple=placed.chunk_multiple)
    except InvalidFile as error:
        raise _not_opened(error) from error
    except InputMismatch as error:
        if placed.states:
            # Weights for each time step of the model's own length do not fit another.
            what = "the model cannot be fed in chunks: something in it has the number of time steps built in"
            raise Refused(f"{what} ({error})") from error
        free = sorted({axis for spec in inputs for axis in spec.axes if isinstance(axis, str)} - {"batch"})
        raise Refused(
            f"the graph fails at other lengths than the model's own, though they are free ({error}). No two lengths of "
            f"{', '.join(free) or 'the batch'} were found that it takes; tried: {in_words(candidates(free, known))}. "
            f"{ADVICE}"
        ) from error
    return Converted(
        graph=graph,
        signature=signature,
        placed=placed,
        inputs=inputs,
        outputs=outputs,
        lengths=lengths,
        loops=len(finish.loops(graph.graph)),
        user_loops=user_loops,
        notes=(*notes, *_mask_notes(trace, signature)),
    )


def _mask_notes(trace: Trace, signature: Signature) -> list[str]:
    """The one difference from a stateful Keras model."""
    if not has_state(signature.model):
        return []
    return [
        f"layer '{marker.layer}': at masked steps before the first valid one of a call Keras's stateful layer puts out "
        "zeros, whatever came in the calls before; the file repeats the last output of the stream, as the whole "
        "sequence does"
        for marker in trace.recurrent.values()
        if marker.spec.first_output != "zero"
    ]


def _not_opened(error: InvalidFile) -> Refused:
    """Valid ONNX that onnxruntime still cannot run, such as a convolution in double precision."""
    missing = re.search(r"Could not find an implementation for (\w+)", error.reason)
    if not missing:
        return Refused(f"onnxruntime cannot open the converted graph: {error.reason}")
    return UnsupportedOp(
        [missing[1]],
        "onnxruntime's CPU provider has no kernel for it with these types; float32 is the type that has them all",
    )


def _trace(
    signature: Signature, *, streaming: bool, opset: int, allow_loop: bool, known: Sizes | None
) -> tuple[Trace, Signature, tuple[str, ...]]:
    """The traced model, the signature with the axes that are really free, and why they are not more."""
    # A file that carries states takes any batch and chunk, though a stateful Keras model fixes both. Where something
    # after the recurrent layers needs the fixed length, tracing says so, and the model's own lengths are kept.
    candidates = [signature.with_free_time()] if streaming else []
    candidates += [signature] if signature.fixed is None else [signature, signature.fixed]
    notes: tuple[str, ...] = ()
    for candidate in candidates:
        inputs = [
            tf.TensorSpec([axis if isinstance(axis, int) else None for axis in spec.axes], spec.dtype)
            for spec in candidate.inputs
        ]
        try:
            trace = trace_model(
                lambda *flat: keras.tree.flatten(signature.call(*flat)),
                inputs,
                streaming=streaming,
                opset=opset,
                allow_loop=allow_loop,
            )
        except (EdgeseqError, MemoryError):
            raise
        except Exception as error:
            reason = reason_of(error)
            if candidate is candidates[-1]:
                raise _not_traced(candidate, error, known) from error
            notes = (f"the model cannot be traced with free lengths, so they are fixed: {reason}",)
        else:
            return trace, candidate, notes
    raise AssertionError("one candidate either returns or raises")


def _not_traced(signature: Signature, error: Exception, known: Sizes | None) -> Refused:
    """Why TensorFlow cannot trace a model: Keras itself fails, or the model needs what only a call knows."""
    if failure := keras_fails(signature, known):
        return failure
    # Keras names the class of the layer around what it passes on.
    kind = re.match(r"Exception encountered when calling (\w+)\.call", str(error))
    layers = [f"'{layer.name}'" for layer in signature.layers if kind and type(layer).__name__ == kind[1]]
    where = f"layer {' or '.join(layers)}: " if layers else ""
    advice = ""
    if any(isinstance(axis, str) and axis != "batch" for spec in signature.inputs for axis in spec.axes):
        advice = (
            ". Keras itself runs it at lengths that are known: fix the time axis, keras.Input((steps, ...)), or take "
            "the layer out"
        )
    return Refused(f"the model cannot be traced: {where}{reason_of(error)}{advice}")
