"""`export`: a Keras model in, a verified ONNX file out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeseq import files
from edgeseq.arrays import read_inputs
from edgeseq.conversion import finish
from edgeseq.conversion import streaming as streams
from edgeseq.conversion.convert import Converted, convert
from edgeseq.conversion.describe import describe
from edgeseq.conversion.failures import refusing, shapes_of
from edgeseq.conversion.load import load
from edgeseq.conversion.names import layer_of_scope
from edgeseq.conversion.outside import data_file
from edgeseq.conversion.precision import in_float32, mixed_policy
from edgeseq.conversion.reference import Answers, Trial, kept_states, keras_answers, mixed_distance, sizes_of
from edgeseq.conversion.report import ExportReport
from edgeseq.conversion.signature import Signature, read_signature
from edgeseq.conversion.streamable import has_state, refuse_what_cannot_stream
from edgeseq.conversion.verify import final_states, verify
from edgeseq.errors import InputMismatch, LoopRefused, ParityFailed, Refused, WrongUsage
from edgeseq.lowering import STRATEGIES
from edgeseq.parity import Parity
from edgeseq.runtime.golden import Golden, check_golden, write_golden
from edgeseq.runtime.manifest import METADATA_KEY, Manifest, TensorSpec

Array = npt.NDArray[Any]

TARGETS = ("cpu", "cuda", "tensorrt")


def export(
    model_or_path: Any,
    output: files.StrPath,
    *,
    weights: files.StrPath | None = None,
    opset: int = 18,
    target: str = "cpu",
    streaming: bool = False,
    lowering: str = "auto",
    allow_loop: bool = False,
    samples: Any = None,
    preprocessing: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Convert a Keras model to ONNX, verify it against Keras, and write it with its golden samples beside it.

    `model_or_path` is a `keras.Model`, a `.keras` or `.h5` file of any Keras, or a `.json` config; with `weights`, a
    `.h5` file, its weights come from there (a model object stays as it is). Files of Keras 1 and 2 keep the meaning
    that they were trained with, and the report's notes say where Keras 3 would have changed it.

    `target` (``cpu``, ``cuda``, ``tensorrt``) and `lowering` (``auto``, ``fused``, ``unrolled``, ``scan``) choose how
    recurrent layers are written. With `streaming` every recurrent state becomes an input and an output, batch first;
    layers with ``stateful=True`` always do.
    `samples` is one batch of the model's inputs, (batch, time, ...) each, nested as the model takes them: they are
    checked too, and become the golden samples. `preprocessing` is the document described in
    `edgeseq.runtime.preprocessing`; for a path it defaults to the `.preprocessing.json` beside it.

    Raises UnsupportedLayer, UnsupportedOp, LoopRefused (all Refused) for what cannot be exact or native, ParityFailed
    when the finished file differs from Keras by more than 1e-5 × max(1, max |answer|), OutputExists, MissingInput,
    InvalidFile, WrongUsage. What the model's own code raises becomes Refused, with that as its cause. Whatever it
    raises, nothing is left behind and the model works as before.
    """
    target_path = _check_arguments(output, target, lowering, overwrite)
    loaded = load(model_or_path, weights)
    model = loaded.model
    preprocessing = _preprocessing(preprocessing, model_or_path)
    policy = mixed_policy(model)
    if isinstance(samples, str | os.PathLike):
        samples = read_inputs(samples, "samples")
    if samples is not None and not model.built:
        # By the samples themselves, before anything is asked in other sizes.
        arrays = keras.tree.map_structure(np.asarray, samples)
        with refusing(f"the model fails on samples of shape {shapes_of(keras.tree.flatten(arrays))}"):
            model(arrays, training=False)
    with kept_states(model):
        signature = read_signature(model, samples)
    given = None if samples is None else _flat_samples(samples, signature)
    stateful = streaming or has_state(model)
    if stateful:
        refuse_what_cannot_stream(model)

    started = time.perf_counter()
    with in_float32(model):
        converted = convert(
            signature,
            opset=opset,
            target=target,
            streaming=stateful,
            lowering=lowering,
            allow_loop=allow_loop,
            known=None if given is None else sizes_of(signature, given),
        )
    if not stateful:
        # Keras is asked about a stateful model in calls of the model's own sizes; any other, about all free ones.
        signature = converted.signature
    graph, placed = converted.graph, converted.placed
    if streaming and not placed.states:
        raise Refused(
            "there is nothing to stream: the model has no recurrent layer and no causal convolution that carries a "
            "state from chunk to chunk. Export it without streaming"
        )
    if converted.loops and not allow_loop:
        raise _loop_refused(model, converted)
    conversion = time.perf_counter() - started

    started = time.perf_counter()
    with kept_states(model), in_float32(model):
        answers = _ask(model, signature, given, converted, stateful)
    # Answers over several calls in a row do not fit into one.
    single = answers.trials[:1] if stateful else answers.trials
    distance = None if policy is None else mixed_distance(model, signature, single)
    asked = time.perf_counter() - started

    started = time.perf_counter()
    outputs = _name_outputs(converted, answers)
    with data_file(target_path) as data, files.whole_file(target_path, overwrite=overwrite) as temporary:
        # Before anything else looks at the weights, so that gigabytes are not in memory once more.
        data.move_out(graph)
        manifest = describe(model, signature, converted, outputs, answers.output_structure, preprocessing)
        graph.metadata_props[METADATA_KEY] = manifest.to_json()
        temporary.write_bytes(ir.to_proto(graph).SerializeToString(deterministic=True))
        finish.check(temporary)
        size_bytes = temporary.stat().st_size
        conversion += time.perf_counter() - started

        started = time.perf_counter()
        try:
            parity, refused = verify(temporary, answers.trials, tolerance=manifest.tolerance)
        except Refused:
            if stateful:
                raise
            # Perhaps TensorFlow made those answers up, for less than a window; Keras, asked first, tells.
            with kept_states(model), in_float32(model):
                answers = _ask(model, signature, given, converted, stateful, strict=True)
            parity, refused = verify(temporary, answers.trials, tolerance=manifest.tolerance)
        if not parity:
            raise _parity_failed(parity, answers)
        sample = answers.trials[0] if given is not None else max(answers.trials, key=_rows)
        golden = write_golden(target_path, _golden(temporary, manifest, sample), manifest.model_hash)
    verification = asked + time.perf_counter() - started
    return ExportReport(
        path=os.fspath(target_path),
        golden_path=os.fspath(golden),
        data_path=None if data.path is None else os.fspath(data.path),
        size_bytes=size_bytes + (0 if data.path is None else data.path.stat().st_size),
        parameters=model.count_params(),
        nodes=sum(1 for _ in ir.traversal.RecursiveGraphIterator(graph.graph)),
        recurrent=placed.recurrent,
        loops=converted.loops,
        states=tuple(state.input for state in placed.states),
        parity=parity,
        mixed_precision_distance=distance,
        notes=(
            *loaded.notes,
            *_precision_notes(policy, distance),
            *signature.notes,
            *converted.notes,
            *answers.refused,
            *refused,
        ),
        conversion_seconds=conversion,
        verification_seconds=verification,
    )


def _precision_notes(policy: str | None, distance: float | None) -> tuple[str, ...]:
    if policy is None:
        return ()
    return (f"computed in float32: the model's own {policy} differs from it by {distance:.1e} of the outputs' range",)


def _loop_refused(model: Any, converted: Converted) -> LoopRefused:
    names = [layer.name for layer in model._flatten_layers(include_self=False)]
    # Equal names of two scopes are one layer; the order is the graph's.
    layers = dict.fromkeys(layer_of_scope(scope, names) or scope for scope in converted.user_loops)
    where = ", ".join(f"'{layer}'" for layer in layers)
    return LoopRefused(
        f"layer {where} runs a while-loop of its own, which becomes an ONNX Loop ({converted.loops} in all). Most "
        "accelerators refuse it, and it is slow. Rewrite it with keras.layers, or allow it (--allow-loop, "
        "allow_loop=True)",
        next(iter(layers), None),
    )


def _parity_failed(parity: Parity, answers: Answers) -> ParityFailed:
    worst = next(output for output in parity.outputs if not output.within)
    finite = all(np.isfinite(array).all() for trial in answers.trials for array in trial.outputs.values())
    cause = (
        "The causes known: a layer that changes its own variables at inference; Python code that branches on a shape, "
        "which tracing decides once; a method patched after the layer was made; TensorFlow's own convolutions (another "
        "result with TF_ENABLE_ONEDNN_OPTS=0 in the environment tells); numbers beyond what float32 can repeat, very "
        "large or of chaotic dynamics; or else a bug in edgeseq"
        if finite
        else "Keras's own answers hold NaN or infinity: look for them in the weights"
    )
    return ParityFailed(
        f"the exported graph differs from Keras: output '{worst.name}' by {worst.max_rel:.2e} of its range, tolerance "
        f"{worst.tolerance:.0e}. Nothing was written. {cause}",
        parity,
    )


def _check_arguments(output: files.StrPath, target: str, lowering: str, overwrite: bool) -> Path:
    if target not in TARGETS:
        raise WrongUsage(f"unknown target '{target}'; allowed: {', '.join(TARGETS)}")
    if lowering not in ("auto", *STRATEGIES):
        raise WrongUsage(f"unknown lowering '{lowering}'; allowed: auto, {', '.join(STRATEGIES)}")
    path = files.check_output(output, overwrite=overwrite)
    if path.suffix != ".onnx":
        raise WrongUsage(f"output must end in .onnx, got {path.name}")
    check_golden(path, overwrite=overwrite)
    return path


def _preprocessing(given: Mapping[str, Any] | None, model_or_path: Any) -> Mapping[str, Any] | None:
    """What was given, else the file that training wrote beside the model."""
    if given is not None or not isinstance(model_or_path, str | os.PathLike):
        return given
    beside = Path(model_or_path).with_suffix(".preprocessing.json")
    if not beside.is_file():
        return None
    document: Mapping[str, Any] = files.read_json(beside)
    return document


def _flat_samples(samples: Any, signature: Signature) -> list[Array]:
    """One batch of inputs as flat arrays of the exported dtypes, in the signature's order."""
    names = [spec.name for spec in signature.inputs]
    nested = isinstance(signature.input_structure, Mapping) and "dict" in signature.input_structure
    if isinstance(samples, Mapping) and not (nested and set(samples) == set(signature.input_structure["dict"])):
        if set(samples) != set(names):
            raise InputMismatch(f"samples are named {', '.join(samples)}; the model takes {', '.join(names)}")
        arrays = [samples[name] for name in names]
    elif len(names) == 1 and isinstance(samples, list) and not any(isinstance(row, np.ndarray) for row in samples):
        # Rows of plain numbers, as for any array.
        arrays = [samples]
    else:
        arrays = keras.tree.flatten(samples)
    if len(arrays) != len(names):
        raise InputMismatch(f"samples hold {len(arrays)} arrays; the model takes {len(names)}: {', '.join(names)}")
    flat = []
    for spec, array in zip(signature.inputs, arrays, strict=True):
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise InputMismatch(f"samples for '{spec.name}' are {array.dtype}; the model takes {spec.dtype}", spec.name)
        if array.ndim != len(spec.axes) or any(
            isinstance(axis, int) and axis != length for axis, length in zip(spec.axes, array.shape, strict=True)
        ):
            raise InputMismatch(f"samples for '{spec.name}' have shape {array.shape}; expected {spec.axes}", spec.name)
        if not array.size or not np.isfinite(array).all():
            raise InputMismatch(f"samples for '{spec.name}' are empty, or hold NaN or infinity", spec.name)
        flat.append(array.astype(spec.dtype))
    return flat


def _ask(
    model: Any,
    signature: Signature,
    given: list[Array] | None,
    converted: Converted,
    stateful: bool,
    strict: bool = False,
) -> Answers:
    if not stateful:
        return keras_answers(model, signature, given, lengths=converted.lengths, strict=strict)
    multiple = converted.placed.chunk_multiple
    return streams.answers(model, signature, given, converted.inputs, converted.outputs, multiple=multiple)


def _name_outputs(converted: Converted, answers: Answers) -> tuple[TensorSpec, ...]:
    """Write the outputs' final names and axes into the graph; states stay behind them."""
    taken = {spec.name for spec in converted.inputs} | {state.input for state in converted.placed.states}
    taken |= {state.output for state in converted.placed.states}
    if clash := taken & set(answers.output_names):
        raise WrongUsage(f"an output is called {clash.pop()}, as an input or a state is. Rename its layer")
    named = []
    for value, spec, name in zip(converted.graph.graph.outputs, converted.outputs, answers.output_names, strict=False):
        axes = tuple(axis.replace(spec.name, name) if isinstance(axis, str) else axis for axis in spec.axes)
        value.name, value.shape = name, ir.Shape(list(axes))
        named.append(dataclasses.replace(spec, name=name, axes=axes))
    return tuple(named)


def _rows(trial: Trial) -> int:
    return int(next(iter(trial.inputs.values())).shape[0])


def _golden(path: Path, manifest: Manifest, trial: Trial) -> Golden:
    """One trial, with states from zero, in the order of the graph's inputs and outputs."""
    inputs, outputs = dict(trial.inputs), {spec.name: trial.outputs[spec.name] for spec in manifest.outputs}
    if manifest.states:
        rows = next(iter(inputs.values())).shape[0]
        for state in manifest.states:
            shape = [axis if isinstance(axis, int) else rows for axis in state.axes]
            inputs[state.input] = np.full(shape, state.initial, state.dtype)
        # Keras shows no states; the file's own have been checked by cutting the sequence in several ways.
        outputs |= final_states(path, trial.inputs)
    return Golden(inputs=inputs, outputs=outputs)
