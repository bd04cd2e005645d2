"""Which nodes TensorRT's parser takes: docs/operators.md and the checks of github.com/onnx/onnx-tensorrt.

onnxruntime's provider leaves out no op of its own by default (its option trt_op_types_to_exclude is empty), and takes a
Scan, Loop or If only when all of its bodies are TensorRT's.
"""

from __future__ import annotations

from edgeseq.prediction import kernels
from edgeseq.prediction.cuda import ON_TARGET, Decision
from edgeseq.prediction.graph import Graph, Node

_GATES = {"LSTM": 3, "GRU": 2, "RNN": 1}
_MOST_K = 3840

# Ops whose input of that number must be known when the engine is built.
_CONSTANT = {
    "CumSum": (1, "axis"),
    "OneHot": (1, "depth"),
    "Squeeze": (1, "axes"),
    "Unsqueeze": (1, "axes"),
    "Slice": (3, "axes"),
    "Pad": (3, "axes"),
    **{f"Reduce{kind}": (1, "axes") for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod")},
    "ReduceSum": (1, "axes"),
    "ReduceSumSquare": (1, "axes"),
}

# The table names floats only, but the parser adds integers up as well: it writes a loop with a sum.
_INTEGERS_TOO = ("CumSum",)
_INTEGERS = ("int32", "int64")

_NATIVE = "export the Keras model with edgeseq, which writes recurrent layers without a Loop"
_QDQ = "use the file in float16: int8 needs QuantizeLinear and DequantizeLinear with fixed scales there"
_STEPS = "export with --target tensorrt"
_QUANTIZED = ("DynamicQuantize", "MatMulInteger", "ConvInteger", "QLinear", "QGemm")


def decide(graph: Graph) -> dict[int, Decision]:
    """What keeps each node of `graph`, by its `id`, off TensorRT; the nodes of bodies included."""
    decisions: dict[int, Decision] = {}
    for node in graph.nodes:
        inner: dict[int, Decision] = {}
        for body in node.bodies:
            inner.update(decide(body))
        decisions[id(node)] = _why_not(graph, node) or _bodies(node, inner) or ON_TARGET
        decisions.update(inner)
    return decisions


def _bodies(node: Node, inner: dict[int, Decision]) -> Decision | None:
    first = next((reason for reason, _ in inner.values() if reason), "")
    if not first:
        return None
    rewrite = _NATIVE if node.op_type == "Loop" else "see the nodes of its body"
    return f"TensorRT takes a {node.op_type} only with all of its body, and there: {first}", rewrite


def _why_not(graph: Graph, node: Node) -> Decision | None:
    op = node.op_type
    if op == "EPContext" and node.domain == kernels.CONTRIBUTED and b"tensorrt" in _source(node):
        return None
    types = None if node.domain else kernels.tensorrt_types(op)
    if types is None:
        rewrite = _QDQ if op.startswith(_QUANTIZED) else "replace the op by ones that TensorRT has"
        return f"TensorRT does not take {node.label}", rewrite
    kinds = [kind for _, _, kind in node.types]
    if "double" in kinds:
        return "float64: TensorRT would compute it in float32", "use float32"
    if "string" in kinds:
        return "TensorRT has no strings", ""
    allowed = (*types, *_INTEGERS) if op in _INTEGERS_TOO else types
    # The first input is what is computed with; others are indices, lengths and the like.
    first = kinds[0] if node.inputs and node.inputs[0] else ""
    if first and first not in allowed:
        return f"TensorRT's {op} does not take {first}, but {', '.join(allowed)}", ""
    if op in _GATES:
        reason = _recurrent(node)
        return (reason, _STEPS) if reason else None
    if op == "Loop" and len(node.outputs) > len(node.inputs) - 2 and not _counted(graph, node):
        return "it collects a value a round, and how often is computed: TensorRT takes a fixed number only", _NATIVE
    reason = _restriction(graph, node)
    return (reason, "") if reason else None


def _source(node: Node) -> bytes:
    """Which provider an engine is of."""
    return bytes(node.attributes.get("source", b"")).lower()


def _counted(graph: Graph, node: Node) -> bool:
    return bool(node.inputs[0]) and graph.constant(node, 0)


def _recurrent(node: Node) -> str:
    given = [item.decode() for item in node.attributes.get("activations", ())]
    gates = _GATES[node.op_type]
    if len(given) > gates and given[:gates] != given[gates:]:
        return f"activations={', '.join(given)}: TensorRT takes the same in both directions only"
    if "Affine" in given:
        return "activations has Affine, which TensorRT does not have"
    if node.attributes.get("input_forget", 0):
        return "input_forget=1, which TensorRT does not have"
    if node.attributes.get("layout", 0):
        return "layout=1, which TensorRT does not have"
    return ""


def _restriction(graph: Graph, node: Node) -> str:
    """What the table says beside the types."""
    op, attributes = node.op_type, node.attributes
    if op in _CONSTANT:
        place, name = _CONSTANT[op]
        if not graph.constant(node, place):
            return f"{name} is computed: TensorRT's {op} takes a constant only"
    if op == "TopK":
        k = graph.value(node, 1)
        if not attributes.get("sorted", 1):
            return "sorted=0: TensorRT's TopK sorts only"
        if k is not None and k.size == 1 and int(k.item()) >= _MOST_K:
            return f"K={int(k.item())}: TensorRT's TopK takes less than {_MOST_K}"
    if op in ("ScatterND", "ScatterElements") and attributes.get("reduction", b"none") != b"none":
        return f"reduction={attributes['reduction'].decode()}, which TensorRT does not have"
    if op in ("MaxPool", "LayerNormalization") and any(node.outputs[1:]):
        return f"TensorRT's {op} has its first output only"
    if op in ("QuantizeLinear", "DequantizeLinear"):
        zero = graph.value(node, 2)
        if not graph.constant(node, 2) or (zero is not None and zero.astype(float).any()):
            return "its zero point is not 0: TensorRT quantizes evenly around 0 only"
    return ""
