"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.bench.units import duration, significant, times
from gpu_check.judge import one_measurement
from gpu_check.results import GRAPH, RIVAL, ArtifactResult, Failure, GpuCheck, Measurement


def to_markdown(check: GpuCheck) -> str:
    """Machine, expectations, placement and parity, latencies, and every reason in full."""
    reasons = _Reasons()
    parts = [
        "# GPU check",
        _machine(check),
        "## Expectations",
        _table(
            ("expectation", "verdict", "detail"),
            [(one.name, one.verdict, one.detail) for one in check.expectations],
        ),
        "## Placement and parity",
        _table(
            (
                "model",
                "provider",
                "lowered",
                "runs there",
                "recurrent nodes there",
                "nodes by provider",
                "shapes on the host",
                "parity (largest error / tolerance)",
            ),
            [_placement(result, reasons) for result in check.results],
        ),
        "## Latency",
        _table(
            (
                "model",
                "provider",
                "what",
                "batch",
                "p50",
                "p90",
                "p99",
                "rows/s",
                "CUDA graph p50",
                "Keras export p50",
                "edgeseq faster by",
            ),
            [row for result in check.results for row in _latencies(result, reasons)],
        ),
    ]
    if reasons.texts:
        parts += ["## Reasons", "\n".join(f"{number}. {text}" for number, text in enumerate(reasons.texts, 1))]
    return "\n\n".join(parts) + "\n"


class _Reasons:
    """Long texts, told once below the tables and numbered in them."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def failure(self, failure: Failure) -> str:
        return f"no {self.number(f'{failure.kind}: {failure.message}')}"


def _machine(check: GpuCheck) -> str:
    gpu, machine = check.gpu, check.machine
    lines = [
        f"- GPU: {', '.join(gpu.devices) or f'none ({gpu.error})'}",
        f"- driver: {gpu.driver or 'none'}" + (f", runs CUDA up to {gpu.driver_cuda}" if gpu.driver_cuda else ""),
        f"- libraries: {', '.join(f'{name} {version}' for name, version in gpu.libraries.items()) or 'none found'}",
        f"- processor: {machine.cpu_model}, {machine.cores} cores; {machine.system}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in check.versions.items())}",
        f"- providers: {', '.join(check.providers)}"
        + "".join(f"; {name}={value}" for name, value in check.provider_options.items()),
        *(f"- {name} cannot start: {reason}" for name, reason in check.unavailable.items()),
        f"- {check.started}, {check.seconds:.0f} of {check.budget_seconds:g} s"
        + ("" if check.complete else "; NOT COMPLETE"),
    ]
    return "\n".join(lines)


def _placement(result: ArtifactResult, reasons: _Reasons) -> tuple[str, ...]:
    placed, parity = result.placed, result.parity
    if result.started:
        runs = "yes"
    elif result.failure is not None:
        runs = reasons.failure(result.failure)
        if result.expects_refusal and result.failure.kind == "PlacementRefused":
            runs += ", as expected"
    else:
        runs = "no"
    if parity is not None:
        shown = "NaN" if parity.max_rel is None else significant(parity.max_rel)
        compared = f"{'' if parity.within else 'FAILED: '}{shown} / {parity.tolerance:g}"
    else:
        compared = reasons.failure(result.parity_failure) if result.parity_failure else "-"
    return (
        result.name,
        result.provider,
        f"{', '.join(result.strategies)} ({result.precision})",
        runs,
        str(placed.recurrent) if placed else "-",
        ", ".join(f"{name.removesuffix('ExecutionProvider')} {count}" for name, count in placed.nodes.items())
        if placed
        else "-",
        str(placed.host) if placed else "-",
        compared,
    )


def _latencies(result: ArtifactResult, reasons: _Reasons) -> list[tuple[str, ...]]:
    rows = []
    for found in result.measurements:
        if found.subject in (GRAPH, RIVAL):
            continue
        graph = one_measurement(result, GRAPH, found.what, found.batch)
        rival = one_measurement(result, RIVAL, found.what, found.batch)
        if found.failure is not None:
            times_shown: tuple[str, ...] = (reasons.failure(found.failure), "-", "-", "-")
        else:
            rate = significant(found.throughput_per_s) if found.throughput_per_s else "-"
            times_shown = (_time(found.p50_ns), _time(found.p90_ns), _time(found.p99_ns), rate)
        rows.append(
            (
                result.name,
                result.provider,
                found.what,
                str(found.batch),
                *times_shown,
                _beside(graph, reasons),
                _beside(rival, reasons),
                times(rival.time_ratio.value) if rival and rival.time_ratio else "-",
            )
        )
    return rows


def _beside(found: Measurement | None, reasons: _Reasons) -> str:
    if found is None:
        return "-"
    if found.failure is not None:
        return reasons.failure(found.failure)
    notes = "".join(f" {reasons.number(note)}" for note in found.notes)
    return _time(found.p50_ns) + notes


def _time(time_ns: int | None) -> str:
    return "-" if time_ns is None else duration(time_ns)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    if not rows:
        return "none"
    return "\n".join([line(heads), line(["---"] * len(heads)), *(line(row) for row in rows)])
