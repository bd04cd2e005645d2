"""Running a file that is in memory on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeseq.quantization.metrics import Answers
from edgeseq.quantization.samples import Feed
from edgeseq.runtime.manifest import StateSpec
from edgeseq.runtime.providers import open_session, run


def serialize(model: onnx.ModelProto) -> bytes:
    """The model as bytes; equal models give equal bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def run_all(
    model: bytes,
    feeds: Sequence[Mapping[str, npt.NDArray[Any]]],
    states: Sequence[StateSpec] = (),
    *,
    threads: int | None = None,
    provider: str = "cpu",
) -> Answers:
    """All outputs for each feed, in the file's order, states from their initial values; None uses all threads.

    Raises InvalidFile when the model does not load, InputMismatch when it does not run on a feed, ProviderUnavailable.
    """
    return run_session(open_session(model, threads=threads, provider=provider), feeds, states)


def run_session(
    session: Any, feeds: Sequence[Mapping[str, npt.NDArray[Any]]], states: Sequence[StateSpec] = ()
) -> Answers:
    """As `run_all`, in a session that is open."""
    names = [output.name for output in session.get_outputs()]
    return [run(session, names, with_states(feed, states)) for feed in feeds]


def with_states(feed: Mapping[str, npt.NDArray[Any]], states: Sequence[StateSpec]) -> Feed:
    """The feed with every state that it lacks at its initial value."""
    rows = len(next(iter(feed.values())))
    missing = {
        state.input: np.full(
            [axis if isinstance(axis, int) else rows for axis in state.axes], state.initial, np.dtype(state.dtype)
        )
        for state in states
        if state.input not in feed
    }
    return {**feed, **missing}
