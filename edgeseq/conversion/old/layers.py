"""One layer of a Keras 2 config, made anew with Keras 3. What is not known is refused by name, never guessed.

Initializers, regularizers and constraints are left out: they shape training, and the weights are in the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from edgeseq.conversion.old.age import Age
from edgeseq.conversion.old.names import keras_2_config
from edgeseq.errors import UnsupportedLayer

Config = dict[str, Any]

_ELEMENTWISE = "Activation LeakyReLU PReLU ELU ReLU Softmax"
_NOISE = "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout"
_SHAPES = "Flatten Reshape Permute RepeatVector"
_MERGES = "Add Subtract Multiply Average Maximum Minimum Concatenate Dot"
_RECURRENT = "SimpleRNN LSTM GRU RNN ConvLSTM1D ConvLSTM2D ConvLSTM3D"
_CELLS = "SimpleRNNCell LSTMCell GRUCell StackedRNNCells"
_CONVOLUTIONS = "Conv1D Conv2D Conv3D SeparableConv1D SeparableConv2D DepthwiseConv1D DepthwiseConv2D"
_POOLING = " ".join(
    f"{kind}{rank}D"
    for rank in (1, 2, 3)
    for kind in ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
)
_SIZES = " ".join(f"{kind}{rank}D" for rank in (1, 2, 3) for kind in ("UpSampling", "ZeroPadding", "Cropping"))
_OTHERS = "Dense Embedding Masking BatchNormalization LayerNormalization Bidirectional TimeDistributed Rescaling"
_NAMES = " ".join(
    [_ELEMENTWISE, _NOISE, _SHAPES, _MERGES, _RECURRENT, _CELLS, _CONVOLUTIONS, _POOLING, _SIZES, _OTHERS]
)
# Attention and ActivityRegularization have the same name and meaning as well.
CLASSES: Mapping[str, type] = {
    **{name: getattr(keras.layers, name) for name in _NAMES.split()},
    **{name: getattr(keras.layers, name) for name in ("Attention", "AdditiveAttention", "ActivityRegularization")},
    "CuDNNLSTM": keras.layers.LSTM,
    "CuDNNGRU": keras.layers.GRU,
}
MODELS = ("Sequential", "Model", "Functional")

# Options under another name in Keras 3.
_RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
# Options that Keras 3 lacks, or whose other values mean something else; only with these values do they mean nothing.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "time_major": (False,),
    "num_constants": (None, 0),
    "renorm": (False,),
    "renorm_clipping": (None, {}),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "causal": (False,),
    "interpolation": ("nearest",),
    "sparse": (False,),
    "ragged": (False,),
    "dynamic": (False,),
}
# Options without an effect on answers.
_WITHOUT_MEANING = frozenset(
    (
        *("batch_input_shape", "input_length", "input_dtype", "autocast", "optional"),
        *("implementation", "unroll", "unit_forget_bias", "seed", "fused", "renorm_momentum"),
    )
)
_OF_TRAINING = ("_initializer", "_regularizer", "_constraint")
# Activations by the version of Keras that brought them: an older file means a function of its author's by that name.
_ACTIVATIONS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("linear", "relu", "tanh", "sigmoid", "hard_sigmoid", "softmax", "softplus", "softsign"), (0,)),
    "elu": (1,),
    "selu": (2, 0, 6),
    "exponential": (2, 2),
    "swish": (2, 3),
    "gelu": (2, 4),
    "mish": (2, 13),
}
_OF_TENSORFLOW = ("swish", "gelu", "mish")
# Layers without weights, which may be given as an activation.
_AS_ACTIVATIONS = ("LeakyReLU", "ELU", "ReLU", "Softmax")


def make_layer(class_name: str, config: Config, age: Age, notes: list[str]) -> Any:
    """A Keras 3 layer with the meaning that `config` has in Keras of that age; what changed is added to `notes`.

    Raises UnsupportedLayer.
    """
    if age.first:
        class_name, config = keras_2_config(class_name, config)
    name = str(config.get("name", class_name))
    if class_name not in CLASSES:
        raise UnsupportedLayer(name, _unknown(class_name, age))
    config = {**config, **_defaults(class_name, config, name, age)}
    made = CLASSES[class_name]
    known = set(inspect.signature(made.__init__).parameters)  # type: ignore[misc]
    if "kwargs" in known:
        known |= {"trainable", "name", "zero_output_for_mask"}
    options: Config = {}
    for key, value in config.items():
        new = _RENAMED.get((class_name, key), key)
        if key in _ONLY:
            if value not in _ONLY[key]:
                raise UnsupportedLayer(
                    name, f"its option {key}={value!r} of Keras {age.text} cannot be kept in Keras 3"
                )
        elif key in _WITHOUT_MEANING or key.endswith(_OF_TRAINING):
            continue
        elif key == "dtype":
            options[key] = dtype_name(value, name)
        elif key in ("activation", "recurrent_activation"):
            options[key] = _activation(value, name, age, notes)
        elif key in ("layer", "backward_layer", "cell"):
            options[key] = _inner(value, age, notes)
        elif key == "cells":
            options[key] = [make_layer(cell["class_name"], cell["config"], age, notes) for cell in value]
        elif key == "reverse_state_order":
            continue
        elif key in ("groups", "noise_shape") and new not in known:
            if value not in (None, 1):
                raise UnsupportedLayer(name, f"its option {key}={value!r} of Keras {age.text} has no equal in Keras 3")
        elif new in known - {"self", "args", "kwargs"}:
            options[new] = value
        elif key == "trainable":
            # Noise on whole channels has nothing to train, and its class does not ask.
            continue
        else:
            raise UnsupportedLayer(name, f"its option {key}={value!r} of Keras {age.text} is not known")
    if class_name == "Embedding" and str(options.get("dtype")).startswith("int"):
        # Of the ids, in files that have it.
        del options["dtype"]
    if class_name == "BatchNormalization":
        options["axis"] = _one_axis(options.get("axis", -1), name)
    if class_name == "Bidirectional":
        _turn_backward_layer(options, config, age)
    if class_name.startswith("CuDNN"):
        notes.append(f"layer '{name}': {class_name} became {made.__name__}, which computes the same")
    return made(**options)


def _inner(value: Any, age: Age, notes: list[str]) -> Any:
    return make_layer(value["class_name"], value["config"], age, notes) if isinstance(value, Mapping) else value


def _unknown(class_name: str, age: Age) -> str:
    if class_name == "Lambda":
        return (
            "it is a Lambda, which holds code; code out of a file is never run. Build the model in code, without the "
            "file, and give the file as weights"
        )
    return (
        f"its type {class_name} of Keras {age.text} is not among those that are known. Build the model in code, and "
        "give the file as weights"
    )


def _defaults(class_name: str, config: Config, name: str, age: Age) -> Config:
    """What a config of that age means where it says nothing and Keras 3 would assume something else."""
    if class_name == "CuDNNLSTM":
        return {"activation": "tanh", "recurrent_activation": "sigmoid"}
    if class_name == "CuDNNGRU":
        return {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
    missing: Config = {}
    if class_name in ("LSTM", "GRU", "LSTMCell", "GRUCell") and "recurrent_activation" not in config:
        if age.gates_are_hard is None:
            raise UnsupportedLayer(
                name, f"its config has no recurrent_activation, which Keras {age.text} read in two ways. Add it"
            )
        missing["recurrent_activation"] = "hard_sigmoid" if age.gates_are_hard else "sigmoid"
    if class_name.startswith("ConvLSTM") and "recurrent_activation" not in config:
        missing["recurrent_activation"] = "hard_sigmoid"
    if class_name in ("GRU", "GRUCell") and "reset_after" not in config:
        missing["reset_after"] = False
    if class_name in (_CONVOLUTIONS + " " + _POOLING).split() and config.get("data_format") is None:
        # Else it would come from the settings of this machine.
        missing["data_format"] = "channels_last"
    return missing


def dtype_name(value: Any, name: str) -> str:
    """The name of a dtype or of a policy such as mixed_float16; raises UnsupportedLayer."""
    if isinstance(value, Mapping):
        value = value.get("config", {}).get("name")
    if not isinstance(value, str):
        raise UnsupportedLayer(name, f"its dtype {value!r} is not known")
    return value


def _activation(value: Any, name: str, age: Age, notes: list[str]) -> Any:
    """What Keras 3's layers take as an activation: None, a name, or a layer without weights."""
    if value is None:
        return None
    if isinstance(value, Mapping) and value.get("class_name") in _AS_ACTIVATIONS:
        return make_layer(value["class_name"], value["config"], age, notes)
    its_own = isinstance(value, str) and age.version >= _ACTIVATIONS.get(value, (99,))
    if not its_own or (value in _OF_TENSORFLOW and not age.tensorflow):
        raise UnsupportedLayer(
            name,
            f"its activation {value!r} is not one of Keras {age.text}'s own. Build the model in code, and give the "
            "file as weights",
        )
    return value


def _one_axis(axis: Any, name: str) -> int:
    """The axis of a BatchNormalization, which TensorFlow's Keras wrote as a list of one."""
    if isinstance(axis, list | tuple):
        if len(axis) != 1:
            raise UnsupportedLayer(name, f"it normalizes over several axes, {list(axis)}")
        axis = axis[0]
    return int(axis)


def _turn_backward_layer(options: Config, config: Config, age: Age) -> None:
    """Keras 3 takes for granted that the forward layer goes forwards; before, the backward one went the other way."""
    inner = config["layer"]
    if options.get("backward_layer") is None and inner["config"].get("go_backwards"):
        assert isinstance(inner, Mapping)
        turned = {**inner["config"], "go_backwards": False, "name": f"backward_{inner['config'].get('name', 'layer')}"}
        options["backward_layer"] = make_layer(inner["class_name"], turned, age, [])
