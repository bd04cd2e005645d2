"""The scenarios, after MLPerf's: what each sweeps over and asks for, and which of them a wish amounts to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgeseq.bench.server import ServerSettings
from edgeseq.errors import WrongUsage

SCENARIOS = ("single", "batch", "offline", "server")
"""What `BenchmarkRun.scenario` can be."""

_BATCH = 32
_TOO_MANY_ROWS = 1 << 31
_SWEEP_BATCHES = (1, 8, 32, 128)
_SWEEP_THREADS = (1, 0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured of each file."""

    scenario: str
    """One of `SCENARIOS`."""
    batches: tuple[int, ...]
    """Rows of a call, one subject each."""
    threads: tuple[int | None, ...]
    """Threads within an op, one subject each; None takes the file's advice."""
    sort_rows: bool
    """Whether rows of like length may be put into one batch: only who has all of them can, which is so offline; told
    by name, since several batches may be a sweep of anything."""
    server: ServerSettings | None
    """At what rate queries arrive; None in the other scenarios."""


def plan(
    scenario: str | None = None,
    *,
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    rows: int | None = None,
    rate_per_s: float | None = None,
    deadline_ms: float | None = None,
    max_seconds: float = ServerSettings.max_seconds,
) -> Plan:
    """Fill in what was left open: empty `batches` and `threads` take those of the scenario that was named.

    `rows` are those of the given inputs, which are the one batch then; None where no inputs are given.
    `scenario` None takes the one that the rest amounts to, and adds nothing to it. `deadline_ms` is in milliseconds;
    `max_seconds` are the most for the server scenario of each subject.

    Raises WrongUsage for a scenario that is none, and for what it cannot have.
    """
    named = scenario is not None
    if rows is not None:
        batches = given_batch(batches, rows)
    if scenario is None:
        scenario = fitting(batches, threads, served=rate_per_s is not None or deadline_ms is not None)
    if scenario not in SCENARIOS:
        raise WrongUsage(f"there is no scenario {scenario!r}; there are: {', '.join(SCENARIOS)}")
    served = scenario == "server"
    if not served and (rate_per_s is not None or deadline_ms is not None):
        raise WrongUsage(f"a rate and a deadline are for the scenario server, not for {scenario}")
    for rows in batches:
        if not 1 <= rows < _TOO_MANY_ROWS:
            raise WrongUsage(f"a batch has 1 to {_TOO_MANY_ROWS - 1:,} rows, not {rows}")
    if deadline_ms is not None and not 0 < deadline_ms < float("inf"):
        raise WrongUsage(f"a deadline is a time above 0 ms, not {deadline_ms:g} ms")
    if scenario == "single" and tuple(batches) not in ((), (1,)):
        raise WrongUsage(
            f"the scenario single has one row a call; got the batches {', '.join(map(str, batches))}. "
            "Take the scenario batch, or offline for several"
        )
    if named and scenario == "batch":
        batches = batches or (_BATCH,)
    if named and scenario == "offline":
        batches, threads = batches or _SWEEP_BATCHES, threads or _SWEEP_THREADS
    return Plan(
        scenario=scenario,
        batches=tuple(batches) or (1,),
        threads=tuple(threads) or (None,),
        sort_rows=named and scenario == "offline",
        server=None
        if not served
        else ServerSettings(
            rate_per_s=rate_per_s,
            deadline_ns=None if deadline_ms is None else round(deadline_ms * 1e6),
            max_seconds=max_seconds,
        ),
    )


def given_batch(batches: Sequence[int], rows: int) -> tuple[int]:
    """The one batch of given inputs, which have `rows`. Raises WrongUsage where others were asked for."""
    if any(batch != rows for batch in batches):
        raise WrongUsage(
            f"the given inputs are one batch of {rows}; got the batch {', '.join(map(repr, batches))} besides: leave "
            "the batch out"
        )
    return (rows,)


def fitting(batches: Collection[int], threads: Collection[int | None], *, served: bool) -> str:
    """The scenario that one model amounts to, measured with these batches and numbers of threads."""
    if served:
        return "server"
    if len(set(batches)) > 1 or len(set(threads)) > 1:
        return "offline"
    return "batch" if any(rows > 1 for rows in batches) else "single"
