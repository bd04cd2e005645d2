"""Nests as Keras has them, to arrays by name and back."""

from __future__ import annotations

from typing import Any

import pytest

from edgeseq.errors import InputMismatch
from edgeseq.runtime import structure

NESTED = {"dict": {"first": ["a", {"tuple": ["b", "c"]}], "second": "d"}}
VALUES = {"a": 1, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize(
    ("shape", "nested"),
    [
        ("a", 1),
        (["a"], [1]),
        (["b", "a", "b"], [2, 1, 2]),
        ({"tuple": ["a", "b"]}, (1, 2)),
        ({"dict": {"k": "a"}}, {"k": 1}),
        (NESTED, {"first": [1, (2, 3)], "second": 4}),
    ],
)
def test_nest_and_flatten_are_inverses(shape: Any, nested: Any):
    assert structure.nest(VALUES, shape) == nested
    assert structure.flatten(nested, shape) == {name: VALUES[name] for name in structure.names(shape)}


def test_a_tuple_passes_for_a_list():
    assert structure.flatten((1, 2), ["a", "b"]) == structure.flatten([1, 2], {"tuple": ["a", "b"]})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r"the input is a dict with the keys 'first', 'second'; got a list of 1"),
        ({"first": 1}, "missing 'second'"),
        ({"first": 1, "second": 1, "third": 1}, "unexpected 'third'"),
        ({"first": 1, "second": 4}, r"the input\['first'\] is a list of 2, \[a, \(b, c\)\]; got a int"),
        ({"first": [1, [2]], "second": 4}, r"the input\['first'\]\[1\] is a list of 2, \(b, c\); got a list of 1"),
    ],
)
def test_another_nesting_is_refused_with_its_place(value: Any, message: str):
    with pytest.raises(InputMismatch, match=message):
        structure.flatten(value, NESTED)


@pytest.mark.parametrize("shape", [3, {"set": ["a"]}, {"dict": ["a"]}, {"tuple": "a"}, {}, {"dict": {}, "tuple": []}])
def test_what_is_no_structure_is_said(shape: Any):
    with pytest.raises(ValueError, match="no structure of tensors"):
        structure.names(shape)
