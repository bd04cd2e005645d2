"""The rules of a target, applied to every node of a file."""

from __future__ import annotations

from edgeseq.errors import MissingExtra, WrongUsage
from edgeseq.files import StrPath
from edgeseq.prediction.result import ELSEWHERE, TARGETS, PredictedNode, Prediction
from edgeseq.runtime.placement import layer_of

try:
    import onnx
except ModuleNotFoundError as error:
    raise MissingExtra(str(error.name), "quantize", "predicting where nodes run") from error

from edgeseq.prediction import cuda, graph, kernels, tensorrt
from edgeseq.prediction.loading import load


def apply_rules(model: onnx.ModelProto | StrPath, target: str) -> Prediction:
    """See `edgeseq.prediction.predict`."""
    if target not in TARGETS:
        raise WrongUsage(f"placement is predicted for {', '.join(TARGETS)}; got '{target}'")
    if not isinstance(model, onnx.ModelProto):
        model = load(model)
    read = graph.read(model)
    if target == "cuda":
        decisions, rules = cuda.decide(read), f"CUDA kernels of onnxruntime {kernels.cuda_version()}"
    else:
        decisions = tensorrt.decide(read)
        rules = f"operators of onnx-tensorrt for TensorRT {kernels.tensorrt_version()}"
    elsewhere = ELSEWHERE if target == "tensorrt" else "cpu"
    nodes = []
    for _, node in graph.walk(read):
        reason, rewrite = decisions.get(id(node), ("", ""))
        nodes.append(
            PredictedNode(
                name=node.name,
                op_type=node.label,
                layer=layer_of(node.name),
                provider=elsewhere if reason else target,
                floating=node.floating,
                reason=reason,
                rewrite=rewrite,
            )
        )
    return Prediction(target=target, rules=rules, nodes=tuple(nodes))
