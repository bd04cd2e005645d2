"""The manifest: one JSON document in a file's metadata, under the key `edgeseq`, that says how to use the file.

Every dataclass here is the JSON object of the same shape; `Manifest.to_json` and `Manifest.from_json` are inverses.
Fields may be added, with a default, without a new format version: readers leave out what they do not know. The version
grows when a field changes its meaning or goes away. No measured value is kept in it, so that the same model exported
twice gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeseq import files
from edgeseq.errors import InvalidFile
from edgeseq.runtime import document, wire

METADATA_KEY = "edgeseq"
FORMAT_VERSION = 1

Structure = Any
"""How tensors are nested in what the Keras model takes or returns, as JSON: a tensor's name is a leaf, a list is a
list, ``{"tuple": [...]}`` is a tuple and ``{"dict": {...}}`` is a dict."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of the file."""

    name: str
    """Name in the ONNX graph."""
    dtype: str
    """numpy dtype name of the ONNX tensor, such as ``float32``, ``int32`` or ``bool``."""
    axes: tuple[str | int, ...]
    """One entry an axis: an int is a fixed length, a name (``batch``, ``time``, ``time_2``) a free one; ``time/4`` is
    a fourth of the time steps that go in."""
    vocabulary_size: int | None = None
    """For an input that an Embedding reads: how many ids there are, from 0 on. None for any other."""

    @property
    def batch_axis(self) -> int | None:
        """The axis of rows: the first named ``batch...``, else the first of all, if that may be one."""
        for place, axis in enumerate(self.axes):
            if isinstance(axis, str) and axis.startswith("batch"):
                return place
        if not self.axes or self.time_axis == 0:
            return None
        # A lone fixed axis is a vector of its own, not rows.
        return 0 if isinstance(self.axes[0], str) or len(self.axes) >= 2 else None

    @property
    def time_axis(self) -> int | None:
        """The axis of time steps: the first named ``time...``, else the second of (batch, time, features...) or of ids.

        (batch, ids) are integers, or have a `vocabulary_size`; floats of that rank are (batch, features).
        """
        for place, axis in enumerate(self.axes):
            if isinstance(axis, str) and axis.startswith("time"):
                return place
        integers = self.vocabulary_size is not None or self.dtype.startswith(("int", "uint"))
        is_sequence = len(self.axes) >= 3 or (len(self.axes) == 2 and integers)
        return 1 if is_sequence and not str(self.axes[1]).startswith("batch") else None


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One recurrent state that the caller carries from run to run."""

    input: str
    """Name of the graph input that takes the state, such as ``state_in.00.lstm.h``."""
    output: str
    """Name of the graph output that gives the next state, such as ``state_out.00.lstm.h``."""
    dtype: str
    """numpy dtype name."""
    axes: tuple[str | int, ...]
    """Batch first; the first entry is ``batch`` or a fixed length."""
    initial: float = 0.0
    """The value every element has before the first step."""

    @property
    def input_spec(self) -> TensorSpec:
        """The graph input."""
        return TensorSpec(name=self.input, dtype=self.dtype, axes=self.axes)

    @property
    def output_spec(self) -> TensorSpec:
        """The graph output."""
        return TensorSpec(name=self.output, dtype=self.dtype, axes=self.axes)


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """Where a Boolean mask over time steps comes from. The mask is computed inside the file."""

    input: str
    """Name of the input whose steps are masked."""
    layer: str
    """Name of the Keras layer that makes the mask."""
    value: float
    """A step is masked when its id (Embedding) or all its features (Masking) equal this value."""


@dataclass(frozen=True, kw_only=True)
class RecurrentLayer:
    """How one recurrent Keras layer (a Bidirectional is one) was lowered."""

    name: str
    """Name of the Keras layer."""
    layer_type: str
    """Keras class name, such as ``LSTM`` or ``Bidirectional``."""
    strategy: str
    """``fused`` (one ONNX recurrent op), ``unrolled`` (a copy of the step per time step), ``scan`` or ``loop``."""
    op_types: tuple[str, ...]
    """The ONNX op types that compute the recurrence, without those that only reshape."""
    reason: str = ""
    """Why it was lowered by this strategy; empty in files of before edgeseq told."""


@dataclass(frozen=True, kw_only=True)
class ThreadAdvice:
    """Number of intra-op threads to use from a batch size on."""

    batch: int
    """Smallest batch size this advice is for."""
    threads: int
    """Intra-op threads; 0 means all cores (one thread a physical core)."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What `edgeseq quantize` did to the file."""

    method: str
    """``post-training``."""
    layers: Mapping[str, str]
    """Name of each layer that is quantized to its form."""
    rows_independent: bool
    """Whether a row's answer is the same whatever rows it is in a batch with."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What `edgeseq compile` built the file for: it runs there and nowhere else."""

    provider: str
    """onnxruntime's name of the execution provider."""
    options: Mapping[str, str]
    """Options of the provider that the caller gave and that hold for running it too, as ``device_type``."""
    precision: str
    """``fp32``, or ``fp16`` or ``bf16`` where the provider may round to that."""
    ranges: Mapping[str, tuple[int, ...]]
    """Axis to (shortest, fastest, longest) that it takes; empty where it takes what the original does."""
    built_on: Mapping[str, str]
    """Versions, and the device, that it was built with and for."""
    source: str
    """SHA-256 of the file that it was built from, its data files included."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How to feed a file, what comes out, and where it came from."""

    inputs: tuple[TensorSpec, ...]
    """Inputs in graph order, states left out."""
    outputs: tuple[TensorSpec, ...]
    """Outputs in graph order, states left out."""
    input_structure: Structure
    """How the Keras model takes its inputs."""
    output_structure: Structure
    """How the Keras model returns its outputs."""
    states: tuple[StateSpec, ...] = ()
    """States in graph order; empty unless the file streams."""
    chunk_multiple: int = 1
    """A streaming file takes chunks of a multiple of so many time steps: the product of its layers' strides."""
    masks: tuple[MaskSpec, ...] = ()
    """The layers that make masks."""
    recurrent: tuple[RecurrentLayer, ...] = ()
    """The recurrent layers and how each was lowered."""
    preprocessing: Mapping[str, Any] | None = None
    """``{"inputs": {name: step}, "outputs": {name: step}}``; see `edgeseq.runtime.preprocessing` for the steps."""
    parameters: int | None = None
    """Keras's parameter count of the model."""
    tolerance: float = 1e-5
    """|a - b| <= tolerance × max(1, max |reference|) is parity for this file on the CPU."""
    quantization: Quantization | None = None
    """What `edgeseq quantize` did; None for a file in full precision."""
    compiled: Compiled | None = None
    """What `edgeseq compile` built the file for; None for one that any provider may run."""
    threads: tuple[ThreadAdvice, ...] = ()
    """Advice in ascending batch size."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of edgeseq, keras, tf2onnx and onnx at export, and of the onnxruntime that quantized."""
    model_hash: str = ""
    """SHA-256 of the canonical Keras config and weights, in hexadecimal."""
    format_version: int = FORMAT_VERSION
    """Version of this document's format."""

    def to_json(self) -> str:
        """The document as compact JSON with sorted keys: the same manifest always gives the same bytes.

        Raises ValueError for a number that is not finite, which JSON does not have.
        """
        return json.dumps(
            dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a document written by `to_json`; keys that this edgeseq does not know are left out.

        Raises ValueError, with the reason as its message, when the text is not a manifest or of a newer format.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its edgeseq manifest is not JSON ({error})") from error
        if not isinstance(found, dict) or not isinstance(found.get("format_version"), int):
            raise ValueError("its edgeseq manifest has no format version")
        if found["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"its manifest has format version {found['format_version']}; this edgeseq reads up to "
                f"{FORMAT_VERSION}. Upgrade with: pip install --upgrade edgeseq"
            )
        try:
            return document.read(cls, found)
        except ValueError as error:
            raise ValueError(f"its edgeseq manifest is damaged: {error}") from error

    def threads_for(self, batch: int | None) -> int:
        """Recommended intra-op threads for `batch` (None is taken as 1); 0 means all cores, as in `ThreadAdvice`."""
        fitting = [advice.threads for advice in self.threads if advice.batch <= (batch or 1)]
        return fitting[-1] if fitting else 0


def load_manifest(path: files.StrPath) -> Manifest | None:
    """The manifest in the metadata of an ONNX file; None where the file is a model that edgeseq did not write.

    Raises MissingInput when there is no file, InvalidFile when it is not an ONNX model, or its manifest is damaged or
    of a newer format.
    """
    text = wire.read_metadata(path).get(METADATA_KEY)
    if text is None:
        return None
    try:
        return Manifest.from_json(text)
    except ValueError as error:
        raise InvalidFile(path, str(error)) from error


def time_axes(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The time axis, by name, of those inputs that a stream cuts into steps; the others are static.

    Where a time axis is free, those are the inputs with a free one. Where none is, they are as long as the first input
    of (batch, time, features...), or of ids if there is none.
    """
    found = [(spec, axis) for spec in inputs if (axis := spec.time_axis) is not None]
    free = [(spec, axis) for spec, axis in found if isinstance(spec.axes[axis], str)]
    if found and not free:
        # Integers of rank 2 may also be features; higher ranks are surer.
        surest, axis = max(found, key=lambda entry: len(entry[0].axes) >= 3)
        free = [(spec, place) for spec, place in found if spec.axes[place] == surest.axes[axis]]
    return {spec.name: axis for spec, axis in free}


def fewest_steps(manifest: Manifest) -> int:
    """The fewest time steps that the file takes as a chunk: the length of a fixed time axis, else `chunk_multiple`."""
    along = time_axes(manifest.inputs)
    lengths = (spec.axes[along[spec.name]] for spec in manifest.inputs if spec.name in along)
    return next((length for length in lengths if isinstance(length, int)), manifest.chunk_multiple)


def output_time_axes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, int]:
    """The time axis, by name, of those outputs that have an entry for each step that goes in.

    So do those with one for every so many steps, whose axis is then called ``time/4``. Any other output, an image as
    well, is an answer of its own to each chunk.
    """
    along = time_axes(inputs)
    steps = {spec.axes[along[spec.name]] for spec in inputs if spec.name in along}
    found = ((spec, spec.time_axis) for spec in outputs)
    return {spec.name: axis for spec, axis in found if axis is not None and _whole_axis(spec.axes[axis]) in steps}


def _whole_axis(axis: str | int) -> str | int:
    """The axis that a part of one, such as ``time/4``, is counted on."""
    return axis.partition("/")[0] if isinstance(axis, str) else axis
