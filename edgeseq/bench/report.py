"""The report: results as one HTML page, and the same pictures as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseq import files
from edgeseq.bench import page, pictures
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun, read_run, speedup
from edgeseq.bench.stats import Interval, Ratio, least_count
from edgeseq.bench.units import duration, durations, significant, size, times
from edgeseq.errors import WrongUsage


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page besides the benchmark: learning curves, predictions, anything."""

    title: str
    """Heading, plain text."""
    text: str = ""
    """Plain text; an empty line begins a new paragraph."""
    headers: tuple[str, ...] = ()
    """Column heads of a table; the first column names the row."""
    rows: tuple[tuple[object, ...], ...] = ()
    """Rows of the table, each as long as `headers`."""
    picture: files.StrPath | None = None
    """A PNG, SVG, JPEG, GIF or WebP file, which becomes part of the page."""
    caption: str = ""
    """Under the picture, plain text."""


def write_report(
    results: Sequence[files.StrPath | BenchmarkRun],
    output: files.StrPath,
    *,
    title: str = "Benchmark",
    references: Sequence[str] | None = None,
    before: Sequence[Section] = (),
    after: Sequence[Section] = (),
    overwrite: bool = False,
) -> None:
    """Write one self-contained HTML page about `results`, which are runs or files that `write_run` made.

    `references` are the subjects that the others are held against; None takes Keras's own where they are in a run,
    else the run's first subject. `before` and `after` are put around the results.

    `output` ends in .html. Raises OutputExists, MissingInput, InvalidFile, WrongUsage, or MissingExtra without
    matplotlib.
    """
    read = [result for result in results if not isinstance(result, BenchmarkRun)]
    target = files.check_output(output, overwrite=overwrite, sources=read)
    if target.suffix != ".html":
        raise WrongUsage(f"the report is written as .html; got {target.name}")
    if not results and not before and not after:
        raise WrongUsage("there is nothing to report: give the files that `edgeseq bench --output` wrote")
    runs = [
        ("Speed", result) if isinstance(result, BenchmarkRun) else (Path(result).stem, read_run(result))
        for result in results
    ]
    body = [_extra(section) for section in before]
    body += [_run(name, run, _references(run, references)) for name, run in runs]
    body += [_extra(section) for section in after]
    introduction = "; ".join(
        dict.fromkeys(
            f"Measured {run.started[:10]} on {run.machine.cpu_model}, {_plural(run.machine.cores, 'core')}"
            for _, run in runs
        )
    )
    files.write_bytes(target, page.page(title, introduction, body).encode())


def save_picture(
    run: BenchmarkRun,
    path: files.StrPath,
    *,
    kind: str = "bars",
    dark: bool = False,
    references: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Draw `run` into a PNG or SVG file: `kind` is ``bars`` (medians) or ``distribution``.

    Raises OutputExists, or WrongUsage when the kind or the suffix is another one or nothing was measured.
    """
    draw = {"bars": pictures.latency_bars, "distribution": pictures.latency_distribution}.get(kind)
    if draw is None:
        raise WrongUsage(f"pictures are 'bars' or 'distribution', not {kind!r}")
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in ("png", "svg"):
        raise WrongUsage(f"pictures are written as .png or .svg, not {Path(path).name}")
    if not any(result.distribution_ns for result in run.results):
        raise WrongUsage("nothing in this run has a measured time, so there is nothing to draw")
    target = files.check_output(path, overwrite=overwrite)
    theme = pictures.DARK if dark else pictures.LIGHT
    files.write_bytes(target, draw(run.results, _references(run, references), theme, suffix))


def _references(run: BenchmarkRun, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return run.references
    names = [result.name for result in run.results]
    for name in wanted:
        if name not in names:
            raise WrongUsage(f"no subject is named {name!r}; this run has: {', '.join(names)}")
    return tuple(wanted)


def _extra(section: Section) -> str:
    picture = (
        page.embedded_picture(files.check_input(section.picture, "picture"), section.caption) if section.picture else ""
    )
    return page.section(
        section.title,
        page.paragraphs(section.text),
        page.text_table(section.headers, section.rows) if section.headers else "",
        f'<div class="pictures">{picture}</div>' if picture else "",
    )


def _run(name: str, run: BenchmarkRun, references: Sequence[str]) -> str:
    drawings = ""
    if any(result.distribution_ns for result in run.results):
        drawings = '<div class="pictures">' + "".join(
            page.drawing(
                title,
                draw(run.results, references, pictures.LIGHT, "svg"),
                draw(run.results, references, pictures.DARK, "svg"),
                caption,
            )
            for title, draw, caption in (
                ("How long a call takes", pictures.latency_bars, "Shorter is better."),
                ("How evenly", pictures.latency_distribution, "Further left is faster; steeper is more even."),
            )
        ) + "</div>"  # fmt: skip
    return page.section(
        name,
        _summary(run, references),
        _conditions(run),
        _table(run, references),
        drawings,
        f"<details><summary>How this was measured</summary>{page.definitions(_method(run))}</details>",
    )


def _summary(run: BenchmarkRun, references: Sequence[str]) -> str:
    """The fastest subject against each reference, as sentences."""
    measured = [result for result in run.results if result.round_p50_ns and result.name not in references]
    if not measured:
        return ""
    fastest = min(measured, key=lambda result: result.distribution_ns[50])
    lines = []
    for name in references:
        ratio = speedup(fastest, run[name])
        if ratio is None:
            continue
        who, other, between = page.escape(fastest.name), page.escape(name), _between(ratio.interval)
        if not ratio.differs:
            lines.append(f"<li>No difference found between {who} and {other}{between}.</li>")
        elif ratio.value > 1:
            lines.append(f"<li>{who} is <b>{times(ratio.value)}</b> as fast as {other}{between}.</li>")
        else:
            lines.append(f"<li>{who} is slower than {other}: <b>{times(ratio.value)}</b> its speed{between}.</li>")
    return f'<ul class="key">{"".join(lines)}</ul>' if lines else ""


def _conditions(run: BenchmarkRun) -> str:
    """What all subjects have in common: batch and time steps."""
    batches = sorted({result.batch for result in run.results})
    steps = sorted({result.time_steps for result in run.results if result.time_steps is not None})
    said = f"Batch {' and '.join(str(batch) for batch in batches)}"
    if steps:
        said += f", {' and '.join(str(step) for step in steps)} time steps"
    return f'<p class="faint">{page.escape(said)}.</p>'


def _table(run: BenchmarkRun, references: Sequence[str]) -> str:
    heads = ["", "Size", "Difference", "p50", "p90", *(f"Speed against {name}" for name in references), "Threads"]
    head = "".join(f'<th scope="col">{page.escape(text)}</th>' for text in heads)
    rows = "\n".join(_row(run, result, references) for result in run.results)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _row(run: BenchmarkRun, result: BenchmarkResult, references: Sequence[str]) -> str:
    cells = [f'<th scope="row">{page.escape(result.name)}</th>']
    if result.error is not None:
        text = result.error if len(result.error) <= 300 else result.error[:300] + " …"
        cells.append(f'<td class="words bad" colspan="{5 + len(references)}">{page.escape(text)}</td>')
        return f"<tr>{''.join(cells)}</tr>"
    cells.append(page.cell("Size", size(result.size_bytes) if result.size_bytes is not None else "–"))
    if result.max_abs is None:
        cells.append(page.cell("Difference", result.answers))
    else:
        cells.append(page.cell("Difference", significant(result.max_abs, 2)))
    cells.append(_percentile("p50", 0.50, result.p50_ns, result.p50_interval_ns, result.count))
    cells.append(_percentile("p90", 0.90, result.p90_ns, result.p90_interval_ns, result.count))
    for name in references:
        ratio = speedup(result, run[name]) if name != result.name else None
        label = f"Speed against {name}"
        if ratio is None:
            cells.append(page.cell(label, "–"))
        else:
            cells.append(page.cell(label, times(ratio.value), _range(ratio)))
    threads = {None: "its own", 0: "all"}.get(result.threads, str(result.threads))
    cells.append(page.cell("Threads", threads))
    return f"<tr>{''.join(cells)}</tr>"


def _percentile(name: str, p: float, value: int | None, interval: Interval | None, count: int) -> str:
    if value is None:
        return page.cell(name, "–", f"needs {least_count(p)} calls, has {count}")
    note = durations(interval.low, interval.high) if interval is not None else ""
    return page.cell(name, duration(value), note)


def _between(interval: Interval | None) -> str:
    if interval is None:
        return ", too few rounds for an interval"
    return f", 95 % interval {significant(interval.low)} to {significant(interval.high)}"


def _range(ratio: Ratio) -> str:
    if ratio.interval is None:
        return "too few rounds"
    if not ratio.differs:
        return "no difference"
    return f"{significant(ratio.interval.low)} to {significant(ratio.interval.high)}"


def _method(run: BenchmarkRun) -> list[tuple[str, str]]:
    settings = run.settings
    warm_ups = "; ".join(
        f"{result.name} {duration(result.warm_up.ns)}" + ("" if result.warm_up.stable else " (did not become stable)")
        for result in run.results
        if result.warm_up is not None
    )
    counts = "; ".join(f"{result.name} {result.count:,}" for result in run.results if result.error is None)
    return [
        ("Order", f"{settings.rounds} rounds, subjects in random order in each, seed {settings.seed}"),
        ("Least", f"{settings.min_runs} calls and {settings.min_seconds:g} s of each, in {settings.max_seconds:g} s"),
        ("Timed calls", counts),
        ("Warm-up", warm_ups),
        ("Intervals", "95 %, from order statistics; speeds from the medians of the rounds, pair by pair"),
        ("Difference", f"largest absolute difference from the answers of {run.results[0].name}"),
        ("Inputs", "; ".join(f"{result.name} {result.inputs}" for result in run.results)),
        ("Clock", f"resolution {duration(run.clock.resolution_ns)}, {duration(run.clock.overhead_ns)} a reading"),
        ("Load before", "unknown" if run.load_average is None else significant(run.load_average, 2)),
        ("Processor", f"{run.machine.cpu_model}, {_plural(run.machine.cores, 'core')}"),
        ("Features", ", ".join(run.machine.cpu_features) or "unknown"),
        ("System", run.machine.system),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("Started", run.started),
    ]  # fmt: skip


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
