"""Every strategy against the equations of each cell, written out in numpy."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from equations import FUNCTIONS, numpy_layer
from hypothesis import given as given_example
from hypothesis import settings
from hypothesis import strategies as st

from edgeseq import lowering
from edgeseq.errors import UnsupportedLayer, WrongUsage
from edgeseq.lowering import activations
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.spec import GATES, Activation, Convolution, Direction, RecurrentSpec
from edgeseq.lowering.strategy import Signals

# Sums of at most a few dozen float32 products in another order, through a few steps that keep values in -1..1.
TOLERANCE = 2e-6


def make_spec(
    kind="lstm",
    *,
    features=3,
    units=4,
    directions=1,
    backwards=False,
    activation="tanh",
    recurrent_activation="sigmoid",
    use_bias=True,
    reset_after=True,
    seed=0,
    **options,
):
    random = np.random.default_rng(seed)
    width = len(GATES[kind]) * units

    def weights(*shape):
        return random.normal(0, 0.4, shape).astype(np.float32)

    def direction(backwards):
        return Direction(
            kernel=weights(features, width),
            recurrent_kernel=weights(units, width),
            bias=weights(width) if use_bias else None,
            recurrent_bias=weights(width) if use_bias and kind == "gru" and reset_after else None,
            activation=Activation(name=activation),
            recurrent_activation=None if kind == "simple_rnn" else Activation(name=recurrent_activation),
            backwards=backwards,
        )

    made = (direction(False), direction(True)) if directions == 2 else (direction(backwards),)
    options.setdefault("return_sequences", True)
    if directions == 2:
        options.setdefault("merge", "concat")
    return RecurrentSpec(
        layer="layer", layer_type="Layer", kind=kind, units=units, directions=made, reset_after=reset_after, **options
    )


def run(spec, strategy, x, mask=None, initial=None):
    """The strategy's nodes as a model of their own, run by onnxruntime."""

    def graph_input(name, array):
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape))

    feeds = {"x": x} | ({} if mask is None else {"mask": mask})
    feeds |= {f"state_{i}": state for i, state in enumerate(initial or ())}
    values = {name: graph_input(name, array) for name, array in feeds.items()}
    b = Builder("layer")
    lowered = lowering.STRATEGIES[strategy].lower(
        b,
        spec,
        Signals(
            x=values["x"],
            mask=values.get("mask"),
            initial=tuple(values[f"state_{i}"] for i in range(len(initial or ()))),
            wants_output=True,
            wants_states=True,
        ),
    )
    results = [b.op("Identity", value) for value in (*lowered.outputs, *lowered.states)]
    for index, value in enumerate(results):
        value.name, value.type = f"result_{index}", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        list(values.values()), results, nodes=b.nodes, initializers=b.initializers, opset_imports={"": 18}, name="g"
    )
    from edgeseq.conversion.finish import canonical

    model = ir.Model(graph, ir_version=8)
    canonical(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    answers = session.run(None, feeds)
    return answers[: len(lowered.outputs)], answers[len(lowered.outputs) :]


def check(spec, strategy, *, batch=3, time_steps=5, masked=False, given=False, seed=1):
    random = np.random.default_rng(seed)
    x = random.normal(size=(batch, time_steps, spec.directions[0].kernel.shape[0])).astype(np.float32)
    mask = None
    if masked:
        mask = random.random((batch, time_steps)) < 0.6
        mask[0] = False  # a row without a valid step
        if batch > 1:
            mask[1, 0], mask[1, -1] = False, True
    initial = None
    if given:
        shape = (batch, spec.units)
        initial = [random.normal(size=shape).astype(np.float32) for _ in spec.state_names]
    outputs, states = run(spec, strategy, x, mask, initial)
    expected_outputs, expected_states = numpy_layer(spec, x, mask, initial)
    for got, wanted in zip([*outputs, *states], [*expected_outputs, *expected_states], strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE * max(1, np.abs(wanted).max()))


STRATEGIES = ["fused", "unrolled", "scan"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
def test_every_option_of_a_single_direction(kind, strategy):
    resets = (True, False) if kind == "gru" else (True,)
    for backwards, sequences, masked, given, use_bias, reset_after in product(
        (False, True), (False, True), (False, True), (False, True), (False, True), resets
    ):
        for masked_output in ("repeat", "zero") if masked else ("repeat",):
            spec = make_spec(
                kind,
                backwards=backwards,
                return_sequences=sequences,
                masked=masked,
                masked_output=masked_output,
                initial_state="given" if given else "zero",
                use_bias=use_bias,
                reset_after=reset_after,
                time_steps=5,
            )
            check(spec, strategy, masked=masked, given=given)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
def test_every_option_of_two_directions(kind, strategy):
    for merge, sequences, masked, given in product(
        ("concat", "sum", "mul", "ave", "none"), (False, True), (False, True), (False, True)
    ):
        spec = make_spec(
            kind,
            directions=2,
            merge=merge,
            return_sequences=sequences,
            masked=masked,
            masked_output="zero" if merge in ("concat", "sum") else "repeat",
            initial_state="given" if given else "zero",
            time_steps=5,
        )
        reason = lowering.STRATEGIES[strategy].decline(spec, "cpu")
        if reason:
            assert strategy == "fused"
            assert masked
            assert sequences
            assert "each direction repeats" in reason
            continue
        check(spec, strategy, masked=masked, given=given)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
@pytest.mark.parametrize("masked_output", ["repeat", "zero"])
def test_masked_steps_of_a_chunk_repeat_the_output_before_it(masked_output, kind, strategy):
    """Chunk by chunk with the states of the one before, as all at once."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 9, 3)).astype(np.float32)
    mask = random.random((4, 9)) < 0.5
    mask[0], mask[1, 3:6], mask[2, :6] = False, False, False
    mask[1, 2] = mask[2, 6] = True
    for sequences in (False, True):
        spec = make_spec(
            kind,
            return_sequences=sequences,
            masked=True,
            masked_output=masked_output,
            initial_state="given",
            first_output="state" if masked_output == "repeat" else "zero",
            time_steps=3,
        )
        states = [np.zeros((4, spec.units), np.float32)] * len(spec.state_names)
        for end in (3, 6, 9):
            # The first row has no valid step at all, so zeros; the second none in the middle chunk.
            whole, finals = numpy_layer(spec, x[:, :end], mask[:, :end], [np.zeros_like(state) for state in states])
            outputs, states = run(spec, strategy, x[:, end - 3 : end], mask[:, end - 3 : end], states)
            wanted = whole[0][:, -3:] if sequences else whole[0]
            np.testing.assert_allclose(outputs[0], wanted, atol=TOLERANCE)
            for state, final in zip(states, finals, strict=True):
                np.testing.assert_allclose(state, final, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if activations.known(Activation(name=name))])
@pytest.mark.parametrize("position", ["activation", "recurrent_activation"])
def test_every_activation_in_every_position(name, position):
    for kind in ("simple_rnn", "lstm", "gru"):
        if kind == "simple_rnn" and position == "recurrent_activation":
            continue
        # An exponential of an exponential leaves float32 within a few steps.
        steps = 1 if name == "exponential" else 4
        spec = make_spec(kind, time_steps=steps, **{position: name})
        for strategy in STRATEGIES:
            if not lowering.STRATEGIES[strategy].decline(spec, "cpu"):
                check(spec, strategy, time_steps=steps)


@settings(max_examples=60, deadline=None)
@given_example(
    kind=st.sampled_from(["simple_rnn", "lstm", "gru"]),
    strategy=st.sampled_from(STRATEGIES),
    batch=st.integers(1, 7),
    time_steps=st.integers(1, 9),
    features=st.integers(1, 5),
    units=st.integers(1, 6),
    masked=st.booleans(),
    directions=st.integers(1, 2),
    sequences=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_size(kind, strategy, batch, time_steps, features, units, masked, directions, sequences, seed):
    spec = make_spec(
        kind,
        features=features,
        units=units,
        directions=directions,
        return_sequences=sequences,
        masked=masked,
        masked_output="zero" if directions == 2 and sequences else "repeat",
        time_steps=time_steps,
        seed=seed,
    )
    check(spec, strategy, batch=batch, time_steps=time_steps, masked=masked, seed=seed)


def test_a_masked_batch_runs_over_its_longest_row_only():
    """The promise that work shrinks with the valid steps: the fused op never sees the masked ones."""
    spec = make_spec("lstm", masked=True, return_sequences=False)
    b = Builder("layer")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("b", "t", 3)))
    mask = ir.Value(name="mask", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape(("b", "t")))
    lowering.STRATEGIES["fused"].lower(
        b, spec, Signals(x=x, mask=mask, initial=(), wants_output=True, wants_states=False)
    )
    (gather,) = [node for node in b.nodes if node.op_type == "GatherND"]
    for node in b.nodes:
        node.outputs[0].name = node.outputs[0].name or f"v{id(node)}"
    shortened = ir.Graph(
        [x, mask], [gather.outputs[0]], nodes=b.nodes[: list(b.nodes).index(gather) + 1],
        initializers=b.initializers, opset_imports={"": 18}, name="g",
    )  # fmt: skip
    gather.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    for node in shortened:
        for output in node.outputs:
            output.name = output.name or f"value_{id(output)}"
    session = onnxruntime.InferenceSession(ir.to_proto(ir.Model(shortened, ir_version=8)).SerializeToString())
    valid = np.zeros((2, 50), bool)
    valid[0, 40:47] = True
    valid[1, ::10] = True
    (kept,) = session.run(None, {"x": np.zeros((2, 50, 3), np.float32), "mask": valid})
    assert kept.shape == (2, 7, 3)


def convolution_spec(time_steps, strides=(1, 1), padding="same", dilation=(1, 1), channels_last=True, **options):
    random = np.random.default_rng(3)
    window = (3, 2)

    def weights(*shape):
        return random.normal(0, 0.3, shape).astype(np.float32)

    direction = Direction(
        kernel=weights(*window, 2, 12),
        recurrent_kernel=weights(*window, 3, 12),
        bias=weights(12),
        activation=Activation(name="tanh"),
        recurrent_activation=Activation(name="sigmoid"),
    )
    return RecurrentSpec(
        layer="conv",
        layer_type="ConvLSTM2D",
        kind="conv_lstm",
        units=3,
        directions=(direction,),
        return_sequences=True,
        time_steps=time_steps,
        convolution=Convolution(strides=strides, padding=padding, dilation=dilation, channels_last=channels_last),
        **options,
    )


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (5, 6)),
        ({"padding": "valid"}, (3, 5)),
        ({"strides": (2, 3)}, (3, 2)),
        ({"strides": (2, 3), "padding": "valid"}, (2, 2)),
        ({"strides": (3, 2), "padding": "valid"}, (1, 3)),
        ({"dilation": (2, 3)}, (5, 6)),
        ({"dilation": (2, 3), "padding": "valid"}, (1, 3)),
    ],
)
def test_convolutional_strategies_agree(options, size):
    """Two ways to write one recurrence, whose states begin as zeros of the right size in the one and not at all in the
    other; Keras is the oracle for the convolutions, in the conversion tests."""
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6, 2)).astype(np.float32)
    spec = convolution_spec(4, **options)
    (scan,), scan_states = run(spec, "scan", x)
    (unrolled,), unrolled_states = run(spec, "unrolled", x)
    assert scan.shape == (2, 4, *size, 3)
    np.testing.assert_allclose(scan, unrolled, atol=TOLERANCE)
    for one, other in zip(scan_states, unrolled_states, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


class TestChoosing:
    def test_the_fused_op_comes_first(self):
        assert lowering.choose(make_spec("gru"))[0] == "fused"

    def test_an_activation_that_onnx_lacks_goes_to_scan_and_says_why(self):
        name, reason = lowering.choose(make_spec("lstm", activation="gelu"))
        assert name == "scan"
        assert "gelu" in reason

    def test_few_fixed_steps_are_written_out(self):
        assert lowering.choose(make_spec("lstm", activation="gelu", time_steps=4))[0] == "unrolled"

    def test_what_would_leave_the_gpu_is_not_fused_for_cuda(self):
        assert lowering.choose(make_spec("lstm", activation="relu"), target="cuda")[0] == "scan"
        assert lowering.choose(make_spec("gru", reset_after=False), target="cuda")[0] == "scan"
        assert lowering.choose(make_spec("lstm"), target="cuda")[0] == "fused"

    def test_an_unknown_activation_is_refused_with_every_reason(self):
        with pytest.raises(UnsupportedLayer, match=r"layer 'layer'.*fused:.*wobble.*scan:.*wobble"):
            lowering.choose(make_spec("lstm", activation="wobble"))

    def test_forcing_what_cannot_be_is_refused(self):
        with pytest.raises(UnsupportedLayer, match="lowering 'unrolled' was asked for, but the number of time steps"):
            lowering.choose(make_spec("lstm"), lowering="unrolled")

    def test_an_unknown_lowering_lists_the_known_ones(self):
        with pytest.raises(WrongUsage, match="allowed: auto, fused, unrolled, scan"):
            lowering.choose(make_spec("lstm"), lowering="magic")
