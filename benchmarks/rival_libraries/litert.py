"""LiteRT in fp32 and with dynamic range int8, with XNNPACK as it does by default."""

from __future__ import annotations

from rival_libraries.rival import Opened, Rival

LOOPS = ("WHILE",)


def convert(*, int8):
    def write(case, path, inputs, _):
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        model = without_states(case)
        model(inputs, training=False)
        step = tf.function(lambda x: model(x, training=False))
        traced = step.get_concrete_function(tf.TensorSpec(inputs.shape, inputs.dtype))
        # With variables instead of constants the interpreter finds none of them, states included.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(traced)])
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path.write_bytes(converter.convert())

    return write


def without_states(case):
    """The model, or one with the same weights that begins every call at zero."""
    import keras

    def copied(layer):
        changed = {"stateful": False} if getattr(layer, "stateful", False) else {}
        return type(layer).from_config({**layer.get_config(), **changed})

    if not case.states:
        return case.model
    clone = keras.models.clone_model(case.model, clone_function=copied)
    clone.set_weights(case.model.get_weights())
    return clone


def open_file(case, path, inputs, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    [given], [made] = interpreter.get_input_details(), interpreter.get_output_details()

    def call():
        interpreter.set_tensor(given["index"], inputs)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    loops = sum(op["op_name"] in LOOPS for op in interpreter._get_ops_details())
    notes = (f"holds {loops} While",) if loops else ()
    return Opened(call=call, notes=notes, returns_states=not case.states)


RIVALS = (
    Rival(
        name="LiteRT", provider="litert", open=open_file, convert=convert(int8=False), file="litert.tflite",
        per=("batch",),
    ),
    Rival(
        name="LiteRT dynamic range", provider="litert", open=open_file, convert=convert(int8=True), precision="int8",
        file="litert_int8.tflite", per=("batch",),
    ),
)  # fmt: skip
