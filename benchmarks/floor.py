"""A measured roofline: the least time a model can take in fp32 here, bytes over bandwidth or operations over peak.

A recurrent step cannot begin before the one before it has ended, so each step reads the recurrent matrix again; all
other weights are read once a call. Operations are two a multiply-add. Activations, and what is no product, count
nothing, and convolutions are counted in the direct way (Winograd's needs fewer products). Both limits are measured,
not looked up: how fast memory of the size of such a matrix is read again and again, and how fast large matrices are
multiplied. A library that reads faster than numpy does can come out below it.

`count` needs the Keras model; `measure` runs in a process of its own, since numpy must have one thread in it and what
is measured beside it should not share its threads.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

FLOAT_BYTES = 4
_PROBE_SECONDS = 0.25
_READ_BYTES = 8_000_000
_CALL_SECONDS = 0.04
"""Least work of one call where several threads begin together: Python needs its lock to start and to end each."""
_SIDE = {False: 768, True: 1536}
"""Of the square matrices, with one thread and with several."""


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
        """Bandwidth of reading `size` bytes again and again, each thread its part of them.

        One thread reads 8 MB a call, which are many calls to take the fastest of; several read for 40 ms.
        """
        part = max(64, size // FLOAT_BYTES // self.threads)
        repeats = max(1, _READ_BYTES // (part * FLOAT_BYTES))
        reading = _readers(part, repeats, self.threads)
        seconds = min(_least(read, self.threads) for read in reading)
        if self.threads > 1:
            repeats = math.ceil(repeats * max(1.0, _CALL_SECONDS / seconds))
            seconds = min(_least(read, self.threads) for read in _readers(part, repeats, self.threads))
        return self.threads * repeats * part * FLOAT_BYTES / seconds

    @functools.cached_property
    def ops_per_s(self):
        """Peak of fp32 products, each thread its own."""
        side = _SIDE[self.threads > 1]
        matrix = np.random.default_rng(0).random((side, side), dtype=np.float32)
        products = [np.empty_like(matrix) for _ in range(self.threads)]
        seconds = _least(lambda number: np.matmul(matrix, matrix, out=products[number]), self.threads)
        return self.threads * 2 * side**3 / seconds


def _readers(part, repeats, threads):
    """Two ways to read `part` floats `repeats` times, in one call that holds no lock of Python's."""
    buffers = [np.random.default_rng(0).random(part, dtype=np.float32) for _ in range(threads)]
    # Rows at a distance of nothing: each is the same memory again.
    rows = [as_strided(buffer, (repeats, part), (0, FLOAT_BYTES)) for buffer in buffers]
    made = [np.empty(repeats, np.float32) for _ in range(threads)]
    return (
        lambda number: np.vecdot(rows[number], buffers[number], out=made[number]),
        lambda number: np.maximum.reduce(rows[number], axis=1, out=made[number]),
    )


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


def measure(works, threads):
    """The floor of a call as plain data, from `count`: nanoseconds, what was counted, and what was measured.

    Measured by a new process, for a number of threads.
    """
    request = json.dumps({"works": [asdict(work) for work in works], "threads": threads})
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__], input=request, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def floor(works, machine):
    """What `measure` returns, of anything that knows `bytes_per_s(size)` and `ops_per_s`."""
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


def main():
    request = json.load(sys.stdin)
    works = [Work(**work) for work in request["works"]]
    print(json.dumps(floor(works, Machine(threads=request["threads"]))))


if __name__ == "__main__":
    main()
