"""The matrix of recurrent layers as plain data: a product of the core options, and a seeded sample of all of them.

A case says everything about one small model; its id names what differs from the defaults, so that a failure reproduces
by `pytest -k ID`. `matrix_models` makes Keras models of cases. Nothing here imports Keras.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

DEFAULT_SEED = 20240
SEED_VARIABLE = "EDGESEQ_MATRIX_SEED"
REDUCED = 120
SAMPLE = 300

STOCK = ("SimpleRNN", "LSTM", "GRU")
CELLS = ("RNN-SimpleRNNCell", "RNN-LSTMCell", "RNN-GRUCell")
STACKED = "RNN-stacked"
CUSTOM = "RNN-custom"
CONVOLUTIONAL = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
LAYERS = (*STOCK, *CELLS, STACKED, CUSTOM, *CONVOLUTIONAL)

# keras.activations, without `glu`, which halves its argument, and `threshold`, which needs arguments.
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus",
    "swish", "tanh", "tanh_shrink",
)  # fmt: skip
# Made in `matrix_models`: a registered function, a lambda, keras.layers.LeakyReLU(0.3) and a keras.layers.PReLU.
OWN_ACTIVATIONS = ("own_function", "own_lambda", "LeakyReLU", "PReLU")
# Those that ONNX's LSTM, GRU and RNN compute themselves; onnxruntime's softplus overflows, so it is not among them.
IN_ONNX = frozenset(
    {"default", "tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "elu", "leaky_relu", "softsign"}
    | {"LeakyReLU", "celu"}
)
# As a gate or a candidate these keep what is fed back within a few units; others grow with every step.
BOUNDED = frozenset(
    {"default", "tanh", "sigmoid", "hard_sigmoid", "hard_tanh", "softsign", "softmax", "sparse_sigmoid", "sparsemax"}
)

BACKWARD_LAYERS = ("same", "options", "kind", "reversed")
MERGES = ("concat", "sum", "mul", "ave", "none")
MASKS = ("none", "embedding", "masking", "input")
AFTER = (
    "none", "LSTM", "Bidirectional", "GlobalAveragePooling1D", "Attention", "MultiHeadAttention", "Dense",
    "LayerNormalization", "Conv1D", "Add", "TimeDistributed",
)  # fmt: skip
POLICIES = ("float32", "mixed_float16", "mixed_bfloat16", "float64")

# Written out when the steps are fixed and at most so many (see edgeseq.lowering.choose).
SHORT, SHORT_CONVOLUTION = 8, 32


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model: inputs, the layer under test, and what reads its output."""

    layer: str
    """One of LAYERS."""
    wrapper: str = "none"
    """``none``, ``Bidirectional``, ``TimeDistributed``, or ``TimeDistributed-Bidirectional``."""
    merge: str = "concat"
    backward: str = "same"
    """The backward layer: as the forward one, with other options, of another kind, or forward layer itself reversed."""
    sequences: bool = False
    states: bool = False
    backwards: bool = False
    use_bias: bool = True
    reset_after: bool = True
    unroll: bool = False
    implementation: int = 2
    dropout: str = "none"
    regularized: bool = False
    initial: str = "zero"
    """``zero``, ``input`` (tensors given to the model) or ``encoder`` (states of another layer)."""
    stateful: bool = False
    zero_output: bool = False
    activation: str = "default"
    recurrent_activation: str = "default"
    mask: str = "none"
    batch: int = 0
    """0 where it is free."""
    time: int = 0
    """0 where it is free."""
    outer_time: int = 0
    """Of a TimeDistributed; 0 where it is free."""
    units: int = 4
    features: int = 3
    window: int = 3
    strides: int = 1
    dilation: int = 1
    padding: str = "same"
    channels_first: bool = False
    scale: int = 1
    """How many times as large as necessary the images of a convolutional layer are, in each direction."""
    after: str = "none"
    """What reads the output."""
    policy: str = "float32"

    @property
    def id(self) -> str:
        """The layer, then every field that is not at its default."""
        parts = [self.layer]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "layer" or value == field.default:
                continue
            name = field.name.replace("_", "")
            parts.append(name if value is True else f"no{name}" if value is False else f"{name}.{value}")
        return "-".join(parts)

    @property
    def rank(self) -> int:
        """Number of spatial axes; 0 for layers that have none."""
        return int(self.layer[-2]) if self.layer in CONVOLUTIONAL else 0

    @property
    def is_bidirectional(self) -> bool:
        return "Bidirectional" in self.wrapper

    @property
    def is_time_distributed(self) -> bool:
        return "TimeDistributed" in self.wrapper

    @property
    def kinds(self) -> tuple[str, ...]:
        """SimpleRNN, LSTM or GRU for each cell of the layer, the bottom one first; empty for any other cell."""
        if self.layer == STACKED:
            return ("LSTM", "GRU", "SimpleRNN")
        kind = self.layer.removeprefix("RNN-").removesuffix("Cell")
        return (kind,) if kind in STOCK else ()

    @property
    def is_masked(self) -> bool:
        """Whether the layer sees a mask: Keras drops one that comes with its input when states are given."""
        return self.mask == "input" or (self.mask != "none" and self.initial == "zero")

    @property
    def strategies(self) -> frozenset[str]:
        """What can be forced on it."""
        possible = {"scan"}
        # A stateful layer's file takes chunks of any length.
        free = self.stateful or not self.time
        if self.is_time_distributed and self.after == "LSTM":
            free |= not self.outer_time
        if not free:
            possible.add("unrolled")
        functions = {self.activation} if self.kinds == ("SimpleRNN",) else {self.activation, self.recurrent_activation}
        if self.kinds and functions <= IN_ONNX and self.policy != "float64":
            possible.add("fused")
        return frozenset(possible)

    @property
    def strategy(self) -> str:
        """What edgeseq should choose by itself for the CPU."""
        if "fused" in self.strategies:
            return "fused"
        short = 0 if self.layer == CUSTOM else SHORT_CONVOLUTION if self.rank else SHORT
        # A Scan leaves masked steps out, which written-out ones would compute.
        free = not self.time or self.stateful or self.is_masked
        return "unrolled" if not free and self.time <= short else "scan"


def settle(options: dict[str, Any]) -> Case:
    """A case with options that mean nothing beside each other put back to their defaults."""
    case = Case(**options)
    fixed: dict[str, Any] = {}

    def drop(*names: str) -> None:
        nonlocal case
        defaults = {field.name: field.default for field in dataclasses.fields(Case)}
        case = dataclasses.replace(case, **{name: defaults[name] for name in names})

    if case.rank:
        drop("reset_after", "implementation", "unroll", "zero_output", "regularized", "policy")
        if case.mask in ("embedding", "masking"):
            drop("mask")  # They look at the last axis alone, so their mask is no (batch, time).
        if case.dilation > 1:
            drop("strides")  # TensorFlow has no convolution with both.
        fixed["after"] = "none"
        if case.is_time_distributed:
            drop("wrapper")
    else:
        drop("window", "strides", "dilation", "padding", "channels_first")
    if "GRU" not in case.kinds:
        drop("reset_after")
    if case.layer in (*CELLS, STACKED, CUSTOM):
        drop("dropout", "regularized")
    if case.kinds == ("SimpleRNN",) or case.layer in (STACKED, CUSTOM):
        drop("implementation")
    if case.layer == CUSTOM:
        drop("use_bias", "activation", "recurrent_activation", "policy")
    if case.kinds == ("SimpleRNN",):
        drop("recurrent_activation")
    if case.is_bidirectional:
        drop("backwards", "stateful", "zero_output")
        if case.layer in (*CELLS, STACKED, CUSTOM, *CONVOLUTIONAL) and case.backward in ("kind", "options"):
            drop("backward")
        if case.backward == "kind":
            drop("initial", "activation", "recurrent_activation")  # Keras hands each direction half of the states.
        if case.backward == "kind" and case.layer != "SimpleRNN":
            drop("states")  # Keras takes both directions to have as many states.
        if case.backward != "same":
            drop("regularized", "dropout")
        if case.activation in ("own_lambda", "PReLU"):
            drop("activation")  # Bidirectional makes its layers again from their config.
        if case.recurrent_activation in ("own_lambda", "PReLU"):
            drop("recurrent_activation")
    else:
        drop("merge", "backward")
    if case.is_time_distributed:
        drop("states", "initial", "stateful")
        if case.merge == "none":
            drop("merge")
        if case.mask in ("embedding", "input"):
            drop("mask")
        if case.after != "LSTM" or case.sequences or case.mask != "none":
            drop("after")  # Keras hands the mask of inner steps on, which fits no outer ones.
    else:
        drop("outer_time")
    if case.stateful:
        drop("initial", "backwards", "unroll", "mask", "zero_output", "after")
        fixed["batch"], fixed["time"] = case.batch or 2, case.time or 5
    if case.mask == "none":
        drop("zero_output")
    if case.unroll:
        fixed["time"] = case.time or 6
    if case.after != "none" and not case.is_time_distributed and (not case.sequences or case.merge == "none"):
        drop("after")
    if case.states and case.after != "none":
        drop("states")
    if case.layer in (STACKED, CUSTOM) and case.initial == "encoder":
        drop("initial")
    if case.rank and case.initial == "encoder":
        drop("initial")
    if case.policy == "float64":
        drop("activation", "recurrent_activation")  # onnxruntime lacks some of them in double precision.
    if "exponential" in (case.activation, case.recurrent_activation) and not BOUNDED.issuperset(
        {case.activation, case.recurrent_activation} - {"exponential"}
    ):
        drop("recurrent_activation")  # Its numbers leave float32 within a few steps.
    wild_gate = case.recurrent_activation not in BOUNDED
    wild = case.activation not in BOUNDED and (wild_gate or case.activation in ("exponential", "log_softmax"))
    if (wild or wild_gate) and case.stateful:
        drop("activation", "recurrent_activation")
    elif wild or wild_gate:
        # Few steps: what grows with every step soon leaves float32's digits behind.
        # An exponential of what an exponential put out leaves them in the second step.
        few = 1 if case.activation == "exponential" else 2 if case.rank else 4
        fixed["time"] = min(case.time or 4, few)
    return dataclasses.replace(case, **fixed)


def _product(**axes: Sequence[Any]) -> Iterator[Case]:
    for values in product(*axes.values()):
        yield settle(dict(zip(axes, values, strict=True)))


BOTH = (False, True)


def explicit() -> list[Case]:
    """The product of the core options, each case once."""
    groups: tuple[Iterable[Case], ...] = (
        _product(
            layer=STOCK, reset_after=BOTH, use_bias=BOTH, sequences=BOTH, backwards=BOTH, mask=MASKS,
            initial=("zero", "input"),
        ),
        _product(
            layer=STOCK, wrapper=("Bidirectional",), merge=MERGES, sequences=BOTH, states=BOTH,
            mask=("none", "masking"), backward=("same", "options"),
        ),
        _product(
            layer=STOCK, wrapper=("Bidirectional",), merge=("concat", "none"), sequences=BOTH, states=BOTH,
            mask=("none", "embedding"), backward=("kind", "reversed"),
        ),
        _product(
            layer=STOCK, wrapper=("Bidirectional",), merge=("concat", "none"), sequences=BOTH, states=(True,),
            mask=("none", "input"), initial=("input", "encoder"),
        ),
        _product(
            layer=(*STOCK, "ConvLSTM2D"), sequences=(True,), activation=(*ACTIVATIONS, *OWN_ACTIVATIONS),
        ),
        _product(
            layer=("LSTM", "GRU", "ConvLSTM2D"), sequences=(True,),
            recurrent_activation=(*ACTIVATIONS, *OWN_ACTIVATIONS),
        ),
        _product(
            layer=CONVOLUTIONAL, sequences=BOTH, padding=("same", "valid"), strides=(1, 2), dilation=(1, 2),
            channels_first=BOTH, time=(3,),
        ),
        _product(
            layer=CONVOLUTIONAL, wrapper=("Bidirectional",), sequences=BOTH, merge=("concat", "sum", "none"),
            time=(0, 3),
        ),
        _product(layer=CONVOLUTIONAL, states=BOTH, backwards=BOTH, mask=("none", "input"), initial=("zero", "input")),
        _product(
            layer=(*STOCK, *CELLS, STACKED, CUSTOM), wrapper=("TimeDistributed", "TimeDistributed-Bidirectional"),
            sequences=BOTH, outer_time=(0, 3), mask=("none", "masking"), time=(5,),
        ),
        _product(
            layer=STOCK, wrapper=("none", "Bidirectional"), batch=(0, 1, 3), time=(0, 1, 6), units=(1, 4),
            sequences=(True,), mask=("none", "masking"),
        ),
        _product(
            layer=(*CELLS, STACKED, CUSTOM), sequences=BOTH, states=BOTH, backwards=BOTH, mask=("none", "masking"),
            initial=("zero", "input"),
        ),
        _product(layer=(*CELLS, STACKED, CUSTOM), wrapper=("Bidirectional",), sequences=BOTH, merge=("concat", "sum")),
        _product(layer=STOCK, sequences=(True,), after=AFTER, mask=("none", "embedding", "masking"), backwards=BOTH),
        _product(
            layer=STOCK, wrapper=("Bidirectional",), sequences=(True,), after=AFTER, mask=("none", "masking", "input"),
        ),
        _product(
            layer=(*STOCK, *CELLS, STACKED, CUSTOM, "ConvLSTM2D"), stateful=(True,), sequences=BOTH, states=BOTH,
        ),
        _product(layer=(*STOCK, STACKED, "ConvLSTM2D"), policy=POLICIES, mask=("none", "masking"), sequences=(True,)),
        _product(layer=STOCK, unroll=(True,), mask=MASKS, sequences=BOTH, backwards=BOTH),
        _product(layer=("LSTM", "GRU"), implementation=(1,), mask=("none", "masking"), sequences=BOTH),
        _product(layer=STOCK, dropout=("inputs", "recurrent"), mask=("none", "masking"), sequences=BOTH),
        _product(layer=STOCK, regularized=(True,), sequences=BOTH, wrapper=("none", "Bidirectional")),
        _product(
            layer=(*STOCK, *CELLS, STACKED), zero_output=(True,), mask=("embedding", "input"), sequences=BOTH,
            backwards=BOTH, after=("none", "LSTM"),
        ),
        _product(layer=STOCK, initial=("encoder",), sequences=BOTH, mask=("none", "masking"), states=BOTH),
    )  # fmt: skip
    return _unique(case for group in groups for case in group)


# Values for the sample; the frequent ones are named more often.
_ANY: dict[str, Sequence[Any]] = {
    "wrapper": ("none", "none", "Bidirectional", "Bidirectional", "TimeDistributed", "TimeDistributed-Bidirectional"),
    "merge": MERGES,
    "backward": BACKWARD_LAYERS,
    "sequences": BOTH,
    "states": (False, False, True),
    "backwards": BOTH,
    "use_bias": (True, True, False),
    "reset_after": BOTH,
    "unroll": (False, False, False, True),
    "implementation": (2, 2, 1),
    "dropout": ("none", "none", "inputs", "recurrent"),
    "regularized": (False, False, True),
    "initial": ("zero", "zero", "input", "encoder"),
    "stateful": (False,) * 9 + (True,),
    "zero_output": BOTH,
    "activation": ("default", "default", "default", *ACTIVATIONS, *OWN_ACTIVATIONS),
    "recurrent_activation": ("default",) * 20 + (*ACTIVATIONS, *OWN_ACTIVATIONS),
    "mask": MASKS,
    "batch": (0, 0, 1, 3),
    "time": (0, 0, 1, 2, 6, 11),
    "outer_time": (0, 3),
    "units": (1, 3, 4, 7),
    "features": (1, 3, 5),
    "window": (1, 2, 3),
    "strides": (1, 2),
    "dilation": (1, 2),
    "padding": ("same", "valid"),
    "channels_first": BOTH,
    "after": ("none", *AFTER),
    "policy": ("float32",) * 12 + POLICIES,
}


def sample(seed: int, count: int = SAMPLE) -> list[Case]:
    """`count` cases with every option at random."""
    source = random.Random(seed)
    found: dict[str, Case] = {}
    while len(found) < count:
        layer = source.choice((*STOCK, *STOCK, *LAYERS))
        case = settle({"layer": layer} | {name: source.choice(values) for name, values in _ANY.items()})
        found.setdefault(case.id, case)
    return list(found.values())


def seed() -> int:
    """The seed of the sample: EDGESEQ_MATRIX_SEED, else always the same."""
    return int(os.environ.get(SEED_VARIABLE, DEFAULT_SEED))


def all_cases() -> tuple[list[Case], list[Case]]:
    """The reduced matrix, which does not depend on the seed told, and all others."""
    core = explicit()
    half = REDUCED // 2
    # A drawn case shows many options at once; the core ones then show what is left, and little else beside it.
    drawn = stratified(sample(DEFAULT_SEED), half)
    reduced = _unique([*drawn, *stratified(core, half, shown=drawn)])
    ids = {case.id for case in reduced}
    rest = [case for case in _unique([*core, *sample(seed())]) if case.id not in ids]
    return reduced, rest


def stratified(cases: Sequence[Case], count: int, *, shown: Sequence[Case] = ()) -> list[Case]:
    """`count` of `cases`: every value of every field first, then every value beside every layer, wrapper and mask.

    Always the same ones: each is the first in a fixed shuffle that shows most of what none before it, nor any of those
    `shown`, has shown.
    """
    names = [field.name for field in dataclasses.fields(Case)]

    def shows(case: Case) -> set[Any]:
        values = [(name, getattr(case, name)) for name in names]
        return set(values) | {
            (one, (name, getattr(case, name))) for one in values for name in ("layer", "wrapper", "mask")
        }

    shuffled = list(cases)
    random.Random(0).shuffle(shuffled)
    showing = [shows(case) for case in shuffled]
    single = {item for found in showing for item in found if isinstance(item[0], str)}
    seen: set[Any] = set().union(*map(shows, shown))
    chosen: list[int] = []

    def gain(index: int) -> tuple[int, int]:
        # Values that no case has yet come before pairs of values.
        new = showing[index] - seen
        return -len(new & single), -len(new)

    # What a case would add only shrinks, so one whose old place in the queue still holds is the best.
    queue = [(gain(index), index) for index in range(len(shuffled))]
    heapq.heapify(queue)
    while queue and len(chosen) < count:
        _, index = heapq.heappop(queue)
        current = (gain(index), index)
        if queue and current > queue[0]:
            heapq.heappush(queue, current)
            continue
        chosen.append(index)
        seen |= showing[index]
    return [shuffled[index] for index in chosen]


def _unique(cases: Iterable[Case]) -> list[Case]:
    return list({case.id: case for case in cases}.values())
