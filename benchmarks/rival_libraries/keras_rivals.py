"""Keras itself: `predict`, a compiled `tf.function` with and without XLA, and the ONNX file that Keras exports."""

from __future__ import annotations

from edgeseq.bench.record import KERAS_EXPORT, KERAS_PREDICT
from edgeseq.conversion.bridge import working_tf2onnx
from edgeseq.conversion.reference import reset_states
from rival_libraries.onnx_files import open_onnx
from rival_libraries.rival import Opened, Rival


def predict(case, _, inputs, __):
    model, rows = case.model, len(inputs)

    def call():
        reset_states(model)
        return model.predict(inputs, batch_size=rows, verbose=0)

    return Opened(call=call)


def compiled_function(*, xla):
    def make(case, _, inputs, __):
        import tensorflow as tf

        given = tf.constant(inputs)
        # With the one shape it is for.
        ready = tf.function(case.answer(inputs), jit_compile=xla).get_concrete_function(
            tf.TensorSpec(given.shape, given.dtype)
        )
        return Opened(call=lambda: ready(given).numpy())

    return make


def export(case, path, inputs, _):
    model = case.model
    # Keras exports only models that were called.
    model(inputs, training=False)
    reset_states(model)
    # Only what keeps tf2onnx from starting at all is mended, as edgeseq's own comparison does.
    with working_tf2onnx():
        model.export(path, format="onnx", verbose=False)


RIVALS = (
    Rival(name=KERAS_PREDICT, provider="tensorflow", open=predict),
    Rival(name="tf.function", provider="tensorflow", open=compiled_function(xla=False)),
    Rival(name="tf.function, XLA", provider="tensorflow", open=compiled_function(xla=True)),
    Rival(name=KERAS_EXPORT, provider="onnxruntime", open=open_onnx, convert=export, file="keras_export.onnx"),
)
