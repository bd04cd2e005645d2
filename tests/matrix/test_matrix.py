"""Every recurrent layer with every option against Keras, by every strategy that can write it.

The reduced matrix is part of the suite; the whole one has the marker `full` (`scripts/test --full`). A failing case
runs alone with `scripts/test --full tests/matrix -n0 -k ID`.
"""

from __future__ import annotations

from types import SimpleNamespace

import equations
import keras
import matrix_cases
import matrix_models
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import edgeseq
from edgeseq import lowering
from edgeseq.conversion.convert import convert
from edgeseq.conversion.precision import in_float32
from edgeseq.conversion.reference import reset_states
from edgeseq.conversion.signature import read_signature
from edgeseq.errors import UnsupportedLayer
from edgeseq.runtime import Model

# The rule of the design: |a - b| <= 1e-5 x max(1, max |reference|), for float32 on the CPU; in double precision the
# digits that thousands of roundings leave.
TOLERANCE = {"float64": 1e-12}
DEFAULT_TOLERANCE = 1e-5

KINDS = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}

REDUCED, REST = matrix_cases.all_cases()


def close(case, answers, expected, what):
    answers, expected = keras.tree.flatten(answers), [np.asarray(array) for array in keras.tree.flatten(expected)]
    assert len(answers) == len(expected), what
    for mine, theirs in zip(answers, expected, strict=True):
        assert np.isfinite(theirs).all(), f"{what}: the reference itself is not finite"
        assert mine.shape == theirs.shape, what
        allowed = TOLERANCE.get(case.policy, DEFAULT_TOLERANCE) * max(1, np.abs(theirs).max(initial=0))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=allowed, err_msg=f"{what}: {case.id}")


@pytest.mark.parametrize(
    "case",
    [
        *[pytest.param(case, id=case.id) for case in REDUCED],
        *[pytest.param(case, id=case.id, marks=pytest.mark.full) for case in REST],
    ],
)
def test_native_and_exact(case, tmp_path):
    print(f"{matrix_cases.SEED_VARIABLE}={matrix_cases.seed()} scripts/test --full tests/matrix -n0 -k '{case.id}'")
    print(case)
    model = matrix_models.build(case)
    # A model in mixed precision is exported as the float32 model with its weights.
    reference = matrix_models.build(case, policy="float32") if "mixed" in case.policy else model
    report = edgeseq.export(model, tmp_path / "model.onnx")
    assert report.parity
    assert report.loops == 0
    (main,) = [layer for layer in report.recurrent if layer.name == "main"]
    strategy = main.strategy
    assert strategy == case.strategy, main.reason

    questions = list(matrix_models.trials(case, model))
    expected = [ask(reference, arrays) for arrays in questions]
    runtime = Model(tmp_path / "model.onnx")
    names = [tensor.name for tensor in model.inputs]
    for arrays, wanted in zip(questions, expected, strict=True):
        close(case, runtime(dict(zip(names, arrays, strict=True))), wanted, "the file and Keras")
    if case.stateful:
        check_stream(case, reference, runtime, questions[0])
    if has_equations(case):
        for arrays, wanted in zip(questions, expected, strict=True):
            close(case, by_equations(case, model, dict(zip(names, arrays, strict=True))), wanted, "numpy and Keras")
    for name in lowering.STRATEGIES:
        if name != strategy:
            check_forced(case, model, name, questions, expected)


def ask(model, arrays):
    reset_states(model)
    return keras.tree.map_structure(np.asarray, model(arrays if len(arrays) > 1 else arrays[0], training=False))


def check_forced(case, model, strategy, questions, expected):
    """The same model with its layers written by `strategy`, or refused with that strategy's reason."""
    signature = read_signature(model)

    def converted():
        with in_float32(model):
            return convert(
                signature, opset=18, target="cpu", streaming=case.stateful, lowering=strategy, allow_loop=False
            )

    if strategy not in case.strategies:
        with pytest.raises(UnsupportedLayer, match=f"lowering '{strategy}' was asked for, but "):
            converted()
        return
    made = converted()
    assert {layer.strategy for layer in made.placed.recurrent} == {strategy}
    session = onnxruntime.InferenceSession(ir.to_proto(made.graph).SerializeToString())
    outputs = [output.name for output in session.get_outputs()[: len(keras.tree.flatten(expected[0]))]]
    for arrays, wanted in zip(questions, expected, strict=True):
        feed = {
            spec.name: array.astype(spec.dtype, copy=False)
            for spec, array in zip(signature.inputs, arrays, strict=True)
        }
        for state in made.placed.states:
            shape = [axis if isinstance(axis, int) else len(arrays[0]) for axis in state.axes]
            feed[state.input] = np.full(shape, state.initial, state.dtype)
        close(case, session.run(outputs, feed), wanted, f"lowering '{strategy}' and Keras")


def check_stream(case, model, runtime, arrays):
    """A file with states against the model called twice."""
    stream = runtime.stream(batch=len(arrays[0]))
    reset_states(model)
    for _ in range(2):
        close(case, stream.step(arrays[0]), model(arrays[0], training=False), "a stream and Keras")
    reset_states(model)


def has_equations(case):
    return (
        len(case.kinds) == 1
        and case.wrapper == "none"
        and case.after == "none"
        and case.initial != "encoder"
        and {case.activation, case.recurrent_activation} <= {"default", *equations.FUNCTIONS}
    )


def by_equations(case, model, inputs):
    """The outputs by the equations of the cell, from the weights of the model alone."""
    layer = model.get_layer("main")
    kernel, recurrent_kernel, *biases = [weight.astype(float) for weight in layer.get_weights() if weight.ndim]
    bias, recurrent_bias = (biases or [None])[0], None
    if case.kinds == ("GRU",) and case.reset_after and bias is not None:
        bias, recurrent_bias = bias
    named = {"activation": (case.activation, "tanh"), "recurrent_activation": (case.recurrent_activation, "sigmoid")}
    functions = {
        position: SimpleNamespace(name=default if name == "default" else name)
        for position, (name, default) in named.items()
    }
    spec = SimpleNamespace(
        kind=KINDS[case.kinds[0]],
        units=case.units,
        reset_after=case.reset_after,
        return_sequences=case.sequences,
        masked_output="zero" if case.zero_output else "repeat",
        directions=[
            SimpleNamespace(
                kernel=kernel,
                recurrent_kernel=recurrent_kernel,
                bias=bias,
                recurrent_bias=recurrent_bias,
                backwards=case.backwards,
                **functions,
            )
        ],
    )
    mask = inputs.get("mask")
    if case.mask == "embedding":
        (table,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Embedding)]
        x, mask = np.asarray(table.embeddings)[inputs["ids"]], inputs["ids"] != 0
    else:
        x = inputs["x"]
        if case.mask == "masking":
            mask = (x != matrix_models.MASK_VALUE).any(-1)
            x = x * mask[..., None]
    if not case.is_masked:
        mask = None
    initial = [inputs[name] for name in sorted(inputs) if name.startswith("state_")]
    outputs, states = equations.numpy_layer(spec, x, mask, initial or None)
    return [*outputs, *(states if case.states else [])]


def test_the_matrix_is_as_large_as_promised():
    cases = [*REDUCED, *REST]
    assert len({case.id for case in cases}) == len(cases) >= 1500
    every = {(name, value) for case in cases for name, value in vars(case).items()}
    shown = {(name, value) for case in REDUCED for name, value in vars(case).items()}
    assert shown == every, "the reduced matrix leaves out values of some options"


def test_every_activation_of_keras_is_in_the_matrix():
    public = {name for name in dir(keras.activations) if not name.startswith("_")}
    assert public - {"get", "serialize", "deserialize", "glu", "threshold"} == set(matrix_cases.ACTIVATIONS)
