"""The report: results as one HTML page, and the same pictures as files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseq import files
from edgeseq.bench import page, pictures, tables
from edgeseq.bench.method import conditions, method
from edgeseq.bench.record import BenchmarkResult, BenchmarkRun, read_run
from edgeseq.bench.standings import Standings, fair_speedup, reference_groups, standings
from edgeseq.bench.stats import Interval
from edgeseq.bench.sweeps import best_of, sweeps
from edgeseq.bench.units import plural, rate, ratios, threads_text, times
from edgeseq.errors import WrongUsage

_MOST_BARS = 12


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
    dark_picture: files.StrPath | None = None
    """The same for readers in the dark; both are SVG files then."""


def write_report(
    results: Sequence[files.StrPath | BenchmarkRun] | files.StrPath | BenchmarkRun,
    output: files.StrPath,
    *,
    title: str = "Benchmark",
    references: Sequence[str] | None = None,
    before: Sequence[Section] = (),
    after: Sequence[Section] = (),
    overwrite: bool = False,
) -> None:
    """Write one self-contained HTML page about `results`, runs or files that `write_run` made, one or several.

    `references` are the subjects that the others are held against; None takes Keras's own where they are in a run,
    else the run's first subject. `before` and `after` are put around the results.

    `output` ends in .html. Raises OutputExists, MissingInput, InvalidFile, WrongUsage, or MissingExtra without
    matplotlib.
    """
    if isinstance(results, str | os.PathLike | BenchmarkRun):
        results = [results]
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
    body += _together(dict(runs), references) if len(dict(runs)) > 1 else []
    body += [_run(name, run, _references(run, references)) for name, run in runs]
    body += [_extra(section) for section in after]
    introduction = "; ".join(
        dict.fromkeys(
            f"Measured {run.started[:10]} on {run.machine.cpu_model}, {plural(run.machine.cores, 'core')}"
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
    """Draw `run` into a PNG or SVG file.

    `kind` is ``bars`` (medians), ``speed`` (against the references), ``distribution``, ``throughput``, ``trade-off``
    (size, time and difference), ``layers``, ``cold-start``, ``server`` or ``drift``. `references` are as for
    `write_report`.

    Raises OutputExists, or WrongUsage when the kind or the suffix is another one or the run lacks what it needs.
    """
    chosen = pictures.KINDS.get(kind)
    if chosen is None:
        raise WrongUsage(f"pictures are {', '.join(map(repr, pictures.KINDS))}; not {kind!r}")
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in ("png", "svg"):
        raise WrongUsage(f"pictures are written as .png or .svg, not {Path(path).name}")
    view = pictures.View(run=run, references=_references(run, references))
    if not chosen.shows(view):
        raise WrongUsage(f"there is nothing to draw as {kind!r}: {chosen.lacking}")
    target = files.check_output(path, overwrite=overwrite)
    files.write_bytes(target, chosen.render(view, pictures.DARK if dark else pictures.LIGHT, suffix))


def _references(run: BenchmarkRun, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return run.references
    names = [result.name for result in run.results]
    for name in wanted:
        if name not in names:
            raise WrongUsage(f"no subject is named {name!r}; this run has: {', '.join(names)}")
    return tuple(wanted)


def _extra(section: Section) -> str:
    picture = ""
    if section.picture and section.dark_picture:
        light, dark = (files.check_input(path, "picture") for path in (section.picture, section.dark_picture))
        picture = page.drawing("", light.read_bytes(), dark.read_bytes(), section.caption, section.text)
    elif section.picture:
        picture = page.embedded_picture(files.check_input(section.picture, "picture"), section.caption)
    return page.section(
        section.title,
        page.paragraphs(section.text),
        page.text_table(section.headers, section.rows) if section.headers else "",
        page.pictures([picture] if picture else []),
    )


def _run(name: str, run: BenchmarkRun, references: Sequence[str]) -> str:
    view = pictures.View(run=run, references=references)
    calls = tables.results_table(run, references)
    under_load, every_rate = tables.server_table(run, every=False), tables.server_table(run)
    drawings = [
        page.drawing(
            kind.title,
            kind.render(view, pictures.LIGHT, "svg"),
            kind.render(view, pictures.DARK, "svg"),
            kind.caption,
            kind.finding(view),
        )
        for name_of_kind, kind in sorted(pictures.KINDS.items(), key=lambda item: item[0] != "server")
        if kind.shows(view)
        # Many medians are read in the table, and in the distributions; as bars they would be a wall.
        and not (name_of_kind == "bars" and len(run.results) > _MOST_BARS)
    ]
    return page.section(
        name,
        page.warnings(tables.cautions(run)),
        _summary(run, references),
        f'<p class="faint">{page.escape(conditions(run))}</p>',
        page.part("Under load", under_load),
        page.part("One call after the other", calls) if under_load else page.table(calls),
        page.pictures(drawings),
        page.part("Rows a second", tables.throughput_table(run)),
        page.part("Cold start and memory", tables.cold_table(run)),
        _layers(run),
        page.folded("Every rate that was tried", every_rate if every_rate != under_load else None),
        page.folded("How this was measured", page.definitions(method(run))),
    )


def _layers(run: BenchmarkRun) -> str:
    found = tables.layers_tables(run)
    each = [page.part(name, table) if len(found) > 1 else page.table(table) for name, table in found.items()]
    return page.folded("Time of each layer", "".join(each))


def _together(runs: Mapping[str, BenchmarkRun], references: Sequence[str] | None) -> list[str]:
    """Sections about all runs of the same shapes that share subjects: a row each in one picture."""
    groups: dict[str, dict[str, BenchmarkRun]] = {}
    for name, run in runs.items():
        groups.setdefault(_setting(run), {})[name] = run
    sections = []
    for setting, group in groups.items():
        found = standings(group, rivals=references)
        compared = [set(standing.speeds) for standing in found.systems if len(standing.speeds) > 1]
        if len(compared) > 1 and len(set.intersection(*compared)) > 1:
            sections.append(_standings(setting, found))
    return sections


def _standings(setting: str, found: Standings) -> str:
    sentences = pictures.rivals_finding(found)
    drawing = page.drawing(
        "Against the best rival of each",
        pictures.rivals_picture(found, pictures.LIGHT, "svg"),
        pictures.rivals_picture(found, pictures.DARK, "svg"),
        "To the right of 1 is faster than the fastest rival. Large symbols are what is judged, small ones rivals.",
        " ".join(sentences),
    )
    failures = [(name, systems, page.shortened(reason)) for name, systems, reason in tables.failures(found)]
    return page.section(
        f"All together: {setting}",
        page.key_points([page.escape(sentence) for sentence in sentences]),
        page.pictures([drawing]),
        page.table(tables.standings_table(found)),
        page.part("Not measured", page.text_table(("Subject", "Where", "Why"), failures) if failures else ""),
    )


def _setting(run: BenchmarkRun) -> str:
    """Batch and threads of a run: systems are compared at the same ones."""
    measured = [result for result in run.results if result.error is None]
    batches = sorted({result.batch for result in measured})
    threads = {result.threads for result in measured if result.threads is not None}
    said = f"batch {' and '.join(map(str, batches))}"
    return f"{said}, {threads_text(*threads)}" if len(threads) == 1 else said


def _summary(run: BenchmarkRun, references: Sequence[str]) -> str:
    """The fastest subject against each reference, the most rows a second and the highest rates, as sentences."""
    lines = [line for group in reference_groups(run, references).values() for line in _against(run, references, group)]
    found = sweeps(run)
    if found:
        best, (batch, per_s) = best_of(found)
        lines.append(
            f"Most rows a second: <b>{page.escape(rate(per_s))}</b> by {page.escape(best.name)} at batch {batch}."
        )
    lines += map(page.escape, tables.server_findings(run))
    return page.key_points(lines)


def _against(run: BenchmarkRun, references: Sequence[str], group: Sequence[BenchmarkResult]) -> list[str]:
    """One line about a reference; of one in several batches, the smallest and the largest batch say enough."""
    ordered = sorted(group, key=lambda result: result.batch)
    ends = ordered if len(ordered) < 3 else [ordered[0], ordered[-1]]
    return [line for reference in ends for line in _fastest(run, references, reference.name)]


def _fastest(run: BenchmarkRun, references: Sequence[str], name: str) -> list[str]:
    """The fastest at the same work as the reference `name`, against it."""
    ratios = [(result, fair_speedup(result, run[name])) for result in run.results if result.name not in references]
    compared = [(result, ratio) for result, ratio in ratios if ratio is not None]
    if not compared:
        return []
    fastest, ratio = max(compared, key=lambda pair: pair[1].value)
    who, other, between = page.escape(fastest.name), page.escape(name), _between(ratio.interval)
    if ratio.verdict == "no difference":
        return [f"No difference found between {who} and {other}{between}."]
    if ratio.verdict == "undecided":
        return [f"Undecided between {who} and {other}: {times(ratio.value)}{between}."]
    if ratio.value > 1:
        return [f"{who} is <b>{times(ratio.value)}</b> as fast as {other}{between}."]
    return [f"{who} is slower than {other}: <b>{times(ratio.value)}</b> its speed{between}."]


def _between(interval: Interval | None) -> str:
    if interval is None:
        return ", too few rounds for an interval"
    return f", 95 % interval {ratios(interval.low, interval.high)}"
