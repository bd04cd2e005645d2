"""CUDA graphs: what a file must be for them, and how many a session holds.

A captured graph repeats the GPU's work of one run at the same addresses and leaves out all that the CPU does in a run.
onnxruntime captures by itself, one graph for each ``gpu_graph_id`` of the run options, and for each thread that runs:
https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html and the provider option ``enable_cuda_graph`` at
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

from edgeseq.errors import EdgeseqError, PlacementRefused, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.placement import Placement

MOST_SHAPES = 16
"""Shapes that a session holds graphs for; a stream has one for each length of its chunks."""
MOST_THREADS = 4
"""Threads that may run a session with graphs."""

_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_KEY = "gpu_graph_id"
_LEAVE_OUT = "Leave the option enable_cuda_graph out"


class Graphs:
    """The graphs of one session, numbered; none of them can be freed before the session is.

    CUDA takes no copy and no allocation, by anything in the process, while one is captured, in the second run of a
    shape: what else uses the GPU in other threads, another Model too, is to wait until then, or that run is refused.
    """

    def __init__(self, onnxruntime: Any):
        self._options = onnxruntime.RunOptions
        self._ids = itertools.count(1)
        self._shapes = 0
        self._threads = 0
        self._thread = threading.local()
        self.lock = threading.RLock()
        """To be held by whoever runs the session or touches its buffers; all its graphs also share their memory."""
        self.off = self._numbered(-1)
        """Run options of a run that is neither captured nor a graph's."""

    def options(self, count: int) -> list[Any]:
        """Run options of `count` graphs for another shape; the lock is held. Raises WrongUsage past `MOST_SHAPES`."""
        if self._shapes == MOST_SHAPES:
            raise WrongUsage(
                f"CUDA graphs are kept for {MOST_SHAPES} shapes of a session at most (each stream has its own for each "
                "length of its chunks), since captured ones cannot be freed. Pad inputs to fewer lengths and batches, "
                f"open another Model for the others, or go without: {_LEAVE_OUT.lower()}"
            )
        self._shapes += 1
        return [self._numbered(next(self._ids)) for _ in range(count)]

    def enter(self) -> None:
        """To be called before a run, with the lock held. Raises WrongUsage in one thread more than `MOST_THREADS`."""
        if getattr(self._thread, "known", False):
            return
        if self._threads == MOST_THREADS:
            raise WrongUsage(
                f"with CUDA graphs at most {MOST_THREADS} threads may run a Model: onnxruntime captures them anew in "
                "each thread and frees none. Send the calls of all threads through one, as "
                f"concurrent.futures.ThreadPoolExecutor(1) does. Or go without: {_LEAVE_OUT.lower()}"
            )
        self._threads += 1
        self._thread.known = True

    def _numbered(self, number: int) -> Any:
        options = self._options()
        options.add_run_config_entry(_KEY, str(number))
        return options


def graphs_of(path: StrPath, session: Any, manifest: Manifest) -> Graphs | None:
    """Where `session` was opened with graphs, what is to number them; else None.

    Raises WrongUsage and PlacementRefused for a file, or a provider, whose graphs would not answer right.
    """
    first = session.get_providers()[0]
    options = session.get_provider_options().get(first) or {}
    if first == _TENSORRT and options.get("trt_cuda_graph_enable") == "1":
        raise WrongUsage(
            "TensorRT's provider keeps one CUDA graph a session, whatever the shapes and the memory of a call: it "
            "would answer with another call's numbers. Leave trt_cuda_graph_enable out, or use provider 'cuda' with "
            "enable_cuda_graph=1"
        )
    if first != _CUDA or options.get("enable_cuda_graph") != "1":
        return None
    import onnxruntime

    if not hasattr(session, "get_input_memory_infos"):
        raise WrongUsage(
            f"CUDA graphs need a newer onnxruntime than {onnxruntime.__version__}, which does not tell what is read on "
            f"the CPU. Upgrade with: pip install --upgrade onnxruntime-gpu. {_LEAVE_OUT} otherwise"
        )
    places = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    on_host = [argument.name for argument, place in places if place.name.lower() == "cpu"]
    if on_host:
        raise PlacementRefused(
            f"{path} cannot use CUDA graphs: the CPU reads the input '{on_host[0]}', and "
            "a graph repeats what the GPU does alone. Without graphs, `edgeseq inspect --target cuda` tells the op. "
            f"{_LEAVE_OUT}"
        )
    known = {axis for spec in manifest.inputs for axis in spec.axes}
    for spec in manifest.outputs:
        if free := [str(axis) for axis in spec.axes if isinstance(axis, str) and axis not in known]:
            raise WrongUsage(
                f"{path} cannot use CUDA graphs: the length of '{free[0]}' of the output '{spec.name}' is known only "
                f"after a run. Export the model with fixed lengths. {_LEAVE_OUT} otherwise"
            )
    return Graphs(onnxruntime)


def refusal(error: EdgeseqError, path: StrPath, manifest: Manifest | None) -> PlacementRefused | None:
    """The reason, where `error` is that onnxruntime did not open the file at `path` because of CUDA graphs."""
    if "graph capture" not in str(error):
        return None
    layers = manifest.recurrent if manifest else ()
    looping = [layer for layer in layers if not _CONTROL_FLOW.isdisjoint(layer.op_types)]
    if looping:
        ops = "/".join(sorted(_CONTROL_FLOW.intersection(looping[0].op_types)))
        reason = f"{ops} of the layer '{looping[0].name}' is steered by the CPU"
        advice = 'Export the model with lowering="fused", or "unrolled" with a fixed length, where the layer allows it.'
    elif "control flow" in str(error):
        reason, advice = "it holds an If, a Loop or a Scan, which the CPU steers", "Export the model without them."
    elif manifest and manifest.masks:
        layer = manifest.masks[0].layer
        reason = f"the CPU reads the lengths that the mask of the layer '{layer}' gives the recurrent ops"
        advice = "Export the model without a mask, for whole sequences."
    else:
        reason = "the CPU computes, or reads, values in the middle of it"
        advice = "`edgeseq inspect --target cuda` tells which ops."
    return PlacementRefused(f"{path} cannot use CUDA graphs: {reason}. {advice} {_LEAVE_OUT} otherwise")


def check_placement(path: StrPath, placement: Placement | None) -> None:
    """Raise PlacementRefused where floating-point nodes ran on the CPU, which the caller allowed, but graphs do not."""
    if placement is not None and placement.fallen:
        node = placement.fallen[0]
        raise PlacementRefused(
            f"{path} cannot use CUDA graphs: {node.op_type} '{node.name}' ran on {node.provider}, and a graph repeats "
            f"what the GPU does alone. {_LEAVE_OUT}, or export with --target cuda",
            tuple(node.name for node in placement.fallen),
        )
