"""Text to ids as Keras documents it, scaling and back, and documents that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeseq.errors import InputMismatch, WrongUsage
from edgeseq.runtime.preprocessing import KERAS_FILTERS, Preprocessing, validate


def ids(texts: Any, step: dict[str, Any]) -> list[list[int]]:
    array = Preprocessing({"inputs": {"x": step}}).before({"x": texts})["x"]
    assert array.dtype == np.int32
    return array.tolist()


def test_words_become_ids(text_step: dict[str, Any]):
    # the = 4, good = 5, bad = 6, anything else 2, every text starts with 1, shorter ones are padded with 0 in front.
    assert ids(["The good, the\tBAD!", "good?film"], text_step) == [[1, 4, 5, 4, 6], [0, 0, 1, 5, 2]]


def test_each_filter_becomes_the_split(text_step: dict[str, Any]):
    assert text_step["filters"] == KERAS_FILTERS
    step = {**text_step, "split": "_", "filters": " ", "start_id": None}
    assert ids(["the good__bad_"], step) == [[4, 5, 6]]
    # Only `split` parts words: a space that is not filtered belongs to the word.
    assert ids(["the good"], {**step, "filters": ""}) == [[2]]


def test_case_matters_when_told(text_step: dict[str, Any]):
    assert ids(["The the"], {**text_step, "lowercase": False}) == [[1, 2, 4]]


def test_an_empty_text_is_its_start(text_step: dict[str, Any]):
    assert ids(["", "!!"], text_step) == [[1], [1]]
    assert ids([""], {**text_step, "start_id": None, "length": 3}) == [[0, 0, 0]]
    # No axis of a file may be empty.
    assert ids([""], {**text_step, "start_id": None}) == [[0]]
    assert ids(["", "!!"], {**text_step, "start_id": None, "padding": "post"}) == [[0], [0]]


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
@pytest.mark.parametrize("length", [None, 1, 3, 6])
def test_padding_is_that_of_keras(text_step: dict[str, Any], padding: str, truncating: str, length: int | None):
    keras_utils = pytest.importorskip("keras").utils
    texts = ["", "the", "the good the good", "bad bad the good the bad the good"]
    step = {**text_step, "padding": padding, "truncating": truncating, "length": length, "pad_id": 9}
    known = {"the": 4, "good": 5, "bad": 6}
    expected = keras_utils.pad_sequences(
        [[1, *(known[word] for word in text.split())] for text in texts],
        maxlen=length,
        padding=padding,
        truncating=truncating,
        value=9,
    )
    assert ids(texts, step) == expected.tolist()


@pytest.mark.parametrize("texts", [("the",), np.array(["the"]), np.array(["the"], object), [np.str_("the")]])
def test_lists_tuples_and_arrays_of_text_are_taken(text_step: dict[str, Any], texts: Any):
    assert ids(texts, text_step) == [[1, 4]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("the good", r"input 'x' takes a list of texts; got one text. Put it in a list: \[text\]"),
        (["the", b"good"], r"item 1 is a bytes. Decode it first"),
        (["the", 3], "item 1 is a int"),
        ([["the"]], "item 0 is a list"),
        (None, "got a NoneType"),
        (np.array([["the"]]), "got a ndarray"),
        (np.array([1.5]), "item 0 is a float"),
        ({"a": 1}, "got a dict"),
    ],
)
def test_what_is_no_text_is_refused(text_step: dict[str, Any], texts: Any, message: str):
    with pytest.raises(InputMismatch, match=message) as caught:
        ids(texts, text_step)
    assert caught.value.name == "x"


SCALE = {"kind": "scale", "offset": [10.0, -1.0], "scale": [2.0, 0.5]}


def test_scaling_and_its_inverse():
    steps = Preprocessing({"inputs": {"x": SCALE}, "outputs": {"y": SCALE}})
    raw = np.array([[[12, -1], [10, 0]]])
    scaled = steps.before({"x": raw, "other": "kept"})
    assert scaled["x"].tolist() == [[[1.0, 0.0], [0.0, 2.0]]]
    assert scaled["other"] == "kept"
    back = steps.after({"y": scaled["x"].astype(np.float32)})["y"]
    assert back.dtype == np.float32
    assert back.tolist() == raw.tolist()


def test_one_number_scales_every_feature():
    steps = Preprocessing({"inputs": {"x": {"kind": "scale", "offset": [1.0], "scale": [2.0]}}})
    assert steps.before({"x": [[1, 3, 5]]})["x"].tolist() == [[0.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([[1.0, 2.0, 3.0]], r"input 'x' is scaled over a last axis of 2; got shape \(1, 3\)"),
        (1.0, r"last axis of 2; got shape \(\)"),
        ([["a", "b"]], "input 'x' takes numbers; got <U1"),
        ([[1.0], [1.0, 2.0]], "takes an array of numbers; got none"),
    ],
)
def test_what_cannot_be_scaled_is_refused(raw: Any, message: str):
    with pytest.raises(InputMismatch, match=message):
        Preprocessing({"inputs": {"x": SCALE}}).before({"x": raw})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "a dict with the keys 'inputs' and 'outputs'; got None"),
        ({}, "a dict with the keys"),
        ({"input": {}}, "a dict with the keys"),
        ({"inputs": []}, r"preprocessing\['inputs'\] is a dict of a step by name; got \[\]"),
        ({"inputs": {"x": {"kind": "stem"}}}, r"\['x'\] is a dict whose 'kind' is one of text, scale; got"),
        ({"outputs": {"y": {"kind": "text"}}}, r"\['y'\] is a dict whose 'kind' is one of scale; got"),
        ({"inputs": {"x": {"kind": "scale", "offset": [1.0]}}}, "missing: scale; unexpected: none"),
        ({"inputs": {"x": {**SCALE, "bias": 1}}}, "missing: none; unexpected: bias"),
        ({"inputs": {"x": {**SCALE, "scale": [0.0, 1.0]}}}, r"\['scale'\] is a list of finite numbers, none of them 0"),
        (
            {"inputs": {"x": {**SCALE, "offset": [float("nan")]}}},
            r"\['offset'\] is a list of finite numbers; got \[nan",
        ),
        ({"inputs": {"x": {**SCALE, "offset": [1.0, 2.0, 3.0]}}}, "'offset' has 3 numbers and 'scale' 2"),
        ({"inputs": {"z": SCALE}}, "the model has no such name; it has x"),
        ({"outputs": {"x": SCALE}}, "the model has no such name; it has y"),
    ],
)
def test_a_document_that_cannot_be_is_refused(document: Any, message: str):
    with pytest.raises(WrongUsage, match=message):
        validate(document, inputs=["x"], outputs=["y"])


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("lowercase", 1, "true or false"),
        ("split", "", "a string that is not empty"),
        ("vocabulary", ["a", 1], "a list of strings"),
        ("first_id", True, "a 32-bit integer"),
        ("pad_id", 2**31, "a 32-bit integer"),
        ("unknown_id", None, "a 32-bit integer"),
        ("start_id", 1.0, "a 32-bit integer or null"),
        ("length", 0, "a positive integer or null"),
        ("padding", "left", "'pre' or 'post'"),
    ],
)
def test_a_key_that_cannot_be_is_refused(text_step: dict[str, Any], key: str, value: Any, allowed: str):
    validate({"inputs": {"x": text_step}}, inputs=["x"])
    with pytest.raises(WrongUsage, match=rf"preprocessing\['inputs'\]\['x'\]\['{key}'\] is {allowed}; got"):
        validate({"inputs": {"x": {**text_step, key: value}}})
