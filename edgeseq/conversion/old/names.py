"""Keras 1 configs in the words of Keras 2: the same options under the names they got in 2017."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeseq.errors import UnsupportedLayer

Config = dict[str, Any]

# Layers that were renamed; those that are not listed in `_OPTIONS` are refused.
_CLASSES = {"Convolution1D": "Conv1D", "Convolution2D": "Conv2D"}
# What shapes the training, and how a step is computed but not what; the answers come from the weights.
_WITHOUT_MEANING = frozenset(
    (
        *("init", "inner_init", "forget_bias_init", "beta_init", "gamma_init", "weights", "input_dtype"),
        *("consume_less", "dropout_W", "dropout_U", "activity_regularizer"),
        *("W_regularizer", "U_regularizer", "b_regularizer", "beta_regularizer", "gamma_regularizer"),
        *("W_constraint", "U_constraint", "b_constraint"),
    )
)
_COMMON = ("name", "trainable", "batch_input_shape")
_RECURRENT = {
    "output_dim": "units",
    "activation": "activation",
    "inner_activation": "recurrent_activation",
    "return_sequences": "return_sequences",
    "go_backwards": "go_backwards",
    "stateful": "stateful",
    "unroll": "unroll",
}
_POOLING = {"pool_length": "pool_size", "stride": "strides", "border_mode": "padding"}
# Class of Keras 1: its options, and their names in Keras 2.
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "InputLayer": {"sparse": "sparse"},
    "Dense": {"output_dim": "units", "activation": "activation", "bias": "use_bias"},
    "Embedding": {"input_dim": "input_dim", "output_dim": "output_dim", "mask_zero": "mask_zero"},
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "SimpleRNN": {old: new for old, new in _RECURRENT.items() if old != "inner_activation"},
    "Bidirectional": {"layer": "layer", "merge_mode": "merge_mode"},
    "TimeDistributed": {"layer": "layer"},
    "Activation": {"activation": "activation"},
    "Dropout": {"p": "rate"},
    "SpatialDropout1D": {"p": "rate"},
    "GaussianNoise": {"sigma": "stddev"},
    "GaussianDropout": {"p": "rate"},
    "ActivityRegularization": {"l1": "l1", "l2": "l2"},
    "Masking": {"mask_value": "mask_value"},
    "Flatten": {},
    "Reshape": {"target_shape": "target_shape"},
    "Permute": {"dims": "dims"},
    "RepeatVector": {"n": "n"},
    "ELU": {"alpha": "alpha"},
    "LeakyReLU": {"alpha": "alpha"},
    "BatchNormalization": {"axis": "axis", "epsilon": "epsilon", "momentum": "momentum"},
    "Convolution1D": {
        "nb_filter": "filters",
        "filter_length": "kernel_size",
        "border_mode": "padding",
        "subsample_length": "strides",
        "activation": "activation",
        "bias": "use_bias",
    },
    "Convolution2D": {
        "nb_filter": "filters",
        "border_mode": "padding",
        "subsample": "strides",
        "activation": "activation",
        "bias": "use_bias",
    },
    "MaxPooling1D": _POOLING,
    "AveragePooling1D": _POOLING,
    "MaxPooling2D": {"pool_size": "pool_size", "strides": "strides", "border_mode": "padding"},
    "AveragePooling2D": {"pool_size": "pool_size", "strides": "strides", "border_mode": "padding"},
    "GlobalMaxPooling1D": {},
    "GlobalAveragePooling1D": {},
}


def keras_2_config(class_name: str, config: Config) -> tuple[str, Config]:
    """Class and config of a Keras 1 layer as Keras 2 would write them.

    Raises UnsupportedLayer for a class or an option that is not known.
    """
    name = str(config.get("name", class_name))
    if class_name not in _OPTIONS:
        advice = "; write it as Concatenate, Add or the like in a functional model" if class_name == "Merge" else ""
        raise UnsupportedLayer(
            name,
            f"its type {class_name} of Keras 1 is not among those that are known. Rebuild the model in code{advice}, "
            "and give the file as weights",
        )
    options = _OPTIONS[class_name]
    new: Config = {}
    for key, value in config.items():
        if key in options:
            new[options[key]] = value
        elif key in _COMMON:
            new[key] = value
        elif key == "input_dtype" and value is not None and class_name == "InputLayer":
            new["dtype"] = value
        elif not _may_be_dropped(class_name, key, value):
            raise UnsupportedLayer(name, f"its option {key}={value!r} of Keras 1 is not known")
    if class_name == "Convolution2D":
        new["kernel_size"] = [config["nb_row"], config["nb_col"]]
    if class_name == "GRU":
        new["reset_after"] = False
    return _CLASSES.get(class_name, class_name), new


def _may_be_dropped(class_name: str, key: str, value: Any) -> bool:
    if key in _WITHOUT_MEANING:
        return True
    if key == "mode":
        # Mode 1 normalizes each row, and mode 2 by the batch at hand.
        return class_name == "BatchNormalization" and value == 0
    if key == "dim_ordering":
        return bool(value == "tf")
    if key in ("nb_row", "nb_col"):
        return class_name == "Convolution2D"
    if key == "dropout":
        return class_name == "Embedding"
    # Of the first layer of a Sequential; said by batch_input_shape too.
    return key in ("input_dim", "input_length")
