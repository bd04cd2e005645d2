"""Run delay lines on the pretended GPU: python device_io.py FOLDER. Prints what came of each case, as JSON.

A delay line answers with what went into the step before, by two Identity nodes: copies are all that is computed here.
"""

import ctypes
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime

from edgeseq.errors import EdgeseqError
from edgeseq.runtime import Model
from edgeseq.runtime.bound import Buffer

FOLDER = Path(sys.argv[1])
GRAPHS = {"enable_cuda_graph": "1"}
STATE = "state_in.00.delay"
ITSELF = ctypes.CDLL(None)

load = onnxruntime.preload_dlls
onnxruntime.preload_dlls = lambda **which: load(**{**which, "cudnn": False})  # cuDNN is the pretended one


def counts():
    """Copies to the device, from it and within it; graphs captured, and launched."""
    copies = (ctypes.c_int * 5).in_dll(ITSELF, "pretended_copies")
    numbers = [ctypes.c_int.in_dll(ITSELF, f"pretended_{name}").value for name in ("captures", "launches")]
    return [*copies[1:4], *numbers]


def counted(run):
    """What `run` answers, and how much was counted meanwhile."""
    before = counts()
    found = run()
    return found, [after - was for was, after in zip(before, counts(), strict=True)]


def opened(name="delay", **options):
    return Model(FOLDER / f"{name}.onnx", provider="cuda", provider_options=options)


def rows(*values, length=1):
    """(batch, time, 2): each row of another value, each step of another tenth."""
    steps = np.arange(length, dtype=np.float32)[:, None] / 10
    return np.stack([value + np.repeat(steps, 2, axis=1) for value in values]).astype(np.float32)


def told(run):
    try:
        run()
    except EdgeseqError as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def in_thread(run):
    found = []
    thread = threading.Thread(target=lambda: found.append(run()))
    thread.start()
    thread.join()
    return found[0]


def lived(options):
    """A stream of two rows, through all that a stream can do; what it answered, as it was then and as it is kept."""
    stream = opened(**options).stream(batch=2)
    kept, then = [], []

    def step(*values):
        kept.append(stream.step(rows(*values)))
        then.append(kept[-1][:, 0, 0].tolist())

    for number in range(6):
        step(number, number + 100)
    stream.reset(rows=[1])
    step(6, 106)
    step(7, 107)
    saved = stream.state
    stream.reset()
    step(8, 108)
    stream.state = saved
    step(9, 109)
    step(10, 110)
    return {"kept": [array[:, 0, 0].tolist() for array in kept], "then": then, "saved": saved[STATE][:, 0].tolist()}


def steady(options):
    """What one step costs, once it is under way."""
    stream = opened(**options).stream()
    for number in range(4):
        stream.step(rows(number))
    return counted(lambda: stream.step(rows(5)))[1]


def chunks(options):
    """Chunks of other lengths, in turn. The state is an input of its own, so that all are copies."""
    stream = opened("lengths", **options).stream()
    found = []
    for number, length in enumerate((1, 3, 1, 2, 3, 1, 2, 4, 5, 1)):
        x = rows(number, length=length)
        y, z = stream.step([x, x[:, 0]])
        found.append([bool(np.array_equal(x, y)), z[0, 0].item()])
    return found


def calls():
    """Calls of the model, not of a stream, of several shapes: each shape has a graph of its own."""
    model = opened("plain", **GRAPHS)
    found, cost = [], []
    for number, length in enumerate((2, 2, 3, 3, 2, 3, 2)):
        x = rows(number, length=length)
        answer, counted_now = counted(lambda x=x: model(x))
        found.append(bool(np.array_equal(answer, x)))
        cost.append(counted_now[3:])
    return {"right": found, "captured and launched": cost}


def shared():
    """Streams that come and go take over what was captured; one alone has graphs for 16 lengths at most."""
    model = opened("lengths", **GRAPHS)

    def step(stream, value, length=1):
        x = rows(value, length=length)
        return stream.step([x, x[:, 0]])[1][0, 0].item()

    def come_and_go():
        found = []
        for number in range(20):
            stream = model.stream()
            found.append([step(stream, number + later) for later in range(3)] == [0.5, number, number + 1])
        return found

    found, counted_now = counted(come_and_go)
    stream = model.stream()
    for length in range(1, 17):
        step(stream, length, length)
    return {
        "right": found,
        "captures": counted_now[3],
        "error": told(lambda: step(stream, 17, 17)),
        "goes on": [step(stream, 0), step(stream, 0, 16)],
    }


def threads():
    """The first run, and five threads after one another."""
    model = opened("plain", **GRAPHS)
    model(rows(0))
    found = []
    for number in range(5):
        x = rows(number)
        found.append(in_thread(lambda x=x: told(lambda: np.testing.assert_array_equal(model(x), x))))
    return found


def at_once():
    """Streams in threads of their own, at the same time."""
    model = opened(**GRAPHS)
    model.stream().step(rows(0))
    found = []

    def run(start):
        stream = model.stream()
        answers = [stream.step(rows(start + step))[0, 0, 0].item() for step in range(200)]
        found.append(answers == [0.5, *range(start, start + 199)])

    workers = [threading.Thread(target=run, args=(1000 * number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def placed(options):
    """Where buffers are made, by DLPack's kind (2 is CUDA) and number, and where the nodes ran."""
    model = opened(**options)
    stream = model.stream()
    stream.step(rows(1))
    [(bound, _)] = stream._lane._bounds.values()
    buffers = [*dict(bound._inputs).values(), *dict(bound._outputs).values()]
    buffers += [buffer for held in stream._lane.states.sets for buffer in held.values()]
    places = [buffer.value.__dlpack_device__() for buffer in buffers]
    return {"buffers": len(places), "places": sorted(set(places)), "providers": model.placement.counts}


def dtypes():
    """What comes back from a buffer on the device, which is given an array that is not contiguous."""
    found = []
    for dtype in ("float32", "float16", "float64", "bool", "int8", "uint8", "int32", "int64"):
        array = np.array([[1, 0], [1, 1], [0, 1]], dtype).T
        buffer = Buffer(array.shape, dtype, ("cuda", 0))
        buffer.write(array)
        back = buffer.read()
        found.append(back.dtype == dtype and bool(np.array_equal(back, array)))
    return found


CASES = {
    "lived": lambda: lived({}),
    "lived with graphs": lambda: lived(GRAPHS),
    "steady": lambda: steady({}),
    "steady with graphs": lambda: steady(GRAPHS),
    "chunks": lambda: chunks({}),
    "chunks with graphs": lambda: chunks(GRAPHS),
    "calls": calls,
    "shared": shared,
    "threads": threads,
    "at once": at_once,
    "dtypes": dtypes,
    "placed": lambda: placed({}),
    "placed on the second": lambda: placed({"device_id": 1}),
    "placed on the third": lambda: told(lambda: opened(device_id=2)),
    "with consent": lambda: told(
        lambda: Model(FOLDER / "fallen.onnx", provider="cuda,cpu", provider_options=GRAPHS)(rows(1))
    ),
    "refused": lambda: {
        name: told(lambda name=name: opened(name, **GRAPHS)) for name in ("if", "scan", "host", "mask", "free")
    },
}
print(json.dumps({name: case() for name, case in CASES.items()}), flush=True)
# Closing a session would ask for more of CUDA than is pretended.
os._exit(0)
