"""Timing one choice beside another: threads that may still spin are given the time to come to rest."""

from __future__ import annotations

from typing import Any

import pytest

from edgeseq.bench.sample import SETTLE_NS, Samples, WarmUp
from edgeseq.quantization import measure
from edgeseq.quantization.measure import SampledTrial


@pytest.mark.parametrize(("ours", "theirs", "settles"), [(1, 1, False), (1, 2, True), (0, 1, True), (2, 2, True)])
def test_only_several_threads_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, ours: int, theirs: int, settles: bool
) -> None:
    asked = set()

    def pretend(calls: Any, settings: Any, *, settle_ns: int = 0) -> tuple[Samples, ...]:
        asked.add(settle_ns)
        warm_up = WarmUp(ns=0, runs=1, stable=True)
        return tuple(Samples(warm_up=warm_up, rounds=((5, 5, 5),) * settings.rounds, error=None) for _ in calls)

    monkeypatch.setattr(measure, "interleave", pretend)
    monkeypatch.setattr(SampledTrial, "_call", lambda *_: lambda: None)
    trial = SampledTrial.__new__(SampledTrial)
    assert trial._in_turns(({}, ours), ({}, theirs)).value == 1.0
    assert asked == {SETTLE_NS if settles else 0}
