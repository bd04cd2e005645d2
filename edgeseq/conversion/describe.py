"""The manifest of a finished graph: how to use the file, and where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf
import tf2onnx

from edgeseq import __version__
from edgeseq.conversion.convert import Converted
from edgeseq.conversion.signature import Signature
from edgeseq.errors import WrongUsage
from edgeseq.runtime import preprocessing as steps
from edgeseq.runtime.manifest import Manifest, MaskSpec, Structure, TensorSpec, ThreadAdvice

TOLERANCE = 1e-5
"""For float32 on the CPU: what other orders of summation and other polynomials for tanh and sigmoid differ by."""

DOUBLE_TOLERANCE = 1e-12
"""The same for float64, whose numbers have nine more digits; two are left for longer sums."""

# One step's work is too small to share between threads; rows of a batch are not. `edgeseq bench --batch N --threads M`
# measures it on any machine.
THREADS = (ThreadAdvice(batch=1, threads=1), ThreadAdvice(batch=8, threads=0))


def describe(
    model: Any,
    signature: Signature,
    converted: Converted,
    outputs: tuple[TensorSpec, ...],
    output_structure: Structure,
    preprocessing: Mapping[str, Any] | None,
) -> Manifest:
    """The manifest of a converted model. Raises WrongUsage for preprocessing that does not fit it."""
    if preprocessing is not None:
        inputs, names = converted.inputs, [spec.name for spec in outputs]
        steps.validate(preprocessing, inputs=[spec.name for spec in inputs], outputs=names)
        _check_steps_fit(preprocessing, inputs, outputs)
    return Manifest(
        inputs=converted.inputs,
        outputs=outputs,
        input_structure=signature.input_structure,
        output_structure=output_structure,
        states=converted.placed.states,
        chunk_multiple=converted.placed.chunk_multiple,
        masks=_masks(signature),
        recurrent=converted.placed.recurrent,
        preprocessing=preprocessing,
        parameters=model.count_params(),
        tolerance=DOUBLE_TOLERANCE if _all_double(converted.graph, outputs) else TOLERANCE,
        threads=THREADS if converted.placed.recurrent else (),
        versions=_versions(),
        model_hash=_model_hash(model),
    )


def _all_double(graph: ir.Model, outputs: Sequence[TensorSpec]) -> bool:
    """Whether nothing is rounded to float32 on the way: Keras's LayerNormalization does so under any policy."""
    if not all(spec.dtype == "float64" for spec in outputs):
        return False
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(graph)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    # An input in float32 is exact in double; a value computed in float32 is not.
    return not any(
        node.op_type == "Cast"
        and types.get(node.input[0]) == onnx.TensorProto.FLOAT
        and any(given.name == "to" and given.i == onnx.TensorProto.DOUBLE for given in node.attribute)
        for node in inferred.node
    )


def _check_steps_fit(
    preprocessing: Mapping[str, Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Raise WrongUsage for a step that could never work with the tensor it is for."""
    for side, specs in (("inputs", inputs), ("outputs", outputs)):
        for spec in specs:
            step = (preprocessing.get(side) or {}).get(spec.name)
            if step is None:
                continue
            last = spec.axes[-1]
            if step["kind"] == "scale" and len(step["offset"]) not in (1, last):
                raise WrongUsage(
                    f"preprocessing scales {len(step['offset'])} features of '{spec.name}', which has {last}"
                )
            if step["kind"] == "text":
                ids = step["first_id"] + len(step["vocabulary"])
                if not spec.dtype.startswith("int") or len(spec.axes) != 2:
                    raise WrongUsage(f"preprocessing makes word ids for '{spec.name}', which takes {spec.dtype}")
                if spec.vocabulary_size is not None and ids > spec.vocabulary_size:
                    raise WrongUsage(
                        f"preprocessing makes ids up to {ids - 1}; '{spec.name}' takes {spec.vocabulary_size}"
                    )


def _versions() -> dict[str, str]:
    return {
        "edgeseq": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "tf2onnx": tf2onnx.__version__,
        "onnx": onnx.__version__,
    }


def _masks(signature: Signature) -> tuple[MaskSpec, ...]:
    return tuple(
        MaskSpec(input=spec.name, layer=spec.mask_layer, value=spec.mask_value)
        for spec in signature.inputs
        if spec.mask_value is not None
    )


def _model_hash(model: Any) -> str:
    """SHA-256 over the config, where the model has one, and all weights."""
    digest = hashlib.sha256()
    try:
        config = json.loads(model.to_json())
        # What the model computes, not how it was trained.
        config = {key: config.get(key) for key in ("class_name", "registered_name", "config")}
        digest.update(json.dumps(config, sort_keys=True).encode())
    except (NotImplementedError, TypeError, ValueError):
        # A subclassed model need not have a config; its weights still tell it from others.
        digest.update(type(model).__name__.encode())
    for weight in model.weights:
        # Without a copy: a table may take gigabytes.
        array = np.ascontiguousarray(np.asarray(weight.value))
        digest.update(f"{array.dtype}{tuple(weight.shape)}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
