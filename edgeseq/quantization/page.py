"""A search as one HTML page that needs nothing but itself, or as its picture alone."""

from __future__ import annotations

from pathlib import Path

from edgeseq.bench import page, pictures
from edgeseq.bench.units import duration, significant, size, times
from edgeseq.quantization.picture import points, trade_off
from edgeseq.quantization.report import CandidateReport, LayerReport, QuantizationReport


def draw(report: QuantizationReport, suffix: str) -> bytes:
    """What a file with this suffix holds: ``.html``, ``.png`` or ``.svg``."""
    if suffix == ".html":
        return _page(report).encode()
    return trade_off(report, pictures.LIGHT, suffix.removeprefix("."))


def _page(report: QuantizationReport) -> str:
    name = Path(report.source_path).name
    body = [page.section("Result", page.definitions(_totals(report)), _listed(report.notes))]
    if len(points(report)) > 1:
        drawings = "".join(
            page.drawing(
                title,
                trade_off(report, pictures.LIGHT, "svg", [panel]),
                trade_off(report, pictures.DARK, "svg", [panel]),
                caption,
            )
            for panel, title, caption in (
                ("size", "Size against error", "Each point is a whole file. Further down is smaller."),
                ("time", "Time against error", "Further down is faster; below the line nothing was found."),
            )
        )
        body.append(page.section("What was measured", f'<div class="pictures">{drawings}</div>'))
    body += [_layer(layer) for layer in report.layers]
    made = f"plan {report.plan}" if report.plan else f"search of {significant(report.seconds)} s"
    return page.page(f"Quantization of {name}", f"{Path(report.path).name}, {made}", body)


def _totals(report: QuantizationReport) -> list[tuple[str, str]]:
    smaller = times(report.source_size_bytes / report.size_bytes)
    rows = [("Size", f"{size(report.source_size_bytes)} -> {size(report.size_bytes)}, {smaller} smaller")]
    if report.latency_ms is not None and report.source_latency_ms is not None:
        before, after = duration(report.source_latency_ms * 1e6), duration(report.latency_ms * 1e6)
        speed = f", {times(report.speed.value)} the speed" if report.speed else ""
        rows.append(("Time of a call", f"{before} -> {after}{speed}"))
    rows.append(("Call", f"{report.batch} row(s), {_threads(report.threads)}"))
    if report.error is not None:
        held_out = "" if report.held_out_error is None else f", on held-out rows {report.held_out_error:.3%}"
        rows.append(("Error against fp32", f"{report.error:.3%}{held_out}"))
    if report.metric_before is not None and report.metric_after is not None:
        rows.append((str(report.metric), f"{report.metric_before:.4f} -> {report.metric_after:.4f}"))
    rows.append(("Budget", _budget(report)))
    rows.append(("Goal", report.goal))
    rows.append(("Rows", f"{report.rows}, {report.held_out_rows} of them held out"))
    rows.append(("Rows and steps", "independent" if report.rows_independent else "depend a little on each other"))
    return rows


def _threads(threads: int) -> str:
    return {0: "all cores", 1: "1 thread"}.get(threads, f"{threads} threads")


def _budget(report: QuantizationReport) -> str:
    metric = report.metric or "the metric"
    limits = (
        None if report.max_error is None else f"error {report.max_error:.2%}",
        None if report.max_drop is None else f"drop of {metric} {report.max_drop:g}",
        None if report.max_size_bytes is None else f"size {size(report.max_size_bytes)}",
        None if report.max_latency_ms is None else f"time {significant(report.max_latency_ms)} ms",
    )
    return ", ".join(limit for limit in limits if limit is not None)


def _listed(notes: tuple[str, ...]) -> str:
    return f'<ul class="key">{"".join(f"<li>{page.escape(note)}</li>" for note in notes)}</ul>' if notes else ""


def _layer(layer: LayerReport) -> str:
    head = f"{layer.op_type}, weights of {size(layer.weight_bytes)}; chosen: {layer.chosen}"
    heads = ("Form", "Error", "Size", "Speed", "Verdict", "Why")
    table = page.text_table(heads, [_row(entry) for entry in layer.candidates]) if layer.candidates else ""
    return page.section(layer.name, page.paragraphs(head), table)


def _row(entry: CandidateReport) -> tuple[str, ...]:
    return (
        entry.name + ("" if entry.rows_independent else " (rows depend on each other)"),
        "–" if entry.error is None else f"{entry.error:.3%}",
        "–" if entry.size_bytes is None else size(entry.size_bytes),
        "–" if entry.speed is None else times(entry.speed.value),
        entry.verdict,
        entry.reason,
    )
