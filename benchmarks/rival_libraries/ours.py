"""edgeseq's own files, as its users make and call them: exported in fp32, and quantized from that."""

from __future__ import annotations

import numpy as np
import systems

from rival_libraries.onnx_files import open_onnx
from rival_libraries.rival import Opened, Rival

FP32, BARE, INT8 = "edgeseq", "edgeseq, onnxruntime alone", "edgeseq int8"
OURS = (FP32, BARE, INT8)
MAX_ERROR = 0.02
SAMPLES, FILMS = 16, 4


def export(case, path, *_):
    import edgeseq

    edgeseq.export(case.model, path)


def quantize(case, path, inputs, threads):
    import edgeseq

    # Others than those that are timed, from the same source.
    rows = FILMS if inputs.ndim == 5 else SAMPLES
    samples = case.system.inputs(np.random.default_rng(systems.SEED + 1), rows)
    edgeseq.quantize(
        case.converted(BY_NAME[FP32], inputs, threads),
        path,
        samples=samples,
        max_error=MAX_ERROR,
        goal="latency",
        batch=case.system.batches[0],
        threads=threads,
    )


def open_file(case, path, inputs, threads):
    from edgeseq.errors import DependentRows
    from edgeseq.runtime import Model

    model = Model(path, threads=threads, batch=len(inputs))
    if not case.states:
        return Opened(call=lambda: model(inputs))
    try:
        stream = model.stream(len(inputs))
    except DependentRows:
        # Quantized so that rows share a scale: it is called without its states.
        return Opened(call=lambda: model(inputs), returns_states=False)

    def call():
        stream.reset()
        return stream.step(inputs)

    return Opened(call=call)


RIVALS = (
    Rival(name=FP32, provider="cpu", open=open_file, convert=export, file="edgeseq.onnx", per=("edgeseq",)),
    # The same file as the rivals' ONNX files are run, without the checks of what it is fed.
    Rival(
        name=BARE, provider="onnxruntime", open=open_onnx, convert=export, file="edgeseq.onnx", per=("edgeseq",),
    ),
    Rival(
        name=INT8, provider="cpu", open=open_file, convert=quantize, precision="int8", file="edgeseq_int8.onnx",
        per=("threads", "edgeseq"),
    ),
)  # fmt: skip
BY_NAME = {rival.name: rival for rival in RIVALS}
