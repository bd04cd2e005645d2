"""Runs of a session at fixed shapes: what goes in and out has its place in memory once, on the device that computes.

States have two places, and a step reads the one and writes the other. So a step that fails leaves the state of before.
It also makes CUDA graphs right: onnxruntime runs the model several times while it captures one, which would carry a
state that is updated in place several steps on; here every one of those runs reads the same state and writes the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from edgeseq.runtime import providers
from edgeseq.runtime.feed import Axes, Lengths, shape_of
from edgeseq.runtime.graphs import Graphs, check_placement
from edgeseq.runtime.manifest import StateSpec, TensorSpec
from edgeseq.runtime.placement import Proof

# Those whose memory is the GPU's: onnxruntime calls it cuda for both.
_ON_GPU = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})

T = TypeVar("T")


class Runner:
    """Runs one session: proves where, keeps one run from another's CUDA graph, and tells where buffers belong."""

    def __init__(self, path: Any, session: Any, proof: Proof | None, graphs: Graphs | None):
        self.session, self.graphs = session, graphs
        self._path, self._proof = path, proof
        self._graphable = False
        self.is_plain = proof is None and graphs is None
        """Whether a run is only that: nothing to prove, to lock or to capture."""
        self.lock: Any = graphs.lock if graphs else contextlib.nullcontext()
        """To be held while buffers are made, written, run and read; only CUDA graphs need one."""
        first = session.get_providers()[0]
        options = session.get_provider_options().get(first) or {}
        self.device = ("cuda", int(options.get("device_id", 0))) if first in _ON_GPU else ("cpu", 0)
        """Kind and number of the device, as onnxruntime calls it."""
        self.spare: list[Any] = []
        """What streams have left behind and the next may take: CUDA graphs, which cannot be freed, go with buffers."""

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """`outputs` for host arrays. Raises InputMismatch and PlacementRefused."""
        if self._proof is None:
            return providers.run(self.session, outputs, feed)
        off = self.graphs.off if self.graphs else None
        with self.lock:
            return self._proven(lambda: providers.run(self.session, outputs, feed, off))

    def run_bound(self, binding: Any, options: Any) -> None:
        """One run of a binding, with the run options of its graph; the session's first, which is profiled, without.

        Raises as `run` does, and WrongUsage for CUDA graphs in too many threads.
        """
        if self._proof is None:
            providers.run_bound(self.session, binding)
            return
        if self.graphs and self._proof.placement is None:
            options = self.graphs.off
        elif self.graphs:
            self.graphs.enter()
        self._proven(lambda: providers.run_bound(self.session, binding, options))

    def _proven(self, run: Callable[[], T]) -> T:
        assert self._proof is not None
        found = self._proof.run(self.session, run)
        if self.graphs and not self._graphable:
            check_placement(self._path, self._proof.placement)
            self._graphable = True
        return found


class Buffer:
    """One array at a fixed place in the memory of `device`."""

    def __init__(self, shape: tuple[int, ...], dtype: str, device: tuple[str, int]):
        from onnxruntime import OrtValue

        self.array = np.empty(shape, dtype) if device[0] == "cpu" else None
        """The memory, where it is the CPU's."""
        self.value: Any = (
            OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, *device)
            if self.array is None
            else OrtValue.ortvalue_from_numpy(self.array)
        )
        """onnxruntime's handle of it."""

    def write(self, array: np.ndarray) -> None:
        """Copy `array`, of this shape and dtype, in."""
        if self.array is None:
            # onnxruntime copies the memory as it lies; older ones do not look whether it is contiguous.
            self.value.update_inplace(np.ascontiguousarray(array))
        else:
            self.array[...] = array  # np.copyto takes twice as long

    def read(self) -> np.ndarray:
        """A new array."""
        if self.array is not None:
            return self.array.copy()
        copied: np.ndarray = self.value.numpy()
        return copied


class States:
    """The states of a stream, of the `lengths` of named axes: two sets of buffers, one of which holds them."""

    def __init__(self, runner: Runner, specs: Sequence[StateSpec], lengths: Lengths):
        self.specs, self.lengths = specs, lengths
        self._lock = runner.lock
        with self._lock:
            self.sets = tuple(
                {spec.input: Buffer(shape_of(spec.axes, lengths), spec.dtype, runner.device) for spec in specs}
                for _ in range(2)
            )
        self.current = 0
        """Which of `sets` holds the states; the next step writes the other."""

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Make `arrays`, by input name, the states: all of them or, when it raises, none."""
        with self._lock:
            for name, buffer in self.sets[1 - self.current].items():
                buffer.write(arrays[name])
        self.current = 1 - self.current

    def read(self) -> dict[str, np.ndarray]:
        """New arrays by input name."""
        with self._lock:
            return {name: buffer.read() for name, buffer in self.sets[self.current].items()}


class Bound:
    """Runs with inputs and outputs of the `lengths` of named axes, and from one set of `states` to the other.

    An output with an axis that is not in `lengths` is known only after the run: onnxruntime makes it, on the host.

    Raises WrongUsage where there are CUDA graphs for too many shapes.
    """

    def __init__(
        self,
        runner: Runner,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        lengths: Lengths,
        states: States | None = None,
    ):
        self.runner, self.states = runner, states
        with runner.lock:
            count = 2 if states else 1
            self._options = runner.graphs.options(count) if runner.graphs else [None] * count
            self._inputs = [(spec.name, self._buffer(spec, lengths)) for spec in inputs]
            self._outputs = [
                (spec.name, self._buffer(spec, lengths) if _known(spec.axes, lengths) else None) for spec in outputs
            ]
            self.bindings = [self._bind(source) for source in range(count)]
            """onnxruntime's; with states one for each set of them to be read."""
        self._known = [buffer for _, buffer in self._outputs if buffer is not None]
        self._made = [place for place, (_, buffer) in enumerate(self._outputs) if buffer is None]

    def _buffer(self, spec: TensorSpec, lengths: Lengths) -> Buffer:
        return Buffer(shape_of(spec.axes, lengths), spec.dtype, self.runner.device)

    def _bind(self, source: int) -> Any:
        binding = self.runner.session.io_binding()
        for name, buffer in self._inputs:
            binding.bind_ortvalue_input(name, buffer.value)
        for name, output in self._outputs:
            if output is not None:
                binding.bind_ortvalue_output(name, output.value)
            else:
                binding.bind_output(name)
        if self.states is not None:
            before, after = self.states.sets[source], self.states.sets[1 - source]
            for spec in self.states.specs:
                binding.bind_ortvalue_input(spec.input, before[spec.input].value)
                binding.bind_ortvalue_output(spec.output, after[spec.input].value)
        return binding

    def arrays(self) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """The memory of inputs and of outputs, where it is the CPU's; None for an output that onnxruntime makes."""
        inputs = [buffer.array for _, buffer in self._inputs if buffer.array is not None]
        return inputs, [buffer.array if buffer is not None else None for _, buffer in self._outputs]

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, new arrays, for arrays by input name. The states are one step on, unless it raises.

        Raises InputMismatch and PlacementRefused, and WrongUsage for CUDA graphs in too many threads.
        """
        states = self.states
        with self.runner.lock:
            for name, buffer in self._inputs:
                buffer.write(feed[name])
            source = states.current if states is not None else 0
            binding = self.bindings[source]
            for place in self._made:
                # Bound anew: onnxruntime would write over what it made in the last run, whatever the length now.
                binding.bind_output(self._outputs[place][0])
            self.runner.run_bound(binding, self._options[source])
            if self._made:
                made = binding.get_outputs()
                results = [
                    np.array(made[place].numpy()) if buffer is None else buffer.read()
                    for place, (_, buffer) in enumerate(self._outputs)
                ]
            else:
                results = [buffer.read() for buffer in self._known]
        if states is not None:
            states.current = 1 - source
        return results


def _known(axes: Axes, lengths: Lengths) -> bool:
    return all(isinstance(axis, int) or axis in lengths for axis in axes)
