"""The steps a manifest may hold, from raw values to what the graph takes, and from what it gives back to raw units.

A document is ``{"inputs": {name: step}, "outputs": {name: step}}``; either part may be absent. Every key of a step is
required. Steps:

``text`` (inputs): a list of texts to word ids, int32 of shape (batch, time), as Keras's `text_to_word_sequence` and
`pad_sequences` make them.

- ``lowercase``: bool; lower the text first.
- ``filters``: str; each of these characters becomes ``split``.
- ``split``: str; words are what lies between.
- ``vocabulary``: list of str; the word at index i has the id ``first_id`` + i.
- ``first_id``, ``pad_id``, ``unknown_id``: int.
- ``start_id``: int put before every text, or null for none.
- ``length``: int, the number of steps, or null for those of the longest text of the batch.
- ``padding``, ``truncating``: ``pre`` or ``post``.

``scale`` (inputs and outputs): numbers of shape (..., features) in raw units.

- ``offset``, ``scale``: lists of float, one a feature, or of length one. The graph sees (raw - offset) / scale; as an
  output step the inverse, graph * scale + offset, is applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from edgeseq.errors import InputMismatch, WrongUsage

KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
"""Keras's default for ``filters``."""

_SIDES = ("pre", "post")

# Per kind: each key, whether a value is allowed for it, and what is.
_Rule = tuple[Callable[[Any], bool], str]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31


def _is_numbers(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in value)
    )


_INT: _Rule = (_is_int, "a 32-bit integer")
_SIDE: _Rule = (lambda value: value in _SIDES, "'pre' or 'post'")
_KEYS: dict[str, dict[str, _Rule]] = {
    "text": {
        "lowercase": (lambda value: isinstance(value, bool), "true or false"),
        "filters": (lambda value: isinstance(value, str), "a string"),
        "split": (lambda value: isinstance(value, str) and value != "", "a string that is not empty"),
        "vocabulary": (
            lambda value: isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value),
            "a list of strings",
        ),
        "first_id": _INT,
        "pad_id": _INT,
        "start_id": (lambda value: value is None or _is_int(value), "a 32-bit integer or null"),
        "unknown_id": _INT,
        "length": (lambda value: value is None or (_is_int(value) and value > 0), "a positive integer or null"),
        "padding": _SIDE,
        "truncating": _SIDE,
    },
    "scale": {
        "offset": (_is_numbers, "a list of finite numbers"),
        "scale": (lambda value: _is_numbers(value) and 0 not in value, "a list of finite numbers, none of them 0"),
    },
}
_KINDS = {"inputs": ("text", "scale"), "outputs": ("scale",)}


def validate(document: Any, *, inputs: Collection[str] | None = None, outputs: Collection[str] | None = None) -> None:
    """Raise WrongUsage, saying what is wrong and what is allowed, unless `document` is one of this module's.

    With `inputs` and `outputs`, names of the model's, steps for other names are refused too.
    """
    if not isinstance(document, Mapping) or not document or not set(document) <= set(_KINDS):
        raise WrongUsage(f"preprocessing is a dict with the keys 'inputs' and 'outputs'; got {_shortened(document)}")
    for part, names in (("inputs", inputs), ("outputs", outputs)):
        steps = document.get(part, {})
        if not isinstance(steps, Mapping):
            raise WrongUsage(f"preprocessing['{part}'] is a dict of a step by name; got {_shortened(steps)}")
        for name, step in steps.items():
            where = f"preprocessing['{part}']['{name}']"
            if names is not None and name not in names:
                raise WrongUsage(f"{where}: the model has no such name; it has {', '.join(names)}")
            _validate_step(step, where, _KINDS[part])


def _validate_step(step: Any, where: str, kinds: Collection[str]) -> None:
    if not isinstance(step, Mapping) or step.get("kind") not in kinds:
        raise WrongUsage(f"{where} is a dict whose 'kind' is one of {', '.join(kinds)}; got {_shortened(step)}")
    rules = _KEYS[step["kind"]]
    missing, unexpected = [k for k in rules if k not in step], [k for k in step if k not in (*rules, "kind")]
    if missing or unexpected:
        raise WrongUsage(
            f"{where} of kind '{step['kind']}' has the keys {', '.join(rules)}; "
            f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(map(str, unexpected)) or 'none'}"
        )
    for key, (allowed, description) in rules.items():
        if not allowed(step[key]):
            raise WrongUsage(f"{where}['{key}'] is {description}; got {_shortened(step[key])}")
    if step["kind"] == "scale":
        lengths = {len(step["offset"]), len(step["scale"])} - {1}
        if len(lengths) > 1:
            raise WrongUsage(f"{where}: 'offset' has {len(step['offset'])} numbers and 'scale' {len(step['scale'])}")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + " ..."


class Preprocessing:
    """A valid document, ready to be applied."""

    def __init__(self, document: Mapping[str, Any]):
        validate(document)
        self._inputs = {name: _STEPS[step["kind"]](name, step) for name, step in document.get("inputs", {}).items()}
        self._outputs = {name: _Scale(name, step) for name, step in document.get("outputs", {}).items()}

    def before(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Raw values by input name, as the graph takes them; those without a step unchanged."""
        return {n: self._inputs[n](value) if n in self._inputs else value for n, value in values.items()}

    def after(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's values by output name, in raw units; those without a step unchanged."""
        return {n: self._outputs[n].inverse(value) if n in self._outputs else value for n, value in values.items()}


class _Text:
    def __init__(self, name: str, step: Mapping[str, Any]):
        self._name = name
        self._step = step
        self._table = str.maketrans(dict.fromkeys(step["filters"], step["split"]))
        self._ids = {word: step["first_id"] + index for index, word in enumerate(step["vocabulary"])}

    def __call__(self, texts: Any) -> np.ndarray:
        """Texts (batch) to ids int32 (batch, time)."""
        step = self._step
        rows = [self._row(text) for text in self._checked(texts)]
        # No axis of a file may be empty, so texts without a word get one id, the padding.
        length = step["length"] or max([1, *map(len, rows)])
        ids = np.full((len(rows), length), step["pad_id"], np.int32)
        for target, row in zip(ids, rows, strict=True):
            kept = row[-length:] if step["truncating"] == "pre" else row[:length]
            if kept and step["padding"] == "pre":
                target[-len(kept) :] = kept
            elif kept:
                target[: len(kept)] = kept
        return ids

    def _row(self, text: str) -> list[int]:
        step = self._step
        words = (text.lower() if step["lowercase"] else text).translate(self._table).split(step["split"])
        known, unknown = self._ids.get, step["unknown_id"]
        ids = [known(word, unknown) for word in words if word]
        return ids if step["start_id"] is None else [step["start_id"], *ids]

    def _checked(self, texts: Any) -> list[str]:
        wanted = f"input '{self._name}' takes a list of texts"
        if isinstance(texts, str):
            raise InputMismatch(f"{wanted}; got one text. Put it in a list: [text]", self._name)
        if isinstance(texts, np.ndarray):
            texts = texts.tolist() if texts.ndim == 1 else texts
        if not isinstance(texts, (list, tuple)):
            raise InputMismatch(f"{wanted}; got a {type(texts).__name__}", self._name)
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                advice = ". Decode it first: item.decode()" if isinstance(text, bytes) else ""
                raise InputMismatch(f"{wanted}; item {place} is a {type(text).__name__}{advice}", self._name)
        return list(texts)


class _Scale:
    def __init__(self, name: str, step: Mapping[str, Any]):
        self._name = name
        self._offset = np.array(step["offset"], np.float64)
        self._scale = np.array(step["scale"], np.float64)
        self._features = max(self._offset.size, self._scale.size)

    def __call__(self, raw: Any) -> np.ndarray:
        """Raw units to float64 of the same shape (..., features)."""
        try:
            values = np.asarray(raw)
        except ValueError as error:
            raise InputMismatch(
                f"input '{self._name}' takes an array of numbers; got none ({error})", self._name
            ) from error
        if values.dtype.kind not in "biuf":
            raise InputMismatch(f"input '{self._name}' takes numbers; got {values.dtype}", self._name)
        self._check(values, "input")
        scaled: np.ndarray = (values - self._offset) / self._scale
        return scaled

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """The graph's values to raw units, in their own dtype."""
        self._check(values, "output")
        raw: np.ndarray = (values * self._scale + self._offset).astype(values.dtype)
        return raw

    def _check(self, values: np.ndarray, what: str) -> None:
        if self._features != 1 and (values.ndim == 0 or values.shape[-1] != self._features):
            raise InputMismatch(
                f"{what} '{self._name}' is scaled over a last axis of {self._features}; got shape {values.shape}",
                self._name,
            )


_STEPS: dict[str, Callable[[str, Mapping[str, Any]], Callable[[Any], np.ndarray]]] = {"text": _Text, "scale": _Scale}
