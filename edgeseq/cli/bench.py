"""`edgeseq bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseq.cli.options import Overwrite, ProviderOption, Ranges, fraction, key_values
from edgeseq.cli.reply import Reply
from edgeseq.errors import WrongUsage

if TYPE_CHECKING:
    from rich.console import Console

    from edgeseq.bench.baseline import BaselineComparison
    from edgeseq.bench.record import BenchmarkRun


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL.onnx...", help="ONNX files, edgeseq's or others'.", show_default=False),
    ],
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", "-p", metavar="NAME", help="cpu, cuda, tensorrt; may be repeated. Default: cpu."),
    ] = None,
    provider_option: ProviderOption = None,
    ranges: Ranges = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads", help="Threads within an op, 0 for all cores; may be repeated. Default: the file's advice."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", help="Rows of a call; may be repeated. Default: 1, or all rows of --inputs."),
    ] = None,
    time_steps: Annotated[
        int | None,
        typer.Option("--time-steps", help="Length of the time axis. Default: that of the golden samples, or 100."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs", "-i", help=".npz by input name, or .npy: measure with these, in place of golden samples."
        ),
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            "--lengths",
            help="Measure with lengths as in this file: .txt or .csv of lengths, .npy or .npz of lengths or padded "
            "sequences, .jsonl of texts.",
        ),
    ] = None,
    keras: Annotated[
        Path | None,
        typer.Option("--keras", help="The Keras model: measure its `predict` and Keras's own export beside the files."),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario",
            help="single: one row a call. batch: 32 rows, or --batch. offline: rows a second over batches and threads. "
            "server: queries that arrive at random. Default: what the other options say.",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Server: queries a second, on average.")] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms",
            help="Server: find the highest rate at which 99 % are answered within this. Streams: find the most.",
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Streaming files: latency of a step, streams a core, real-time factor.")
    ] = False,
    chunk: Annotated[int | None, typer.Option("--chunk", help="Streams: steps of a call. Default: the fewest.")] = None,
    step_ms: Annotated[
        float | None,
        typer.Option(
            "--step-ms", help="Streams: the time that a step stands for, such as 10 for audio frames of 10 ms."
        ),
    ] = None,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Also start fresh processes: import, open, first call; memory.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Also profile: time by Keras layer.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--save", help="Write the results as JSON, for `edgeseq report`.")
    ] = None,
    save_samples: Annotated[bool, typer.Option("--save-samples", help="Keep every timed call in the results.")] = False,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Older results to hold these against. Exit code 1: slower, or not comparable."),
    ] = None,
    percentile: Annotated[
        str, typer.Option("--percentile", help="The percentile that --precision is about: 50% or 0.5, 99%, 99.9%.")
    ] = "50%",
    precision: Annotated[
        str,
        typer.Option("--precision", help="Go on until the 95 % interval of that percentile is this narrow. 0: do not."),
    ] = "5%",
    min_runs: Annotated[
        int | None, typer.Option("--min-runs", help="Least timed calls of each subject. Default: what p90 needs, 64.")
    ] = None,
    min_seconds: Annotated[
        float | None,
        typer.Option(
            "--min-seconds", help="Least timed seconds of each subject. Default: 1, or --max-seconds if less."
        ),
    ] = None,
    max_seconds: Annotated[
        float,
        typer.Option(
            "--max-seconds",
            help="No new round begins after this. Server: the most for each subject, of the default 60.",
        ),
    ] = 120.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of subjects, and of made inputs.")] = 0,
    overwrite: Overwrite = False,
) -> Reply:
    """Measure files side by side: latency with intervals, size, speed, and the difference of their answers."""
    from edgeseq.arrays import read_inputs
    from edgeseq.bench import (
        ServerSettings,
        Settings,
        compare_to_baseline,
        file_subjects,
        plan,
        read_run,
        run_benchmark,
        write_run,
    )
    from edgeseq.bench.inputs import rows_of
    from edgeseq.bench.record import check_run_output, is_keras
    from edgeseq.cli.console import progress_bar
    from edgeseq.cli.documents import ComparedRun
    from edgeseq.cli.quiet import import_tensorflow
    from edgeseq.files import check_input
    from edgeseq.runtime.ranges import parse_ranges

    if keras is not None:
        # Before TensorFlow, which takes seconds to import.
        for path in (keras, *models):
            check_input(path, "model file")
    if output is not None:
        read = [path for path in (*models, inputs, lengths, keras, baseline) if path is not None]
        check_run_output(output, overwrite=overwrite, sources=read)
    old = None if baseline is None else read_run(baseline)
    if min_seconds is not None and min_seconds > max_seconds:
        raise WrongUsage(f"--min-seconds {min_seconds:g} does not fit into --max-seconds {max_seconds:g}")
    settings = Settings(
        min_runs=Settings.min_runs if min_runs is None else min_runs,
        min_seconds=min(Settings.min_seconds, max_seconds) if min_seconds is None else min_seconds,
        max_seconds=max_seconds,
        percentile=fraction(percentile),
        precision=fraction(precision) or None,
        seed=seed,
    )
    if stream:
        from edgeseq.cli.bench_stream import bench_streams

        refused = {
            "--inputs": inputs, "--keras": keras, "--lengths": lengths, "--scenario": scenario, "--rate": rate,
            "--time-steps": time_steps, "--cold-start": cold_start, "--layers": layers, "--baseline": baseline,
            "--save-samples": save_samples,
        }  # fmt: skip
        return bench_streams(
            models, [name for name, value in refused.items() if value], output, chunk=chunk, batch=batch,
            deadline_ms=deadline_ms, step_ms=step_ms, provider=provider, provider_options=key_values(provider_option),
            ranges=parse_ranges(ranges or ()), threads=threads, settings=settings, overwrite=overwrite,
        )  # fmt: skip
    if chunk is not None or step_ms is not None:
        raise WrongUsage("--chunk and --step-ms are for streams (--stream)")
    given = None if inputs is None else read_inputs(inputs)
    planned = plan(
        scenario,
        batches=batch or (),
        threads=threads or (),
        rows=None if given is None else rows_of(given),
        rate_per_s=rate,
        deadline_ms=deadline_ms,
        max_seconds=min(max_seconds, max(ServerSettings.max_seconds, max_seconds / 2)),
    )
    choices: dict[str, Any] = {
        "providers": tuple(provider or ("cpu",)),
        "provider_options": key_values(provider_option),
        "ranges": parse_ranges(ranges or ()),
        "threads": planned.threads,
        "batch": planned.batches,
        "time_steps": time_steps,
        "inputs": given,
        "lengths": lengths,
        "sort_rows": planned.sort_rows,
        "seed": seed,
    }
    if keras is None:
        subjects = file_subjects(models, **choices)
    else:
        import_tensorflow()
        from edgeseq.conversion.keras_subjects import side_by_side

        subjects = side_by_side(keras, models, **choices)
    with progress_bar() as progress:
        measured = run_benchmark(
            subjects,
            settings=settings,
            scenario=planned.scenario,
            server=planned.server,
            cold_start=cold_start,
            layers=layers,
            save_samples=save_samples,
            progress=progress,
        )
    if output is not None:
        write_run(measured, output, overwrite=overwrite)
    comparison = None if old is None else compare_to_baseline(measured, old)
    # A rival that cannot run has that as its result; a file that the user named has failed.
    failed = any(result.error is not None for result in measured.results if not is_keras(result))
    late = any(result.server is not None and result.server.kept is False for result in measured.results)
    return Reply(
        document=measured if comparison is None else ComparedRun.of(measured, comparison),
        show=lambda out: _show(measured, comparison, output, out),
        exit_code=1 if failed or late or (comparison is not None and not comparison) else 0,
    )


def _show(run: BenchmarkRun, comparison: BaselineComparison | None, output: Path | None, out: Console) -> None:
    from edgeseq.bench import tables
    from edgeseq.bench.method import conditions
    from edgeseq.bench.units import plural
    from edgeseq.cli.console import figures, notes, section, table

    notes(out, tables.cautions(run))
    found = tables.results_table(run, run.references if len(run.results) > 1 else ())
    out.print(figures(found))
    for title, made in (
        ("Rows a second", tables.throughput_table(run)),
        ("Server: latency from the moment a query was due", tables.server_table(run)),
        ("Cold start and memory", tables.cold_table(run)),
        *((f"Time by layer: {name}", made) for name, made in tables.layers_tables(run).items()),
    ):
        if made is not None:
            section(out, title, figures(made))
            notes(out, made.notes)
    notes(out, found.notes)
    notes(out, tables.server_findings(run))
    notes(out, [f"{result.name} failed: {result.error}" for result in run.results if result.error is not None])
    out.print(f"{conditions(run)} {run.machine.cpu_model}, {plural(run.machine.cores, 'core')}.", soft_wrap=True)
    if comparison is not None:
        against = table("", "verdict", "why")
        for row in comparison.rows:
            against.add_row(row.name, row.verdict, row.reason)
        section(out, "Against the baseline", against)
        notes(out, comparison.warnings)
        out.print(
            "no regression" if comparison else "regression found" if comparison.regressions else "nothing to compare"
        )
    if output is not None:
        out.print(f"wrote {output}; next: edgeseq report {output} -o report.html", soft_wrap=True)
