"""Texts to word ids, as `keras.datasets.imdb` numbers them: 0 pads, 1 starts, 2 is unknown, 4 is the commonest word."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from edgeseq.runtime.preprocessing import KERAS_FILTERS

FIRST_ID, PAD_ID, START_ID, UNKNOWN_ID = 4, 0, 1, 2
_TO_SPACES = str.maketrans(dict.fromkeys(KERAS_FILTERS, " "))


def text_step(vocabulary: Sequence[str], length: int) -> dict[str, Any]:
    """The preprocessing step that turns a text into `length` ids; `vocabulary[i]` has the id `FIRST_ID + i`."""
    return {
        "kind": "text",
        "lowercase": True,
        "filters": KERAS_FILTERS,
        "split": " ",
        "vocabulary": list(vocabulary),
        "first_id": FIRST_ID,
        "pad_id": PAD_ID,
        "start_id": START_ID,
        "unknown_id": UNKNOWN_ID,
        "length": length,
        "padding": "pre",
        "truncating": "pre",
    }


def split_words(text: str) -> list[str]:
    """Words as the step of `text_step` sees them."""
    return [word for word in text.lower().translate(_TO_SPACES).split(" ") if word]


def commonest_words(texts: Sequence[str], count: int) -> list[str]:
    """The `count` most frequent words, the most frequent first; words of one frequency in alphabetical order."""
    counts = collections.Counter(word for text in texts for word in split_words(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:count]
