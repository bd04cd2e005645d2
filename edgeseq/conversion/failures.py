"""What code that is not ours raised, as an error of ours that says what was being done."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from edgeseq.errors import EdgeseqError, Refused

# Keras puts these around the message of an exception that passes through a layer.
_KERAS_FRAME = re.compile(r"^Exception encountered when calling .*\n\n|\n\nArguments received by (?s:.*)|\x1b\[\d+m")
# It also prints whole arrays, over many lines, with its reason behind them.
_ARRAY = re.compile(r"\[\[[\s\d.,+\-einfaTrulFs\[\]]*\]\]")


def reason_of(error: Exception) -> str:
    """The kind of an exception and the first line of its message, or of what Keras says is behind it."""
    # A KeyError's own text is the repr of its key, line breaks and all.
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    message = _ARRAY.sub("[...]", _KERAS_FRAME.sub("", message)).rpartition("\n\nException encountered: ")[2]
    return ": ".join([type(error).__name__, *message.strip().splitlines()[:1]])


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Raise Refused, `what` and the reason, for what the model's own code raises meanwhile; errors of ours pass."""
    try:
        yield
    except (EdgeseqError, MemoryError):
        raise
    except Exception as error:
        raise Refused(f"{what}: {reason_of(error)}") from error


def article(name: str) -> str:
    """``a`` or ``an``, for a class name in a message, as it is spoken: an LSTM, an RNN, a UnitNormalization."""
    return "an" if name[:1] in "AEIO" or name.startswith(("LSTM", "RNN", "Up")) else "a"


def shapes_of(arrays: Iterable[Any]) -> str:
    """The shapes of a batch of inputs, for messages."""
    return ", ".join(str(array.shape) for array in arrays)
