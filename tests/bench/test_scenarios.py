"""Scenarios: what each sweeps over, which one a wish amounts to, and what they cannot have."""

from __future__ import annotations

from typing import Any

import pytest

from edgeseq.bench import plan
from edgeseq.errors import WrongUsage


@pytest.mark.parametrize(
    ("wish", "scenario", "batches", "threads"),
    [
        ({}, "single", (1,), (None,)),
        ({"threads": [2]}, "single", (1,), (2,)),
        ({"batches": [1]}, "single", (1,), (None,)),
        ({"batches": [4, 4]}, "batch", (4, 4), (None,)),
        ({"batches": [8]}, "batch", (8,), (None,)),
        ({"batches": [1, 8]}, "offline", (1, 8), (None,)),
        ({"threads": [1, 2]}, "offline", (1,), (1, 2)),
        ({"rate_per_s": 5.0}, "server", (1,), (None,)),
        ({"rows": 1}, "single", (1,), (None,)),
        ({"rows": 3, "batches": [3]}, "batch", (3,), (None,)),
        ({"deadline_ms": 0.005, "batches": [2]}, "server", (2,), (None,)),
    ],
)
def test_the_scenario_that_a_wish_amounts_to(
    wish: dict[str, Any], scenario: str, batches: tuple[int, ...], threads: tuple[int | None, ...]
) -> None:
    found = plan(**wish)
    assert (found.scenario, found.batches, found.threads) == (scenario, batches, threads)
    # Rows are put together only for whom said that all are there at once, not for a sweep over batches.
    assert not found.sort_rows
    assert (found.server is not None) == (scenario == "server")


def test_a_named_scenario_fills_in_what_was_left_open() -> None:
    assert plan("batch").batches == (32,)
    assert plan("offline", batches=[4]).threads == (1, 0)
    assert plan("offline").batches == (1, 8, 32, 128)
    assert plan("offline").sort_rows
    assert (plan("offline", rows=3).batches, plan("offline", rows=3).threads) == ((3,), (1, 0))
    assert not plan("batch").sort_rows
    served = plan("server", rate_per_s=10.0, deadline_ms=7.0).server
    assert served is not None
    assert (served.rate_per_s, served.deadline_ns) == (10.0, 7_000_000)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (("stream", {}), "no scenario 'stream'; there are: single, batch, offline, server"),
        (("single", {"batches": [8]}), "one row a call; got the batches 8"),
        (("batch", {"rate_per_s": 1.0}), "for the scenario server, not for batch"),
        (("single", {"rows": 3}), "one row a call; got the batches 3. Take the scenario batch"),
        (("batch", {"rows": 3, "batches": [1]}), "given inputs are one batch of 3; got the batch 1 besides"),
        (("server", {}), "a rate of queries, a deadline, or both"),
        (("server", {"rate_per_s": 0.0}), "the rate of the server scenario must be a number above 0"),
    ],
)
def test_what_a_scenario_cannot_have(wish: tuple[str, dict[str, Any]], said: str) -> None:
    scenario, options = wish
    with pytest.raises(WrongUsage, match=said):
        plan(scenario, **options)
