"""`edgeseq bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeseq.cli.options import Overwrite, ProviderOption, Ranges, Threads, key_values
from edgeseq.cli.reply import Reply

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
    threads: Threads = None,
    batch: Annotated[int, typer.Option("--batch", help="Rows of a call.")] = 1,
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
    keras: Annotated[
        Path | None,
        typer.Option("--keras", help="The Keras model: measure its `predict` and Keras's own export beside the files."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--save", help="Write the results as JSON, for `edgeseq report`.")
    ] = None,
    save_samples: Annotated[bool, typer.Option("--save-samples", help="Keep every timed call in the results.")] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Older results to hold these against. Exit code 1: slower.")
    ] = None,
    min_seconds: Annotated[float, typer.Option("--min-seconds", help="Least timed seconds of each subject.")] = 1.0,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="No new round begins after this.")] = 120.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of subjects, and of made inputs.")] = 0,
    overwrite: Overwrite = False,
) -> Reply:
    """Measure files side by side: latency with intervals, size, speed, and the difference of their answers."""
    from edgeseq.arrays import read_inputs
    from edgeseq.bench import Settings, compare_to_baseline, file_subjects, read_run, run_benchmark, write_run
    from edgeseq.bench.record import KERAS_SUBJECTS, check_run_output
    from edgeseq.cli.console import progress_bar
    from edgeseq.cli.documents import ComparedRun
    from edgeseq.cli.quiet import import_tensorflow
    from edgeseq.runtime.ranges import parse_ranges

    if output is not None:
        read = [path for path in (*models, inputs, keras, baseline) if path is not None]
        check_run_output(output, overwrite=overwrite, sources=read)
    old = None if baseline is None else read_run(baseline)
    settings = Settings(min_seconds=min_seconds, max_seconds=max_seconds, seed=seed)
    choices: dict[str, Any] = {
        "providers": tuple(provider or ("cpu",)),
        "provider_options": key_values(provider_option),
        "ranges": parse_ranges(ranges or ()),
        "threads": threads,
        "batch": batch,
        "time_steps": time_steps,
        "inputs": None if inputs is None else read_inputs(inputs),
        "seed": seed,
    }
    if keras is None:
        subjects = file_subjects(models, **choices)
    else:
        import_tensorflow()
        from edgeseq.conversion.keras_subjects import side_by_side

        subjects = side_by_side(keras, models, **choices)
    with progress_bar() as progress:
        measured = run_benchmark(subjects, settings=settings, save_samples=save_samples, progress=progress)
    if output is not None:
        write_run(measured, output, overwrite=overwrite)
    comparison = None if old is None else compare_to_baseline(measured, old)
    # A rival that cannot run has that as its result; a file that the user named has failed.
    failed = any(result.error is not None for result in measured.results if result.name not in KERAS_SUBJECTS)
    return Reply(
        document=measured if comparison is None else ComparedRun.of(measured, comparison),
        show=lambda out: _show(measured, comparison, output, out),
        exit_code=1 if failed or (comparison is not None and not comparison) else 0,
    )


def _show(run: BenchmarkRun, comparison: BaselineComparison | None, output: Path | None, out: Console) -> None:
    from edgeseq.bench.record import speedup
    from edgeseq.bench.units import duration, durations, significant, size, times
    from edgeseq.cli.console import notes, section, table

    speeds = [f"vs {name}" for name in run.references if len(run.results) > 1]
    heads = ("size", "difference", "p50", "95 % interval", "p90", *speeds, "threads")
    rows = table("", *heads, right=heads)
    for result in run.results:
        if result.error is not None:
            continue
        interval = result.p50_interval_ns
        cells = [
            result.name,
            "-" if result.size_bytes is None else size(result.size_bytes),
            result.answers if result.max_abs is None else significant(result.max_abs, 2),
            "-" if result.p50_ns is None else duration(result.p50_ns),
            "-" if interval is None else durations(interval.low, interval.high),
            "-" if result.p90_ns is None else duration(result.p90_ns),
        ]
        for name in run.references if speeds else ():
            ratio = speedup(result, run[name]) if name != result.name else None
            cells.append("-" if ratio is None else times(ratio.value) if ratio.differs else "no difference")
        rows.add_row(*cells, {None: "its own", 0: "all"}.get(result.threads, str(result.threads)))
    out.print(rows)
    notes(out, [f"{result.name}: {text}" for result in run.results for text in result.notes])
    notes(out, [f"{result.name} failed: {result.error}" for result in run.results if result.error is not None])
    fed: dict[str, list[str]] = {}
    for result in run.results:
        steps = "" if result.time_steps is None else f", {result.time_steps} time steps"
        fed.setdefault(f"batch {result.batch}{steps}, inputs {result.inputs}", []).append(result.name)
    machine = f"{run.machine.cpu_model}, {run.machine.cores} cores"
    if len(fed) == 1:
        out.print(f"{next(iter(fed))}; {machine}")
    else:
        for said, names in fed.items():
            out.print(f"{', '.join(names)}: {said}", soft_wrap=True)
        out.print(machine)
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
