"""`Model`: a file opened once and called like the Keras model it came from."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq import files
from edgeseq.errors import DependentRows, EdgeseqError, InvalidFile, ModelRefused, WrongUsage
from edgeseq.runtime import graphs, opening, providers, signature, states, structure
from edgeseq.runtime.bound import Bound, Runner
from edgeseq.runtime.feed import Feed, Lengths
from edgeseq.runtime.independence import cause_of_dependence
from edgeseq.runtime.manifest import Manifest, TensorSpec, load_manifest
from edgeseq.runtime.placement import Placement, Proof
from edgeseq.runtime.pool import Pool
from edgeseq.runtime.preprocessing import Preprocessing
from edgeseq.runtime.ranges import GivenRanges, check_lengths
from edgeseq.runtime.repeat import Calls
from edgeseq.runtime.stream import Stream

# Fused ops that may answer a number where Keras answers NaN; unrolled steps and Scan keep the NaN. A file that edgeseq
# did not write says nothing of its layers, and is run as it is.
_LOSES_NAN = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})


class Model:
    """An ONNX file, ready to run; any ONNX model opens, also one that edgeseq did not write.

    `provider` is ``cpu``, ``cuda``, ``tensorrt`` or onnxruntime's own name of another: every floating-point node must
    run there, which the profile of the first call proves. A list, such as ``cuda,cpu``, allows the later ones for what
    the first cannot run, or when it cannot start; `placement` tells. `provider_options` go to the first as they are.
    `threads` are those within one op, 0 for all cores (one thread a physical core); None takes the file's
    recommendation for the `batch` told (1 unless told), and all cores where the file has none.

    `ranges` are for TensorRT, whose engines are built for some lengths and kept in the user's cache folder: each free
    axis by name as (min, max) or (min, opt, max); without one, 1 to the longest in the golden samples beside the file.

    With the option ``enable_cuda_graph`` of ``cuda`` every call and step but the first of all repeats a captured CUDA
    graph: one for each shape, up to 16 of them, in up to 4 threads.

    One object may be called from several threads at once.

    Raises MissingInput, InvalidFile, WrongUsage (unknown provider, bad options or ranges), ProviderUnavailable,
    ModelRefused where it starts and does not take this model, CompiledElsewhere for a file that was compiled on another
    machine, and MissingExtra;
    a call or a step also PlacementRefused, when nodes ran on another provider than the only one asked for.
    """

    def __init__(
        self,
        path: files.StrPath,
        *,
        provider: str | Sequence[str] = "cpu",
        threads: int | None = None,
        batch: int | None = None,
        provider_options: Mapping[str, Any] | None = None,
        ranges: GivenRanges | None = None,
    ):
        provider = providers.spelled(provider)
        manifest = load_manifest(path)
        if threads is None:
            threads = manifest.threads_for(batch) if manifest else 0
        self.path = Path(path)
        self.provider = provider
        self.threads = threads
        """Threads within one op; 0 means all cores (one thread a physical core)."""
        choice, opened = providers.choose(provider, provider_options), None
        while opened is None:
            # On the CPU alone there is nothing to prove.
            self._proof = (
                None
                if choice.full_names == (providers.SHORT_NAMES["cpu"],)
                else Proof(choice.full_names, choice.unavailable)
            )
            try:
                opened = opening.open_planned(
                    path,
                    manifest,
                    choice,
                    threads=threads,
                    provider_options=provider_options,
                    ranges=ranges,
                    profile=self._proof.prefix if self._proof else None,
                )
            except EdgeseqError as error:
                if refusal := graphs.refusal(error, path, manifest):
                    raise refusal from error
                if not isinstance(error, ModelRefused) or len(choice.names) == 1:
                    raise
                choice = choice.without_first(error.reason)
        self.session = opened.session
        """onnxruntime's own session, for what this class does not offer."""
        self.ranges = opened.ranges
        """Axis to (shortest, fastest, longest) that TensorRT's engine was built for; empty where any length is."""
        self.engine_folder = opened.engine_folder
        """Where TensorRT's engine is kept; None for any other provider, and where the options say so."""
        if manifest is None:
            manifest = signature.describe(path, self.session)
        else:
            signature.check(path, self.session, manifest)
        self.manifest: Manifest = manifest
        loses_nan = any(op in _LOSES_NAN for layer in manifest.recurrent for op in layer.op_types)
        self.feed = Feed(manifest.inputs, manifest.input_structure, finite_only=loses_nan)
        # Looked up while the file is there for certain.
        self._dependence = cause_of_dependence(path, manifest) if manifest.states else None
        self._output_names = [spec.name for spec in manifest.outputs]
        self.answers_alone = isinstance(manifest.output_structure, str)
        self._unavailable = choice.unavailable
        self.runner = Runner(path, self.session, self._proof, graphs.graphs_of(path, self.session, manifest))
        """What runs the session, for `Stream`."""
        self._bounds: dict[tuple[tuple[int, ...], ...], Bound] = {}
        self._calls = Calls(self.runner, self.manifest, self.feed)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and axes of each input, in graph order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and axes of each output, in graph order."""
        return self.manifest.outputs

    @property
    def placement(self) -> Placement | None:
        """Where every node ran, by the profile of the first call; None before it. On the CPU alone, no nodes."""
        if self._proof is None:
            return Placement(requested=(providers.SHORT_NAMES["cpu"],), unavailable=self._unavailable)
        return self._proof.placement

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The session's `outputs`, by name, for arrays by input name that fit, states included."""
        return self.runner.run(outputs, feed)

    def __call__(self, inputs: Any, *, raw: bool = False) -> Any:
        """Answers for `inputs`, nested as the Keras model takes and returns them, from the initial state.

        Anything `np.asarray` takes is an array, and a dict by input name is taken for any nesting. Whole floats pass
        for integers and any real number for floats. `raw=True` applies the file's preprocessing to the inputs and its
        inverse to the outputs.

        Raises InputMismatch for inputs that do not fit, WrongUsage for `raw=True` where the file has no preprocessing.
        """
        if not raw and (found := self._calls.again(inputs)) is not None:
            return self.nested(found)
        values = self.feed.by_name(inputs)
        if raw:
            values = self._preprocessing.before(values)
        lengths: Lengths = {}
        feed = self.feed.arrays(values, lengths)
        check_lengths(lengths, self.ranges)
        if self.manifest.states:
            feed.update(self.initial_states(lengths))
        if self.runner.graphs and self.placement is not None:
            results = self._replayed(feed, lengths)
        else:
            # Not bound: onnxruntime takes the arrays where they lie, and any number of threads may run at once.
            results = self.run(self._output_names, feed)
            self._calls.settle(feed, lengths)
        return self.nested(results, raw=raw)

    def _replayed(self, feed: Mapping[str, np.ndarray], lengths: Lengths) -> list[np.ndarray]:
        """The outputs by the CUDA graph for these shapes, which is captured where there is none yet."""
        shapes = tuple(array.shape for array in feed.values())
        with self.runner.lock:
            if shapes not in self._bounds:
                given = [*self.inputs, *(state.input_spec for state in self.manifest.states)]
                self._bounds[shapes] = Bound(self.runner, given, self.outputs, lengths)
            return self._bounds[shapes].run(feed)

    def nested(self, results: list[np.ndarray], *, raw: bool = False) -> Any:
        """The session's `results`, in the order of `outputs`, nested as Keras returns them."""
        if self.answers_alone and not raw:
            return results[0]
        values = dict(zip(self._output_names, results, strict=True))
        if raw:
            values = self._preprocessing.after(values)
        return structure.nest(values, self.manifest.output_structure)

    def initial_states(self, lengths: Lengths) -> dict[str, np.ndarray]:
        """New arrays of the initial states by input name; `lengths` gives the length of each named axis."""
        return states.initial(self.manifest.states, lengths)

    def stream(self, batch: int = 1) -> Stream:
        """A new stream of `batch` rows that keeps the state from step to step.

        Raises WrongUsage when the file has no states, or another fixed batch, and DependentRows when it is quantized so
        that rows and steps share a scale.
        """
        self._check_rows()
        return Stream(self, batch)

    def pool(
        self, *, max_streams: int = 1024, max_batch: int = 64, max_wait_ms: float = 2.0, max_queue: int = 4096
    ) -> Pool:
        """Many streams of one row each, `max_streams` of them at most, computed in batches of at most `max_batch` rows.

        The queued form waits `max_wait_ms` for a batch to fill, and holds `max_queue` chunks. A pool is to be closed,
        or used in a ``with``.

        Raises WrongUsage when the file has no states, or not one row for each stream in all inputs and outputs, and
        DependentRows as `stream` does.
        """
        self._check_rows()
        return Pool(self, max_streams=max_streams, max_batch=max_batch, max_wait_ms=max_wait_ms, max_queue=max_queue)

    def _check_rows(self) -> None:
        if self._dependence is not None:
            raise DependentRows(self.path, self._dependence)

    @functools.cached_property
    def _preprocessing(self) -> Preprocessing:
        if self.manifest.preprocessing is None:
            raise WrongUsage(
                f"{self.path} carries no preprocessing, so raw=True cannot be used. "
                "Export it with preprocessing=..., or pass the arrays that the model takes."
            )
        try:
            return Preprocessing(self.manifest.preprocessing)
        except WrongUsage as error:
            raise InvalidFile(self.path, str(error)) from error
