"""OpenVINO in f32 and bf16: on its own conversion of the SavedModel, and on edgeseq's file, which suits it better."""

from __future__ import annotations

import collections

import numpy as np

from rival_libraries.ours import export
from rival_libraries.rival import Opened, Rival

LOOPS = ("Loop", "TensorIterator")


def convert(case, path, inputs, _):
    import openvino

    model = openvino.convert_model(case.saved_model(), input=[list(inputs.shape)])
    openvino.save_model(model, path, compress_to_fp16=False)


def open_in(precision):
    def make(case, path, inputs, threads):
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        given, *states = model.inputs
        # edgeseq's files take the states of stateful layers after the inputs.
        sizes = {state: [len(inputs), *list(state.partial_shape)[1:]] for state in states}
        model.reshape({given: list(inputs.shape), **sizes})
        # The hint for one call at a time; it sets one stream and pins threads itself.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = core.compile_model(model, "CPU", settings)
        request = compiled.create_infer_request()
        first, *rest = compiled.inputs
        arrays = [inputs.astype(first.element_type.to_dtype())]
        arrays += [np.zeros(list(state.shape), state.element_type.to_dtype()) for state in rest]
        for number, array in enumerate(arrays):
            # Copied: shared memory would not keep the array alive.
            request.set_input_tensor(number, openvino.Tensor(array))

        def call():
            request.infer()
            # Asked for after the run: before the first one, its place in memory may still change.
            return request.get_output_tensor(0).data.copy()

        ran = collections.Counter(
            op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ops()
        )
        loops = {name: ran[name] for name in LOOPS if ran[name]}
        notes = tuple(f"runs {count} {name}" for name, count in loops.items())
        return Opened(call=call, notes=notes, returns_states=bool(states) or not case.states)

    return make


RIVALS = (
    Rival(name="OpenVINO f32", provider="openvino", open=open_in("f32"), convert=convert, file="openvino.xml"),
    Rival(
        name="OpenVINO bf16", provider="openvino", open=open_in("bf16"), convert=convert, precision="bf16",
        file="openvino.xml",
    ),
    Rival(
        name="OpenVINO f32, edgeseq's file", provider="openvino", open=open_in("f32"), convert=export,
        file="edgeseq.onnx", per=("edgeseq",),
    ),
    Rival(
        name="OpenVINO bf16, edgeseq's file", provider="openvino", open=open_in("bf16"), convert=export,
        precision="bf16", file="edgeseq.onnx", per=("edgeseq",),
    ),
)  # fmt: skip
