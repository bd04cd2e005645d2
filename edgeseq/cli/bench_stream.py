"""`edgeseq bench --stream`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseq.cli.reply import Reply
from edgeseq.errors import WrongUsage

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.bench.capacity import Capacity
    from edgeseq.bench.sample import Settings
    from edgeseq.bench.streaming import StreamRun
    from edgeseq.runtime.ranges import GivenRanges


def bench_streams(
    models: Sequence[Path],
    refused: Sequence[str],
    output: Path | None,
    *,
    chunk: int | None,
    batch: Sequence[int] | None,
    deadline_ms: float | None,
    step_ms: float | None,
    provider: Sequence[str] | None,
    provider_options: Mapping[str, str],
    ranges: GivenRanges | None,
    threads: Sequence[int] | None,
    settings: Settings,
    overwrite: bool,
) -> Reply:
    """Measure streams; `refused` are options that were given and mean nothing here."""
    from edgeseq.bench import write_run
    from edgeseq.bench.streaming import benchmark_streams
    from edgeseq.cli.console import progress_bar

    if refused:
        raise WrongUsage(f"with --stream there is no {', '.join(refused)}")
    with progress_bar() as progress:
        measured = benchmark_streams(
            models,
            chunk=chunk,
            batch=_one("--batch", batch, 1),
            deadline_ns=_ns("--deadline-ms", deadline_ms),
            step_ns=_ns("--step-ms", step_ms),
            max_seconds=settings.max_seconds,
            provider=_one("--provider", provider, "cpu"),
            provider_options=provider_options,
            ranges=ranges,
            threads=_one("--threads", threads, 1),
            settings=settings,
            progress=progress,
        )
    if output is not None:
        write_run(measured, output, overwrite=overwrite)
    return Reply(
        document=measured,
        show=lambda out: _show(measured, output, out),
        exit_code=1 if any(result.error is not None for result in measured.results) else 0,
    )


def _one(name: str, values: Sequence[Any] | None, default: Any) -> Any:
    if values and len(values) > 1:
        raise WrongUsage(f"with --stream {name} is given once; got {', '.join(map(str, values))}")
    return values[0] if values else default


def _ns(name: str, milliseconds: float | None) -> int | None:
    if milliseconds is None:
        return None
    if not 0 < milliseconds < float("inf"):
        raise WrongUsage(f"{name} must be above 0, not {milliseconds:g}")
    return max(1, round(milliseconds * 1e6))


def _show(run: StreamRun, output: Path | None, out: Console) -> None:
    from edgeseq.bench import tables
    from edgeseq.bench.method import conditions
    from edgeseq.bench.units import duration, plural, significant, times
    from edgeseq.cli.console import figures, notes, section, table

    notes(out, tables.cautions(run))
    found = tables.results_table(run, run.references)
    out.print(figures(found))
    made = table("", "steps a call", "vs session.run", "real-time factor", "streams", "a core", right=("streams",))
    for stream in run.streams:
        made.add_row(
            stream.name,
            str(stream.chunk),
            "-" if stream.speedup is None else times(stream.speedup.value),
            "-" if stream.real_time_factor is None else significant(stream.real_time_factor),
            "-" if stream.capacity is None else _streams(stream.capacity),
            "-" if stream.capacity is None else f"{stream.capacity.per_core:,.0f}",
        )
    section(out, "Streams", made)
    deadlines = {stream.capacity.deadline_ns for stream in run.streams if stream.capacity is not None}
    for deadline in sorted(deadlines):
        out.print(f"streams: all step at once, and 99 % of the times are within {duration(deadline)}", soft_wrap=True)
    notes(out, found.notes)
    out.print(f"{conditions(run)} {run.machine.cpu_model}, {plural(run.machine.cores, 'core')}.", soft_wrap=True)
    if output is not None:
        out.print(f"wrote {output}; next: edgeseq report {output} -o report.html", soft_wrap=True)


def _streams(capacity: Capacity) -> str:
    return f"{'at least ' if capacity.searched in ('most', 'limit') and capacity.streams else ''}{capacity.streams:,}"
