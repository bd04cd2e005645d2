"""Recurrent nodes of any ONNX file: read as a spec, and rewritten by every strategy with the same answers."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnx.backend.test.loader import load_model_tests
from onnx_ir.passes import common

from edgeseq import lowering
from edgeseq.errors import UnsupportedLayer, WrongUsage
from edgeseq.lowering.builder import Builder
from edgeseq.lowering.reading import INPUTS, KINDS, read_node, recurrent_nodes
from edgeseq.lowering.rewriting import rewrite_node
from edgeseq.lowering.spec import GATES, Activation, Direction, RecurrentSpec
from edgeseq.lowering.strategy import Signals

# Sums of at most a few dozen float32 products in another order, through a few steps, relative to the largest answer.
TOLERANCE = 2e-6

STRATEGIES = list(lowering.STRATEGIES)
OPS = list(KINDS)
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}

# ONNX's names, and the parameters each must be given to mean the same everywhere.
FUNCTIONS = {
    "Tanh": (),
    "Sigmoid": (),
    "Relu": (),
    "Softsign": (),
    "HardSigmoid": (0.25, 0.375),
    "LeakyRelu": (0.125,),
    "Elu": (0.75,),
    "Affine": (0.5, 0.125),
    "ThresholdedRelu": (0.375,),
    "ScaledTanh": (1.5, 0.5),
}


def make_model(op, feeds, *, outputs=None, opset=18, ir_version=8, constants="initializers", bind=None, **attributes):
    """A model of one node. What `bind` names (the weights) is constant, the rest of `feeds` are its inputs."""
    bind = {"W", "R", "B", "P"} if bind is None else bind
    names = INPUTS[KINDS[op]]
    kind = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}[feeds["X"].dtype]
    wanted = OUTPUTS[op] if outputs is None else outputs
    node = helper.make_node(
        op,
        [name if name in feeds else "" for name in names],
        [name if name in wanted else "" for name in OUTPUTS[op]],
        name="layer",
        hidden_size=feeds["R"].shape[2],
        **attributes,
    )
    bound = {name: array for name, array in feeds.items() if name in bind}
    before = []
    if constants == "nodes":
        before = [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
            for name, array in bound.items()
        ]
    graph = helper.make_graph(
        [*before, node],
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
            if name not in bind
        ],
        [
            helper.make_tensor_value_info(name, kind, [None] * (4 if name == "Y" else 3))
            for name in OUTPUTS[op]
            if name in wanted
        ],
        [] if before else [numpy_helper.from_array(array, name) for name, array in bound.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def make_feeds(op, *, batch=3, time=5, features=3, units=4, sides=1, seed=0, with_=("B",), dtype=np.float32):
    """Random inputs by ONNX's names, layout 0; `with_` are the optional ones."""
    random = np.random.default_rng(seed)
    width = len(GATES[KINDS[op]]) * units
    shapes = {
        "X": (time, batch, features),
        "W": (sides, width, features),
        "R": (sides, width, units),
        "B": (sides, 2 * width),
        "P": (sides, 3 * units),
        "initial_h": (sides, batch, units),
        "initial_c": (sides, batch, units),
    }
    made = {name: random.normal(0, 0.4, shape).astype(dtype) for name, shape in shapes.items()}
    made["sequence_lens"] = random.integers(1, time + 1, batch).astype(np.int32)
    return {name: made[name] for name in INPUTS[KINDS[op]] if name in ("X", "W", "R", *with_)}


def answers(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def rewritten(model, strategy, target="cpu"):
    """The model after `rewrite_node`, checked, and what the call returned."""
    graph = ir.from_proto(model)
    (node,) = recurrent_nodes(graph)
    done = rewrite_node(graph, node, lowering=strategy, target=target)
    common.RemoveUnusedNodesPass()(graph)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]
    return made, done


def assert_close(got, wanted, tolerance=TOLERANCE):
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max()))


def read(model):
    (node,) = recurrent_nodes(ir.from_proto(model))
    return read_node(node)


class TestNodeCasesOfOnnx:
    """ONNX's own test vectors for LSTM, GRU and RNN, as the onnx package generates them."""

    @pytest.fixture(scope="class")
    @staticmethod
    def cases():
        with warnings.catch_warnings():
            # Cases of other operators warn of the overflows they are about.
            warnings.simplefilter("ignore")
            cases = [case for case in load_model_tests(kind="node") if case.model.graph.node[0].op_type in KINDS]
        assert len(cases) >= 18
        return cases

    @staticmethod
    def bound(case):
        """The case with its weights, which it has as inputs, as initializers."""
        names = [value.name for value in case.model.graph.input]
        ((inputs, expected),) = case.data_sets
        feeds = dict(zip(names, inputs, strict=True))
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for name in {"W", "R", "B", "P"} & set(names):
            model.graph.initializer.append(numpy_helper.from_array(feeds[name], name))
        kept = [value for value in model.graph.input if value.name not in ("W", "R", "B", "P")]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        return model, feeds, expected

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_every_case_by_every_strategy(self, cases, strategy):
        for case in cases:
            model, feeds, expected = self.bound(case)
            made, done = rewritten(model, strategy)
            assert done.strategy == strategy, case.name
            if strategy != "fused":
                assert not {node.op_type for node in made.graph.node} & set(KINDS), case.name
            got = answers(made, feeds)
            for one, other in zip(got, expected, strict=True):
                assert one.shape == other.shape, case.name
                # The case's own tolerance, and ours, which is narrower where answers are near 1.
                np.testing.assert_allclose(one, other, rtol=case.rtol, atol=case.atol, err_msg=case.name)
                np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE, err_msg=case.name)

    def test_on_cuda_the_fused_op_declines_what_would_leave_the_gpu(self, cases):
        reasons = {}
        for case in cases:
            model, _, _ = self.bound(case)
            try:
                rewritten(model, "fused", target="cuda")
            except UnsupportedLayer as error:
                reasons[case.name] = error.reason
            else:
                assert case.model.graph.node[0].op_type != "GRU"
        # Every GRU case has linear_before_reset=0.
        assert len(reasons) == 7
        assert "clip or peepholes runs on the CPU" in reasons.pop("test_lstm_with_peepholes")
        assert all("linear_before_reset=0 runs on the CPU" in reason for reason in reasons.values())

    def test_weights_that_are_inputs_are_declined(self, cases):
        for case in cases:
            with pytest.raises(
                UnsupportedLayer, match=r"its weight W \('W'\) is an input of the graph, not a constant"
            ):
                read(case.model)


@st.composite
def functions(draw, op, sides):
    """The activation attributes of a node, each side with functions of its own."""
    names, alphas, betas = [], [], []
    for _ in range(sides):
        gate, main = draw(st.sampled_from(list(FUNCTIONS))), draw(st.sampled_from(list(FUNCTIONS)))
        for name in {"RNN": [main], "GRU": [gate, main], "LSTM": [gate, main, main]}[op]:
            names.append(name)
            alphas += FUNCTIONS[name][:1]
            betas += FUNCTIONS[name][1:]
    attributes = {"activations": names, "activation_alpha": alphas, "activation_beta": betas}
    return {key: value for key, value in attributes.items() if value}


@st.composite
def nodes(draw, *, initial=True):
    """Everything a node may have that is understood: op, feeds in layout 0, attributes, wanted outputs."""
    op = draw(st.sampled_from(OPS))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    sides = 2 if direction == "bidirectional" else 1
    optional = [name for name in INPUTS[KINDS[op]][3:] if draw(st.booleans())]
    feeds = make_feeds(
        op,
        batch=draw(st.integers(1, 4)),
        time=draw(st.integers(1, 6)),
        features=draw(st.integers(1, 4)),
        units=draw(st.integers(1, 4)),
        sides=sides,
        seed=draw(st.integers(0, 2**31)),
        with_=optional,
    )
    attributes = {"direction": direction} | (draw(functions(op, sides)) if draw(st.booleans()) else {})
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.125, 0.5, 2.0]))
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    outputs = draw(st.lists(st.sampled_from(OUTPUTS[op]), min_size=1, unique=True))
    return op, feeds, attributes, outputs


@settings(max_examples=150, deadline=None)
@given(node=nodes(), strategy=st.sampled_from(STRATEGIES), batch_first=st.booleans())
def test_a_node_and_its_rewriting_give_the_same_answers(node, strategy, batch_first):
    """onnxruntime's own op is the oracle; it refuses layout 1, which is layout 0 with other axes."""
    op, feeds, attributes, outputs = node
    wanted = answers(make_model(op, feeds, outputs=outputs, **attributes), feeds)
    # Gates that are not bounded, such as Relu, can grow without end, and with them the difference of two roundings.
    assume(all(np.abs(array).max() < 100 for array in wanted))
    if batch_first:
        swapped = {"X", "initial_h", "initial_c"}
        feeds = {name: np.swapaxes(array, 0, 1) if name in swapped else array for name, array in feeds.items()}
        names = [name for name in OUTPUTS[op] if name in outputs]
        axes = {"Y": (2, 0, 1, 3), "Y_h": (1, 0, 2), "Y_c": (1, 0, 2)}
        wanted = [array.transpose(axes[name]) for name, array in zip(names, wanted, strict=True)]
    model = make_model(op, feeds, outputs=outputs, layout=int(batch_first), **attributes)
    made, _ = rewritten(model, strategy)
    assert not any(a.name == "layout" and a.i for n in made.graph.node for a in n.attribute)
    assert_close(answers(made, feeds), wanted)


@pytest.mark.parametrize("op", OPS)
def test_softplus_is_left_to_steps_where_onnxruntimes_op_overflows(op):
    names = {"RNN": ["Softplus"], "GRU": ["Sigmoid", "Softplus"], "LSTM": ["Sigmoid", "Softplus", "Softplus"]}[op]
    feeds = {name: np.zeros_like(array) for name, array in make_feeds(op, time=1).items()}
    width, units = feeds["R"].shape[1:]
    for bias, finite in ((1, True), (100, False)):
        # Of the candidate, which is the last gate of each op.
        feeds["B"][:, width - units : width] = bias
        model = make_model(op, feeds, activations=names)
        wanted = answers(model, feeds)
        assert np.isfinite(wanted[-1]).all() == finite
        with pytest.raises(UnsupportedLayer, match=r"softplus in onnxruntime's .* gives infinity from 89 on"):
            rewritten(model, "fused")
        for strategy in ("scan", "unrolled"):
            got = answers(rewritten(model, strategy)[0], feeds)
            if finite:
                assert_close(got, wanted)
            # A gate of 1/2 halves it in the two ops that have one.
            np.testing.assert_allclose(got[-1], np.logaddexp(0, bias) * (1 if op == "RNN" else 0.5), rtol=TOLERANCE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("op", OPS)
def test_layout_1_is_that_of_onnxs_reference(op, strategy):
    """A second oracle for it: onnx's reference implementation knows the layout (and neither lengths nor functions)."""
    feeds = make_feeds(op, with_=("B", "initial_h", "initial_c"), sides=2)
    for name in feeds.keys() & {"X", "initial_h", "initial_c"}:
        feeds[name] = np.ascontiguousarray(np.swapaxes(feeds[name], 0, 1))
    model = make_model(op, feeds, layout=1, direction="bidirectional")
    inputs = {value.name: feeds[value.name] for value in model.graph.input}
    wanted = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    made, _ = rewritten(model, strategy)
    assert_close(answers(made, feeds), wanted)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("op", OPS)
def test_a_row_without_a_step_ends_as_in_onnxruntime(op, strategy):
    for direction in ("forward", "reverse", "bidirectional"):
        for with_ in (("B",), ("B", "initial_h", "initial_c")):
            sides = 2 if direction == "bidirectional" else 1
            feeds = make_feeds(op, with_=(*with_, "sequence_lens"), sides=sides)
            feeds["sequence_lens"] = np.array([0, 5, 2], np.int32)
            model = make_model(op, feeds, direction=direction)
            wanted = answers(model, feeds)
            assert not wanted[1][:, 0].any()
            assert_close(answers(rewritten(model, strategy)[0], feeds), wanted)


@pytest.mark.parametrize("op", OPS)
def test_double_precision_is_read_and_runs_in_steps(op):
    """onnxruntime has no such op, so that onnx's reference is the oracle."""
    feeds = make_feeds(op, dtype=np.float64, sides=2, with_=("B", "initial_h", "initial_c"))
    model = make_model(op, feeds, direction="bidirectional")
    inputs = {value.name: feeds[value.name] for value in model.graph.input}
    wanted = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    assert read(model).dtype == "float64"
    for strategy in ("scan", "unrolled"):
        # Double precision: the same sums to some 1e-16.
        assert_close(answers(rewritten(model, strategy)[0], feeds), wanted, 1e-14)
    with pytest.raises(UnsupportedLayer, match=r"layer 'layer'.*no .* in double precision on the CPU"):
        rewritten(model, "fused")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gru_as_pytorch_writes_it(strategy):
    """Time first, two rows of biases, the reset gate after the product; the equations of torch.nn.GRU as the oracle."""
    random = np.random.default_rng(5)
    time, batch, features, units = 6, 2, 3, 4
    weight_ih, weight_hh = random.normal(0, 0.4, (3 * units, features)), random.normal(0, 0.4, (3 * units, units))
    bias_ih, bias_hh = random.normal(0, 0.4, (2, 3 * units))
    x, h = random.normal(size=(time, batch, features)), random.normal(size=(batch, units))

    def update_first(array):
        # PyTorch has its gates as reset, update, new; ONNX as update, reset, hidden.
        reset, update, new = np.split(array, 3)
        return np.concatenate([update, reset, new])

    feeds = {
        "X": x,
        "W": update_first(weight_ih)[None],
        "R": update_first(weight_hh)[None],
        "B": np.concatenate([update_first(bias_ih), update_first(bias_hh)])[None],
        "initial_h": h[None],
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    steps = []
    for t in range(time):
        from_x, from_h = np.split(x[t] @ weight_ih.T + bias_ih, 3, -1), np.split(h @ weight_hh.T + bias_hh, 3, -1)
        r, z = (1 / (1 + np.exp(-(a + b))) for a, b in zip(from_x[:2], from_h[:2], strict=True))
        h = (1 - z) * np.tanh(from_x[2] + r * from_h[2]) + z * h
        steps.append(h)
    model = make_model("GRU", feeds, opset=17, linear_before_reset=1)
    spec = read(model)
    assert spec.reset_after
    np.testing.assert_array_equal(spec.directions[0].recurrent_bias, feeds["B"][0, 3 * units :])
    got = answers(rewritten(model, strategy)[0], feeds)
    assert_close(got, [np.stack(steps)[:, None].astype(np.float32), h[None].astype(np.float32)])


# What a fused op can say of a spec, and a spec of a fused op. Parameters are exact in float32.
SPEC_FUNCTIONS = [
    *[Activation(name=name) for name in ("tanh", "sigmoid", "relu", "softsign", "softplus")],
    *[Activation(name=name) for name in ("linear", "hard_sigmoid", "leaky_relu", "elu")],
    Activation(name="hard_sigmoid", alpha=0.25, beta=0.375),
    Activation(name="leaky_relu", alpha=0.125),
    Activation(name="elu", alpha=0.5),
    Activation(name="affine", alpha=0.5, beta=0.25),
    Activation(name="scaled_tanh", alpha=1.5, beta=0.5),
    Activation(name="thresholded_relu", alpha=0.25),
]


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(list(KINDS.values())))
    sides, units, features = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    width = len(GATES[kind]) * units
    use_bias, reset_after, masked = draw(st.booleans()), kind != "gru" or draw(st.booleans()), draw(st.booleans())
    backwards, use_peephole = draw(st.booleans()), kind == "lstm" and draw(st.booleans())
    sequences = draw(st.booleans())
    # There the strategy turns the input around instead of the op.
    assume(not (masked and sequences and sides == 1 and backwards))

    def weights(*shape):
        return random.normal(size=shape).astype(np.float32)

    return RecurrentSpec(
        layer="layer",
        layer_type={"simple_rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}[kind],
        kind=kind,
        units=units,
        directions=tuple(
            Direction(
                kernel=weights(features, width),
                recurrent_kernel=weights(units, width),
                bias=weights(width) if use_bias else None,
                recurrent_bias=weights(width) if use_bias and kind == "gru" and reset_after else None,
                peephole=weights(3, units) if use_peephole else None,
                activation=draw(st.sampled_from(SPEC_FUNCTIONS)),
                recurrent_activation=None if kind == "simple_rnn" else draw(st.sampled_from(SPEC_FUNCTIONS)),
                backwards=backwards if sides == 1 else index == 1,
            )
            for index in range(sides)
        ),
        merge="none" if sides == 2 else None,
        reset_after=reset_after,
        return_sequences=sequences,
        clip=draw(st.sampled_from([None, 0.5])),
        masked=masked,
        masked_output="zero" if masked else "repeat",
        initial_state=draw(st.sampled_from(["zero", "given"])),
    )


@settings(max_examples=150, deadline=None)
@given(spec=specs())
def test_a_spec_survives_being_written_as_a_fused_op(spec):
    def graph_input(name, dtype=ir.DataType.FLOAT):
        return ir.Value(name=name, type=ir.TensorType(dtype))

    b = Builder("layer")
    states = tuple(graph_input(name) for name in spec.state_names) if spec.initial_state == "given" else ()
    mask = graph_input("mask", ir.DataType.BOOL) if spec.masked else None
    signals = Signals(x=graph_input("x"), mask=mask, initial=states, wants_output=True, wants_states=True)
    lowering.STRATEGIES["fused"].lower(b, spec, signals)
    (node,) = [node for node in b.nodes if node.op_type in KINDS]
    node.name = "layer"
    found = read_node(node)
    for field in dataclasses.fields(RecurrentSpec):
        if field.name != "directions":
            assert getattr(found, field.name) == getattr(spec, field.name), field.name
    assert len(found.directions) == len(spec.directions)
    for one, other in zip(found.directions, spec.directions, strict=True):
        for field in dataclasses.fields(Direction):
            got, wanted = getattr(one, field.name), getattr(other, field.name)
            if isinstance(wanted, np.ndarray):
                np.testing.assert_array_equal(got, wanted, err_msg=field.name)
            else:
                assert got == wanted, field.name


class TestReading:
    def test_gates_biases_and_peepholes_by_name(self):
        """ONNX has i o f c and P of i o f; a spec i f c o and rows i f o."""
        feeds = make_feeds("LSTM", units=2, with_=("B", "P"))
        i, o, f, c = np.split(feeds["W"][0], 4)
        spec = read(make_model("LSTM", feeds))
        (direction,) = spec.directions
        np.testing.assert_array_equal(direction.kernel, np.concatenate([i, f, c, o]).T)
        pi, po, pf = np.split(feeds["P"][0], 3)
        np.testing.assert_array_equal(direction.peephole, [pi, pf, po])
        i, o, f, c = np.split(np.add(*np.split(feeds["B"][0], 2)), 4)
        np.testing.assert_array_equal(direction.bias, np.concatenate([i, f, c, o]))
        assert direction.recurrent_bias is None

    def test_names_layout_and_lengths(self):
        feeds = make_feeds("GRU", time=5, batch=3, with_=("sequence_lens",))
        spec = read(make_model("GRU", feeds, outputs=["Y_h"]))
        assert (spec.layer, spec.layer_type, spec.kind, spec.units) == ("layer", "GRU", "gru", 4)
        assert (spec.time_steps, spec.masked, spec.masked_output) == (5, True, "zero")
        assert (spec.return_sequences, spec.initial_state, spec.reset_after) == (False, "zero", False)
        assert spec.directions[0].bias is None
        assert read(make_model("GRU", feeds, outputs=["Y"], layout=1)).time_steps == 3
        assert read(make_model("GRU", feeds, outputs=["Y"])).return_sequences

    def test_defaults_of_functions_are_those_of_onnx(self):
        feeds = make_feeds("LSTM")
        names = ["HardSigmoid", "LeakyRelu", "LeakyRelu"]
        (direction,) = read(make_model("LSTM", feeds, activations=names)).directions
        assert direction.recurrent_activation == Activation(name="hard_sigmoid", alpha=0.2, beta=0.5)
        assert direction.activation == Activation(name="leaky_relu", alpha=0.01)
        # Case does not count, as in onnxruntime, and zeros for functions without parameters do no harm.
        model = make_model(
            "LSTM", feeds, activations=["hardSIGMOID", "tanh", "Tanh"], activation_alpha=[0.25, 0.0, 0.0]
        )
        (direction,) = read(model).directions
        assert direction.recurrent_activation == Activation(name="hard_sigmoid", alpha=0.25, beta=0.5)
        assert direction.activation == Activation(name="tanh")

    def test_an_rnn_may_name_the_operators_two_default_functions(self):
        model = make_model("RNN", make_feeds("RNN"), activations=["Tanh", "Tanh"])
        assert read(model).directions[0].activation == Activation(name="tanh")

    def test_a_node_without_a_name_goes_by_its_output(self):
        model = make_model("RNN", make_feeds("RNN"), outputs=["Y_h"])
        model.graph.node[0].name = ""
        assert read(model).layer == "Y_h"

    @pytest.mark.parametrize(
        ("op", "attributes", "reason"),
        [
            ("LSTM", {"input_forget": 1}, "input_forget=1 couples the input and forget gates"),
            (
                "LSTM",
                {"activations": ["Sigmoid", "Tanh", "Relu"]},
                "candidate has the activation 'tanh', the cell .*relu",
            ),
            ("GRU", {"activations": ["Sigmoid"]}, "names 1 functions, not 2"),
            ("GRU", {"activations": ["Sigmoid", "Wobble"]}, "activation 'Wobble' is not one of Tanh, Sigmoid"),
            ("GRU", {"activation_alpha": [0.3]}, "activation_alpha has 1 more values than .* take"),
            ("RNN", {"activations": ["Affine"]}, "'Affine' has no activation_alpha, and ONNX and onnxruntime differ"),
            ("RNN", {"activations": ["Affine"], "activation_alpha": [2.0]}, "'Affine' has no activation_beta"),
            ("RNN", {"activations": ["ThresholdedRelu"]}, "'ThresholdedRelu' has no activation_alpha"),
            ("RNN", {"direction": "sideways"}, "direction 'sideways' is not one of forward, reverse, bidirectional"),
            ("RNN", {"output_sequence": 1}, "attribute 'output_sequence' is not one of activation_alpha"),
            ("GRU", {"layout": 2}, "layout 2 is not 0 or 1"),
            ("GRU", {"direction": "bidirectional"}, r"W has the shape \(1, 12, 3\), not \(2, 12, 3\)"),
        ],
    )
    def test_what_is_declined_is_named(self, op, attributes, reason):
        with pytest.raises(UnsupportedLayer, match=f"layer 'layer' cannot be exported exactly: .*{reason}") as caught:
            read(make_model(op, make_feeds(op), **attributes))
        assert caught.value.layer == "layer"

    def test_hidden_size_must_be_that_of_the_weights(self):
        model = make_model("RNN", make_feeds("RNN"))
        next(a for a in model.graph.node[0].attribute if a.name == "hidden_size").i = 7
        with pytest.raises(UnsupportedLayer, match="hidden_size is 7, but R has 4 units"):
            read(model)

    def test_half_precision_and_computed_weights_are_declined(self):
        feeds = make_feeds("RNN")
        model = make_model("RNN", feeds, bind={"W", "R"})
        with pytest.raises(UnsupportedLayer, match=r"its weight B \('B'\) is an input of the graph"):
            read(model)
        model = make_model("RNN", feeds)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(feeds[tensor.name].astype(np.float16), tensor.name))
        with pytest.raises(UnsupportedLayer, match=r"its weight W \('W'\) is float16, not float32 or float64"):
            read(model)
        model = make_model("RNN", feeds)
        model.graph.node.insert(0, helper.make_node("Neg", ["W"], ["minus_W"]))
        model.graph.node[1].input[1] = "minus_W"
        with pytest.raises(UnsupportedLayer, match=r"its weight W \('minus_W'\) is computed by a Neg"):
            read(model)

    def test_another_op_is_declined(self):
        node = ir.Node("", "Relu", inputs=[ir.Value(name="x")], name="r")
        with pytest.raises(UnsupportedLayer, match=r"layer 'r'.*it is a ai\.onnx::Relu, not LSTM, GRU or RNN"):
            read_node(node)


class TestRewriting:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_weights_in_constant_nodes(self, strategy):
        feeds = make_feeds("GRU")
        model = make_model("GRU", feeds, constants="nodes")
        assert_close(answers(rewritten(model, strategy)[0], feeds), answers(model, feeds))

    def test_the_fused_op_comes_back_almost_alone(self):
        """Nothing is left of the strategies' own layout: transpositions and reversals that undo each other are gone."""
        for direction in ("forward", "reverse"):
            feeds = make_feeds("LSTM", with_=("B", "initial_h", "initial_c"))
            made, done = rewritten(make_model("LSTM", feeds, direction=direction), "auto")
            assert (done.strategy, done.op_types, done.layer, done.layer_type) == ("fused", ("LSTM",), "layer", "LSTM")
            assert {node.op_type for node in made.graph.node} == {"LSTM", "Squeeze", "Unsqueeze"}

    def test_no_new_constant_is_left_without_a_reader(self):
        model = ir.from_proto(make_model("LSTM", make_feeds("LSTM"), direction="reverse"))
        rewrite_node(model, *recurrent_nodes(model))
        unread = {name for name, value in model.graph.initializers.items() if not value.uses()}
        assert unread == {"W", "R", "B"}

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("layout", [0, 1])
    @pytest.mark.parametrize("perm", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
    @pytest.mark.parametrize(("start", "end", "step"), [(-1, None, -1), (2, None, -1), (-1, 0, -1), (-1, None, -2)])
    def test_only_what_undoes_itself_is_dropped(self, strategy, layout, perm, start, end, step):
        """Before the node the file has a transposition or a reversal of its own, like those of the strategies."""
        given = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
        for op_type in ("Transpose", "Slice"):
            x = given.transpose(perm) if op_type == "Transpose" else given[:, start:end:step]
            x = np.ascontiguousarray(np.swapaxes(x, 0, 1) if layout else x)
            feeds = make_feeds("GRU", time=x.shape[0], batch=x.shape[1], features=4, with_=("B", "sequence_lens"))
            feeds["X"] = x
            wanted = answers(make_model("GRU", feeds, direction="reverse"), feeds)
            if layout:
                wanted = [wanted[0].transpose(2, 0, 1, 3), wanted[1].transpose(1, 0, 2)]
                feeds["X"] = np.swapaxes(x, 0, 1)
            model = make_model("GRU", feeds, direction="reverse", layout=layout)
            if op_type == "Transpose":
                before = helper.make_node("Transpose", ["given"], ["X"], perm=perm)
            else:
                lowest = np.iinfo(np.int64).min
                bounds = {"start": start, "end": lowest if end is None else end, "axis": 1, "step": step}
                before = helper.make_node("Slice", ["given", *bounds], ["X"])
                model.graph.initializer.extend(
                    numpy_helper.from_array(np.array([value]), name) for name, value in bounds.items()
                )
            model.graph.input[0].CopyFrom(helper.make_tensor_value_info("given", TensorProto.FLOAT, given.shape))
            model.graph.node.insert(0, before)
            graph = ir.from_proto(model)
            common.ShapeInferencePass()(graph)
            made, _ = rewritten(ir.to_proto(graph), strategy)
            assert_close(answers(made, feeds | {"given": given}), wanted)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_node_inside_an_if_whose_weights_are_outside(self, strategy):
        feeds = make_feeds("LSTM", with_=("B", "initial_h"))
        inner = make_model("LSTM", feeds, outputs=["Y", "Y_c"]).graph
        then = helper.make_graph(inner.node, "then", [], inner.output)
        zeros = [helper.make_node("ConstantOfShape", ["shape"], [f"other_{value.name}"]) for value in inner.output]
        other = helper.make_graph(
            [helper.make_node("Constant", [], ["shape"], value_ints=[1]), *zeros],
            "else",
            [],
            [helper.make_tensor_value_info(f"other_{value.name}", TensorProto.FLOAT, [None]) for value in inner.output],
        )
        outputs = [
            helper.make_tensor_value_info(
                f"out_{v.name}", TensorProto.FLOAT, [None] * len(v.type.tensor_type.shape.dim)
            )
            for v in inner.output
        ]
        branch = helper.make_node(
            "If", ["condition"], [value.name for value in outputs], then_branch=then, else_branch=other
        )
        condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
        graph = helper.make_graph([branch], "g", [condition, *inner.input], outputs, inner.initializer)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        feeds["condition"] = np.array(True)
        assert_close(answers(rewritten(model, strategy)[0], feeds), answers(model, feeds))

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_two_nodes_and_names_in_the_way(self, strategy):
        feeds = make_feeds("GRU", features=4, units=4, with_=("B",))
        model = make_model("GRU", feeds, outputs=["Y"])
        first = model.graph.node[0]
        second = onnx.NodeProto()
        second.CopyFrom(first)
        second.name = "layer_"
        first.output[0] = "layer/MatMul_0"
        squeeze = helper.make_node("Squeeze", ["layer/MatMul_0", "axis"], ["layer.constant.0"])
        second.input[0] = "layer.constant.0"
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
        model.graph.node.extend([squeeze, second])
        graph = ir.from_proto(model)
        # The second node has no shape of its input in the file, so that only its neighbour's steps are known.
        common.ShapeInferencePass()(graph)
        for node in recurrent_nodes(graph):
            rewrite_node(graph, node, lowering=strategy)
        made = ir.to_proto(graph)
        onnx.checker.check_model(made, full_check=True)
        assert_close(answers(made, feeds), answers(model, feeds))

    def test_free_batch_and_time(self):
        feeds = make_feeds("LSTM", with_=("B", "sequence_lens"))
        model = make_model("LSTM", feeds, direction="reverse")
        for value, axes in zip(model.graph.input, (("time", "batch", 3), ("batch",)), strict=True):
            for axis, size in zip(value.type.tensor_type.shape.dim, axes, strict=True):
                axis.Clear()
                if isinstance(size, str):
                    axis.dim_param = size
                else:
                    axis.dim_value = size
        with pytest.raises(UnsupportedLayer, match="lowering 'unrolled' was asked for, but the number of time steps"):
            rewritten(model, "unrolled")
        for strategy in ("fused", "scan"):
            made, _ = rewritten(model, strategy)
            for batch, time in ((1, 1), (2, 7)):
                other = feeds | {
                    name: array
                    for name, array in make_feeds("LSTM", batch=batch, time=time, with_=("sequence_lens",)).items()
                    if name in ("X", "sequence_lens")
                }
                assert_close(answers(made, other), answers(model, other))

    def test_an_old_file_is_raised_first(self):
        feeds = make_feeds("LSTM")
        old = make_model("LSTM", feeds, opset=9)
        assert read(old).kind == "lstm"
        with pytest.raises(
            UnsupportedLayer, match=r"operator set 9, .*onnx.version_converter.convert_version raises it"
        ):
            rewritten(old, "scan")
        new = version_converter.convert_version(old, 18)
        assert_close(answers(rewritten(new, "scan")[0], feeds), answers(old, feeds))

    def test_weights_that_a_caller_may_change_are_declined(self):
        model = make_model("RNN", make_feeds("RNN"))
        model.graph.input.append(helper.make_tensor_value_info("R", TensorProto.FLOAT, [1, 4, 4]))
        with pytest.raises(UnsupportedLayer, match=r"its weight R \('R'\) is an input too"):
            rewritten(model, "scan")
        model.ir_version = 3
        with pytest.raises(UnsupportedLayer, match="IR version 3, where every constant is an input"):
            rewritten(model, "scan")

    def test_a_node_of_another_model_is_declined(self):
        model = ir.from_proto(make_model("RNN", make_feeds("RNN")))
        (stranger,) = recurrent_nodes(ir.from_proto(make_model("RNN", make_feeds("RNN"))))
        with pytest.raises(UnsupportedLayer, match="its node is not in the graph of this model"):
            rewrite_node(model, stranger)

    def test_a_refusal_changes_nothing(self):
        model = make_model("GRU", make_feeds("GRU"))
        graph = ir.from_proto(model)
        before = ir.to_proto(graph).SerializeToString()
        (node,) = recurrent_nodes(graph)
        with pytest.raises(UnsupportedLayer, match="linear_before_reset=0 runs on the CPU"):
            rewrite_node(graph, node, lowering="fused", target="cuda")
        with pytest.raises(WrongUsage, match="unknown lowering 'magic'"):
            rewrite_node(graph, node, lowering="magic")
        assert ir.to_proto(graph).SerializeToString() == before
        assert all(len(value.uses()) == 1 for value in node.inputs if value is not None)
