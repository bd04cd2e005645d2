"""Whether rows and steps are computed each on its own: a stream's answers are to depend on nothing beside it.

An op that finds one scale for a whole tensor while it runs makes a row's answer depend on the rows in its batch, and a
step's on the other steps of its chunk.
"""

from __future__ import annotations

from edgeseq.files import StrPath
from edgeseq.runtime import wire
from edgeseq.runtime.manifest import Manifest

# https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md and
# https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
_ONE_SCALE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"})


def cause_of_dependence(path: StrPath, manifest: Manifest) -> str | None:
    """What in the file makes rows depend on each other; None where nothing does.

    The graph is asked as well as the manifest: other tools quantize a file and leave its manifest as it was.
    """
    node = wire.find_node(path, _ONE_SCALE)
    if node is not None:
        op_type, name = node
        return f"the op {op_type}" + (f" '{name}'" if name else "")
    quantization = manifest.quantization
    if quantization is not None and not quantization.rows_independent:
        forms = ", ".join(f"layer '{layer}' as {form}" for layer, form in quantization.layers.items())
        return f"what is quantized ({forms})"
    return None
