"""The least time a model can take in fp32 on this machine: bytes over bandwidth or operations over peak, by layer.

A recurrent step cannot begin before the one before it has ended, so each step reads the recurrent matrix again; all
other weights are read once a call. Operations are two a multiply-add. Activations, and what is no product, count
nothing, and convolutions are counted in the direct way (Winograd's needs fewer products). Both are measured here: how
fast memory of the size of such a matrix is read again and again, and how fast large matrices are multiplied.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

FLOAT_BYTES = 4
_READ_BYTES = 8_000_000
_PROBE_SECONDS = 0.2
_SIDE = 768


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one layer must do in one call."""

    layer: str
    once_bytes: int = 0
    """Weights read once a call."""
    once_ops: int = 0
    """Operations on all steps together."""
    step_bytes: int = 0
    """The recurrent matrix, read in each step but the first, whose state is zero."""
    step_ops: tuple[int, ...] = ()
    """Operations of each of those steps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Machine:
    """Measures on first use, for one number of threads, and keeps what it found; another one measures again."""

    threads: int

    @functools.cache  # noqa: B019 - a few sizes, for as long as the process lives
    def bytes_per_s(self, size):
        """Bandwidth of reading `size` bytes again and again, each thread its part of them."""
        part = max(64, size // FLOAT_BYTES // self.threads)
        repeats = max(1, _READ_BYTES // (part * FLOAT_BYTES))
        buffers = [np.random.default_rng(0).random(part, dtype=np.float32) for _ in range(self.threads)]
        # Rows at a distance of nothing: each is the same memory again.
        rows = [as_strided(buffer, (repeats, part), (0, FLOAT_BYTES)) for buffer in buffers]
        reading = (
            lambda number: np.vecdot(rows[number], buffers[number]),
            lambda number: np.maximum.reduce(rows[number], axis=1),
        )
        seconds = min(_least(read, self.threads) for read in reading)
        return self.threads * repeats * part * FLOAT_BYTES / seconds

    @functools.cached_property
    def ops_per_s(self):
        """Peak of fp32 products, each thread its own."""
        matrix = np.random.default_rng(0).random((_SIDE, _SIDE), dtype=np.float32)
        seconds = _least(lambda _: matrix @ matrix, self.threads)
        return self.threads * 2 * _SIDE**3 / seconds


def _least(work, threads):
    """The shortest time of `work` while it is done again and again: what disturbs the machine only makes it longer."""
    end, least = time.perf_counter() + _PROBE_SECONDS, math.inf
    while time.perf_counter() < end:
        least = min(least, _at_once(work, threads))
    return least


def _at_once(work, threads):
    """Seconds until `work(number)` has ended on every thread, all begun together."""
    if threads == 1:
        start = time.perf_counter()
        work(0)
        return time.perf_counter() - start
    barrier, spans = threading.Barrier(threads), []

    def run(number):
        barrier.wait()
        start = time.perf_counter()
        work(number)
        spans.append((start, time.perf_counter()))

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def floor(model, inputs, lengths, threads):
    """The floor of a call as plain data: nanoseconds, what was counted, and what was measured.

    `lengths` are the real lengths of the rows, None where every step counts; `threads` 0 means all cores.
    """
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        raise RuntimeError("set OPENBLAS_NUM_THREADS to 1 before numpy is imported: the probe has threads of its own")
    machine = Machine(threads=threads or len(os.sched_getaffinity(0)))
    works = count(model, inputs, lengths)
    total = sum(work.once_bytes + work.step_bytes for work in works)
    rate, peak = machine.bytes_per_s(total), machine.ops_per_s
    seconds = 0.0
    for work in works:
        seconds += max(work.once_bytes / rate, work.once_ops / peak)
        if work.step_bytes:
            read = work.step_bytes / machine.bytes_per_s(work.step_bytes)
            seconds += sum(max(read, ops / peak) for ops in work.step_ops)
    return {
        "ns": seconds * 1e9,
        "bytes": sum(work.once_bytes + work.step_bytes * len(work.step_ops) for work in works),
        "ops": sum(work.once_ops + sum(work.step_ops) for work in works),
        "weights_bytes": total,
        "ops_per_s": peak,
        "bytes_per_s": {
            str(size): machine.bytes_per_s(size) for size in sorted({total, *(work.step_bytes for work in works)} - {0})
        },
    }


def count(model, inputs, lengths):
    """One `Work` a layer that computes products, and each direction of a Bidirectional its own."""
    rows = len(inputs)
    steps = inputs.shape[1]
    lengths = np.full(rows, steps) if lengths is None else lengths
    active = [int((lengths > step).sum()) for step in range(steps)]
    works = []
    for layer in model.layers:
        for inner in _directions(layer):
            works += _count(inner, layer, rows, active)
    return works


def _directions(layer):
    kind = type(layer).__name__
    if kind == "Bidirectional":
        return layer.forward_layer, layer.backward_layer
    return (layer.layer,) if kind == "TimeDistributed" else (layer,)


def _count(layer, outer, rows, active):
    kind = type(layer).__name__
    if kind == "Embedding":
        return [Work(layer=outer.name, once_bytes=sum(active) * layer.output_dim * FLOAT_BYTES)]
    if kind not in ("LSTM", "GRU", "ConvLSTM2D", "Dense", "Conv2D"):
        return []
    sizes = [math.prod(weight.shape) for weight in layer.weights]
    given = outer.input[0].shape if isinstance(outer.input, list) else outer.input.shape
    positions = sum(active) if len(given) > 2 else rows
    # Taps of a convolution that fall outside the frame need no product.
    pixels = _pixels(given[2:4], layer.kernel_size) if kind in ("ConvLSTM2D", "Conv2D") else 1
    if kind in ("Dense", "Conv2D"):
        ops = round(2 * positions * pixels * sizes[0])
        return [Work(layer=outer.name, once_bytes=sum(sizes) * FLOAT_BYTES, once_ops=ops)]
    kernel, recurrent, bias = sizes[:3]
    return [
        Work(
            layer=outer.name,
            once_bytes=(kernel + bias) * FLOAT_BYTES,
            once_ops=round(2 * positions * pixels * kernel),
            step_bytes=recurrent * FLOAT_BYTES,
            step_ops=tuple(round(2 * count * pixels * recurrent) for count in active[1:] if count),
        )
    ]


def _pixels(sides, widths):
    """Pixels times the share of a kernel's taps that lie inside, for a convolution that keeps the size."""
    inside = 1.0
    for side, width in zip(sides, widths, strict=True):
        reach = width // 2
        inside *= (side * width - reach * (reach + 1)) / width
    return inside
