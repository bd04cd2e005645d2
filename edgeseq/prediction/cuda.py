"""Which nodes onnxruntime's CUDA provider takes.

Three steps, as the provider's own (cuda_execution_provider.cc, GetCapability, and fallback_cpu_capability.cc): has it a
kernel, does it take these attributes, and is the node arithmetic on shapes, which is kept on the host.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeseq.prediction import kernels
from edgeseq.prediction.graph import Graph, Node

Decision = tuple[str, str]
"""Why a node is not on the target, and what would keep it there. Empty for one that is."""

ON_TARGET: Decision = ("", "")

# Of cuDNN, one direction after the other.
_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh") * 2, "GRU": ("sigmoid", "tanh") * 2, "RNN": ("tanh",) * 2}

_PEEPHOLES = 7

_SMALL = 100
"""Elements of a weight that the host may compute with."""

# Inputs that the CUDA kernels themselves read on the host, by op: a node that takes a shape there stays on the GPU.
_READ_ON_HOST: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Clip": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "GRU": (4,),
    "If": (0,),
    "LSTM": (4,),
    "Loop": (0, 1),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "RNN": (4,),
    "Range": (0, 1, 2),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}

_NEVER_ON_HOST = ("float16", "bfloat16", "float8")

_STEPS = "export with --target cuda: edgeseq then writes the steps as nodes that CUDA has"
_NOT_QUANTIZED = "use the file in float32 or float16: CUDA has no kernels for this form of int8"
_QUANTIZED = frozenset(
    {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "DynamicQuantizeLinear", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"ConvInteger", "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QGemm"}
)


def decide(graph: Graph) -> dict[int, Decision]:
    """What keeps each node of `graph`, by its `id`, off CUDA; the nodes of bodies included."""
    decisions: dict[int, Decision] = {}
    for node in graph.nodes:
        decisions[id(node)] = _kernel(node) or _attributes(node) or ON_TARGET
        for body in node.bodies:
            decisions.update(decide(body))
    for node in _host(graph, decisions):
        decisions[id(node)] = (
            "it computes with shapes and lengths alone, which onnxruntime keeps on the host",
            "compute it of the model's inputs, or of integers" if node.floating else "",
        )
    return decisions


def _kernel(node: Node) -> Decision | None:
    reason = kernels.why_not_cuda(node.op_type, node.domain, node.since, node.types)
    if not reason:
        return None
    if node.op_type in _QUANTIZED:
        return reason, _NOT_QUANTIZED
    if not node.floating:
        return reason, ""
    if node.op_type in _ACTIVATIONS:
        return reason, "use float32 or float16"
    return reason, "replace the op by ones that CUDA has, or allow the CPU as well: cuda,cpu"


def _attributes(node: Node) -> Decision | None:
    """What the provider refuses though it has a kernel."""
    if node.domain:
        return None
    if node.op_type in _ACTIVATIONS:
        reason = _recurrent(node)
        if reason and "layout" in reason:
            return reason, "write it with layout 0, and a Transpose before and after it"
        return (reason, _STEPS) if reason else None
    if node.op_type in ("ArgMax", "ArgMin") and node.attributes.get("select_last_index", 0):
        return "select_last_index=1, which CUDA does not have", "use select_last_index=0"
    if node.op_type == "ConvTranspose":
        pads = list(node.attributes.get("pads", ()))
        padding = node.attributes.get("auto_pad", b"NOTSET").decode()
        half = len(pads) // 2
        given = f"auto_pad={padding}" if padding in ("SAME_UPPER", "SAME_LOWER") else f"pads={pads}"
        if given.startswith("auto_pad") or pads[:half] != pads[half:]:
            return f"{given}: CUDA takes only pads that are equal on both sides", "write equal pads, and crop"
    return None


def _recurrent(node: Node) -> str:
    """The attribute or input that cuDNN's recurrent ops do not have."""
    wanted = _ACTIVATIONS[node.op_type]
    given = [item.decode() for item in node.attributes.get("activations", ())]
    if any(mine.lower() != theirs for mine, theirs in zip(given, wanted, strict=False)):
        only = ", ".join(wanted[: len(wanted) // 2])
        return f"activations={', '.join(given)}: cuDNN has {only} only"
    for name in ("activation_alpha", "activation_beta", "clip"):
        if name in node.attributes:
            return f"{name} is given, which cuDNN does not have"
    if node.attributes.get("input_forget", 0):
        return "input_forget=1, which cuDNN does not have"
    if node.op_type == "GRU" and node.attributes.get("linear_before_reset", 0) != 1:
        return "linear_before_reset=0 (Keras: reset_after=False): cuDNN has 1 only"
    if node.op_type == "LSTM" and len(node.inputs) > _PEEPHOLES and node.inputs[_PEEPHOLES]:
        return "it has peepholes (input P), which cuDNN does not have"
    if node.attributes.get("layout", 0):
        return "layout=1, which onnxruntime refuses everywhere"
    return ""


def _host(graph: Graph, decisions: Mapping[int, Decision]) -> list[Node]:
    """The nodes that CUDA could take and leaves to the host, because all they need is there.

    That starts at Shape and Size, whose results are on the host, and goes on through what computes with nothing but
    those, small weights and the graph's own inputs. On the way it passes through nodes without a CUDA kernel.
    """
    on_host: set[str] = set()
    reached: set[str] = set()
    found = []
    for node in graph.nodes:
        taken = not decisions[id(node)][0]
        if taken and not node.domain and node.op_type in ("Shape", "Size"):
            on_host.update(node.outputs)
            reached.update(node.outputs)
        if not reached.intersection(name for name in node.inputs if name):
            continue
        if not taken:
            on_host.update(node.outputs)
            reached.update(node.outputs)
        elif _all_on_host(graph, node, on_host):
            found.append(node)
            on_host.update(node.outputs)
            reached.update(node.outputs)
    return found


def _all_on_host(graph: Graph, node: Node, on_host: set[str]) -> bool:
    if any(kind.startswith(_NEVER_ON_HOST) for _, _, kind in node.types[: len(node.types) - node.output_count]):
        return False
    read = _READ_ON_HOST.get(node.op_type, ()) if not node.domain else ()
    for place, name in enumerate(node.inputs):
        constant = graph.constants.get(name)
        if (constant and constant.elements <= _SMALL) or name in graph.inputs:
            continue
        if name not in on_host or place in read:
            return False
    return True
