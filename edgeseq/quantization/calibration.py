"""The numbers that flow through an fp32 file while it runs on samples: what ranges are chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgeseq.quantization.rewriting import subgraphs
from edgeseq.quantization.runs import run_all, serialize
from edgeseq.runtime.manifest import StateSpec

# Of a value in one batch. More would change the second digit of a range, and cost memory.
_MOST_NUMBERS = 100_000


def observe(
    model: onnx.ModelProto,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, npt.NDArray[Any]]],
    states: Sequence[StateSpec] = (),
) -> dict[str, npt.NDArray[Any]]:
    """What the float values `names` are on `feeds`: of each a flat sample, its extremes included.

    They are of the main graph, or of the body of a Scan there, whose values are taken of every step.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    made = {name for node in opened.graph.node for name in node.output}
    shown = {name: name if name in made else _step_by_step(opened.graph, name) for name in names}
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in shown.values())
    found: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in names}
    content = serialize(opened)
    for feed in feeds:
        # One batch after the other: all of an image sequence's values at once could fill the memory.
        [answers] = run_all(content, [feed], states)
        for name, value in zip(names, answers, strict=True):
            flat = value.ravel()
            sample = flat[:: -(-flat.size // _MOST_NUMBERS)]
            found[name] += [sample, flat.min(keepdims=True), flat.max(keepdims=True)]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _step_by_step(graph: onnx.GraphProto, name: str) -> str:
    """Let the Scan in whose body the value `name` is put it out, too; the name of that output.

    An input of the graph is its own.
    """
    for node in graph.node:
        for body in subgraphs(node):
            known = {value.name for value in body.input} | {made for inner in body.node for made in inner.output}
            if node.op_type == "Scan" and name in known:
                # By an Identity, because a body must not list a value twice.
                output = f"{name}/seen"
                body.node.append(helper.make_node("Identity", [name], [output]))
                body.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
                # Outputs left out at the end have their place still.
                node.output.extend([""] * (len(body.output) - 1 - len(node.output)))
                node.output.append(output)
                for attribute in node.attribute:
                    if attribute.name in ("scan_output_axes", "scan_output_directions") and attribute.ints:
                        attribute.ints.append(0)
                return output
    return name
