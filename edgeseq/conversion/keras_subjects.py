"""What edgeseq's files are measured against: Keras's `predict`, and the file that Keras itself exports.

A rival that cannot convert or run a model gets that as its result: a subject with an `error`, never an exception.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edgeseq.bench.answers import flatten
from edgeseq.bench.record import KERAS_EXPORT, KERAS_PREDICT
from edgeseq.bench.subjects import (
    Subject,
    calls_of,
    error_text,
    file_sha256,
    file_subjects,
    model_size_bytes,
)
from edgeseq.conversion.bridge import working_tf2onnx
from edgeseq.conversion.failures import reason_of, shapes_of
from edgeseq.conversion.load import load
from edgeseq.conversion.reference import reset_states
from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime import structure
from edgeseq.runtime.manifest import load_manifest
from edgeseq.runtime.providers import choose, open_session
from edgeseq.runtime.ranges import GivenRanges


def side_by_side(
    model: Any,
    files: Sequence[StrPath],
    *,
    providers: Sequence[str] = ("cpu",),
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: Sequence[int | None] | int | None = None,
    batch: Sequence[int] | int | None = None,
    time_steps: int | None = None,
    inputs: Any = None,
    lengths: StrPath | None = None,
    sort_rows: bool = False,
    seed: int = 0,
) -> tuple[Subject, ...]:
    """Subjects for one run: Keras `predict` (the reference), Keras's own export, then each of `files`, same inputs.

    `model` is the Keras model that the files were exported from, or its path. The inputs are chosen for the first
    file, and Keras's export runs as that does: its provider, the first of its numbers of threads. With several batches
    there is a pair of Keras's subjects for each: ``Keras predict, batch 32``. Otherwise as
    `edgeseq.bench.file_subjects`.

    Raises WrongUsage without files, InputMismatch where the model does not take what the first file takes or answers in
    other shapes, and what opening the model or a file raises.
    """
    ours = file_subjects(
        files,
        providers=providers,
        provider_options=provider_options,
        ranges=ranges,
        threads=threads,
        batch=batch,
        time_steps=time_steps,
        inputs=inputs,
        lengths=lengths,
        sort_rows=sort_rows,
        seed=seed,
    )
    firsts = {subject.batch: subject for subject in reversed(ours) if subject.model == ours[0].model}
    loaded = load(model).model
    _check_fits(loaded, ours[0])
    return (*_theirs(loaded, [firsts[rows] for rows in sorted(firsts, key=_place(ours))]), *ours)


def _place(subjects: Sequence[Subject]) -> Callable[[int], int]:
    """Where the first subject of a batch stands."""
    batches = [subject.batch for subject in subjects]
    return batches.index


def _check_fits(model: Any, like: Subject) -> None:
    """Raise InputMismatch unless the Keras model can be called as the file is, and its answers have the file's axes."""
    try:
        answers = _called(model, like.fed)
    except MemoryError:
        raise
    except Exception as error:
        # Keras itself says only which product of matrices failed.
        takes = shapes_of(getattr(model, "inputs", None) or ()) or reason_of(error)
        raise InputMismatch(
            f"the Keras model does not take what {like.name} takes, {shapes_of(flatten(like.fed))}: {takes}. Name the "
            "model that the file was exported from"
        ) from error
    manifest = None if like.path is None else load_manifest(like.path)
    if manifest is None:
        return
    found = structure.flatten(answers, manifest.output_structure, "the Keras model's answer")
    for spec in manifest.outputs:
        shape = tuple(found[spec.name].shape)
        fixed = [(axis, length) for axis, length in zip(spec.axes, shape, strict=False) if isinstance(axis, int)]
        if len(shape) != len(spec.axes) or any(axis != length for axis, length in fixed):
            raise InputMismatch(
                f"the Keras model's answer has the shape {shape}, and {like.name}'s '{spec.name}' the axes "
                f"{spec.axes}. Name the model that the file was exported from",
                spec.name,
            )


def _called(model: Any, fed: Any) -> Any:
    """The model's answers. Keras exports only models that were called; loading a file does not call its model."""
    answers = model(keras.tree.map_structure(np.asarray, fed), training=False)
    reset_states(model)
    return answers


def _theirs(model: Any, likes: Sequence[Subject]) -> Iterator[Subject]:
    """Keras's two subjects for each of `likes`: fed as it is, the export on its provider with its threads."""
    # Removed when the last of them was made: a session has read its file then.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for like in likes:
            said = f", batch {like.batch}" if len(likes) > 1 else ""
            facts: dict[str, Any] = {
                name: getattr(like, name)
                for name in ("fed", "feeds", "cycle", "batch", "time_steps", "inputs", "lengths")
            }
            yield Subject(
                name=f"{KERAS_PREDICT}{said}",
                model=KERAS_PREDICT,
                call=calls_of(_predict(model, like.batch), like.feeds),
                provider="tensorflow",
                **facts,
            )
            facts |= {"name": f"{KERAS_EXPORT}{said}", "model": KERAS_EXPORT, "provider": like.provider}
            yield _export(model, path, like, facts)


def _predict(model: Any, batch: int) -> Callable[[Any], Any]:
    stateful = any(getattr(layer, "stateful", False) for layer in model._flatten_layers(include_self=False))

    def call(inputs: Any) -> Any:
        if stateful:
            reset_states(model)
        return model.predict(inputs, batch_size=batch, verbose=0)

    return call


def _export(model: Any, path: Path, like: Subject, facts: dict[str, Any]) -> Subject:
    """The subject that runs the file at `path`, which Keras writes unless it is there."""
    threads = like.threads or 0
    facts = {**facts, "provider_options": like.provider_options, "threads": threads}
    try:
        if not path.exists():
            _called(model, like.fed)
            with _exporter():
                model.export(path, format="onnx", verbose=False)
        facts |= {"size_bytes": model_size_bytes(path), "file_sha256": file_sha256(path)}
        choice = choose(like.provider, like.provider_options)
        session = open_session(
            path,
            provider=choice.names[0],
            provider_options=like.provider_options if choice.prefers_first else None,
            threads=threads,
            others=choice.names[1:],
        )
        taken = [_feed(session, model, fed) for fed in like.feeds]
    except Exception as error:  # noqa: BLE001 - a rival that cannot do it has that as its result
        return Subject(call=None, error=error_text(error), **facts)
    names = [output.name for output in session.get_outputs()]
    return Subject(call=calls_of(lambda feed: session.run(names, feed), taken), **facts)


def _feed(session: Any, model: Any, inputs: Any) -> dict[str, Any]:
    """The inputs under the names that Keras's export gave them, with the dtypes it asks for."""
    flat = [np.asarray(array) for array in keras.tree.flatten(inputs)]
    names = [tensor.name for tensor in getattr(model, "inputs", None) or []]
    wanted = {argument.name: argument for argument in session.get_inputs()}
    # Keras leaves out inputs that nothing reads, and keeps the names where they are names to TensorFlow as well.
    if not set(wanted) <= set(names):
        if len(wanted) != len(flat):
            raise WrongUsage(f"its file asks for {len(wanted)} inputs ({', '.join(wanted)}), the model for {len(flat)}")
        names = list(wanted)
    dtypes = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
    return {
        name: array.astype(dtypes.get(wanted[name].type, array.dtype))
        for name, array in zip(names, flat, strict=True)
        if name in wanted
    }


@contextlib.contextmanager
def _exporter() -> Iterator[None]:
    """Let Keras's exporter patch tf2onnx and NumPy as it does, once and for good, and undo it afterwards.

    Else a model exported by edgeseq after a benchmark could differ from one exported before it.
    """
    with working_tf2onnx(), _unpatched_afterwards():
        yield


@contextlib.contextmanager
def _unpatched_afterwards() -> Iterator[None]:
    tfonnx, graph = (importlib.import_module(name) for name in ("tf2onnx.tfonnx", "tf2onnx.graph"))
    places = ((tfonnx, "rewrite_constant_fold"), (graph.Node, "get_value_attr"))
    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    patch = importlib.import_module("keras.src.export.tf2onnx_lib").patch_tf2onnx
    # It remembers that it has patched: without this it would not do so a second time.
    patch.cache_clear()
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)
