"""`inspect`: what is in a file, without running it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseq.errors import InvalidFile, MissingExtra, WrongUsage
from edgeseq.files import StrPath, check_input
from edgeseq.prediction import Prediction, predict
from edgeseq.runtime import wire
from edgeseq.runtime.manifest import (
    Compiled,
    Manifest,
    Quantization,
    RecurrentLayer,
    StateSpec,
    TensorSpec,
    load_manifest,
)
from edgeseq.runtime.preprocessing import validate

try:
    import onnx

    from edgeseq.prediction.loading import load, nodes
except ModuleNotFoundError as error:
    raise MissingExtra(str(error.name), "quantize", "looking into a graph") from error


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file holds."""

    path: str
    """The file."""
    size_bytes: int
    """Its size, data files left out."""
    data_files: dict[str, int | None]
    """Name of each file beside it that holds weights, to its size in bytes; None where there is no such file."""
    opset: int
    """ONNX opset of the main domain."""
    inputs: tuple[TensorSpec, ...]
    """Inputs in graph order, states left out."""
    outputs: tuple[TensorSpec, ...]
    """Outputs in graph order, states left out."""
    states: tuple[StateSpec, ...]
    """States that the caller carries."""
    ops: dict[str, int]
    """Op type (with its domain, where that is not ONNX's) to number of nodes, subgraphs included, most first."""
    nodes: int
    """Number of nodes, subgraphs included."""
    loops: int
    """Number of Loop nodes among them."""
    recurrent: tuple[RecurrentLayer, ...]
    """Keras's recurrent layers and how each was lowered; empty without a manifest."""
    parameters: int | None
    """Keras's parameter count; None without a manifest."""
    weights: int
    """Number of weights in the file and its data files."""
    weights_bytes: int
    """Their size."""
    preprocessing: dict[str, str]
    """Input or output name to the kind of step that `raw=True` applies to it."""
    quantization: Quantization | None
    """What `edgeseq quantize` did; None for a file in full precision."""
    compiled: Compiled | None
    """What `edgeseq compile` built it for; None for a file that runs anywhere."""
    tolerance: float | None
    """What parity allows on the CPU; None without a manifest."""
    versions: dict[str, str]
    """Versions of what wrote the file."""
    model_hash: str
    """SHA-256 of the Keras config and weights; empty without a manifest."""
    has_manifest: bool
    """Whether edgeseq wrote the file."""
    prediction: Prediction | None = None
    """Where each node would run; None where no target was asked about."""


def inspect(path: StrPath, target: str | None = None) -> Inspection:
    """Read the graph and the manifest of an ONNX file, and predict where its nodes would run on `target`.

    `target` is ``cuda`` or ``tensorrt``; None predicts nothing. See `edgeseq.prediction`.

    Raises MissingInput when there is no file, InvalidFile when it is not an ONNX model, and WrongUsage for another
    target.
    """
    found = check_input(path)
    manifest = load_manifest(found)
    model = load(found)
    ops = Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        for node in nodes(model.graph)
    )
    steps = _steps(found, manifest)
    initializers = model.graph.initializer
    return Inspection(
        path=os.fspath(found),
        size_bytes=found.stat().st_size,
        data_files={
            name: other.stat().st_size if (other := found.parent / name).is_file() else None
            for name in wire.read_data_files(found)
        },
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        inputs=manifest.inputs if manifest else _specs(model.graph.input, {i.name for i in initializers}),
        outputs=manifest.outputs if manifest else _specs(model.graph.output, set()),
        states=manifest.states if manifest else (),
        ops=dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        nodes=ops.total(),
        loops=ops["Loop"],
        recurrent=manifest.recurrent if manifest else (),
        parameters=manifest.parameters if manifest else None,
        weights=sum(_elements(tensor) for tensor in initializers),
        weights_bytes=sum(_size_bytes(tensor) for tensor in initializers),
        preprocessing={
            name: step["kind"] for side in ("inputs", "outputs") for name, step in steps.get(side, {}).items()
        },
        quantization=manifest.quantization if manifest else None,
        compiled=manifest.compiled if manifest else None,
        tolerance=manifest.tolerance if manifest else None,
        versions=dict(manifest.versions) if manifest else {},
        model_hash=manifest.model_hash if manifest else "",
        has_manifest=manifest is not None,
        prediction=None if target is None else predict(model, target),
    )


def _steps(path: StrPath, manifest: Manifest | None) -> Mapping[str, Any]:
    """The manifest's preprocessing, found sound; empty where there is none."""
    if manifest is None or manifest.preprocessing is None:
        return {}
    try:
        validate(manifest.preprocessing)
    except WrongUsage as error:
        raise InvalidFile(path, str(error)) from error
    return manifest.preprocessing


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for length in tensor.dims:
        count *= length
    return count


def _size_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return int(tensor.ByteSize())
    entries = {entry.key: entry.value for entry in tensor.external_data}
    # The length may be left out.
    return int(
        entries.get("length") or _elements(tensor) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    )


def _specs(values: Any, constants: set[str]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=_dtype(value.type),
            axes=tuple(
                axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?"
                for axis in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
        if value.name not in constants
    )


def _dtype(kind: onnx.TypeProto) -> str:
    """numpy's name of a tensor's type; ``sequence``, ``optional`` and the like for others, ``?`` where none is told."""
    if kind.tensor_type.elem_type:
        return onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type).name
    return "?" if kind.HasField("tensor_type") else str(kind.WhichOneof("value") or "?").removesuffix("_type")
