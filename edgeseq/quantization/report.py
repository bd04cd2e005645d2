"""What `edgeseq.quantize` returns: data, printed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """Time of one call of the fp32 file over the time of another form, measured in turns."""

    value: float
    """Above 1 the other form is faster."""
    low: float | None
    """Lower end of the 95 % interval; None where there were too few rounds to say."""
    high: float | None
    """Upper end of the 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class CandidateReport:
    """One form tried on one layer, alone in the fp32 file."""

    name: str
    """Name of the candidate, such as ``dynamic-int8`` or ``int8-weights``."""
    rows_independent: bool
    """Whether a row's answer is the same whatever rows and steps run beside it."""
    verdict: str
    """``chosen``, ``not chosen`` (it fits, another is better), ``reverted`` (it fits alone, not with the others), or
    ``declined``."""
    reason: str
    """Why, in words."""
    error: float | None
    """Relative RMS error against fp32 on the rows that choose; None where it was not measured or not finite."""
    drop: float | None
    """By how much the metric gets worse, in its own unit; None without a metric."""
    speed: SpeedRatio | None
    """Speed of the whole file against fp32; None where it was not measured."""
    size_bytes: int | None
    """Size of the whole file with this change alone."""


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer of the file."""

    name: str
    """Name of its first ONNX node; in files that edgeseq exported it begins with the Keras layer's name."""
    op_type: str
    """ONNX op type."""
    nodes: int
    """Number of nodes that share the layer's weights."""
    weight_bytes: int
    """Bytes of its weights in the fp32 file."""
    chosen: str
    """Name of the chosen candidate, or ``fp32``."""
    candidates: tuple[CandidateReport, ...]
    """What was tried; empty where the weights are too small to gain anything."""


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was quantized, what that cost and what it gained."""

    path: str
    """The file that was written."""
    source_path: str
    """The fp32 file."""
    quantized: bool
    """False when nothing helped, and the written file is the fp32 file."""
    size_bytes: int
    """Size of the written file."""
    source_size_bytes: int
    """Size of the fp32 file."""
    error: float | None
    """Relative RMS error against fp32, of the worst output, on the rows that chose; None for a plan without samples."""
    held_out_error: float | None
    """The same on the held-out rows; None when there were too few rows to hold any out."""
    max_error: float | None
    """The budget for `error`; None when only the metric counts."""
    metric: str | None
    """Name of the metric; None without labels."""
    metric_before: float | None
    """The metric of the fp32 file on the rows that chose."""
    metric_after: float | None
    """The metric of the written file on the rows that chose."""
    held_out_metric_before: float | None
    """The metric of the fp32 file on the held-out rows."""
    held_out_metric_after: float | None
    """The metric of the written file on the held-out rows."""
    max_drop: float | None
    """The budget for how much the metric may get worse."""
    target: str
    """The provider that the file is for."""
    goal: str
    """What gain counted: ``balanced``, ``latency`` or ``size``."""
    max_size_bytes: int | None
    """The limit of the file's size."""
    max_latency_ms: float | None
    """The limit of one call's time, in milliseconds."""
    speed: SpeedRatio | None
    """Speed of the written file against fp32, each with the threads that suit it; None when it is the fp32 file, or a
    plan was used without measuring."""
    latency_ms: float | None
    """Time of one call of the written file, in milliseconds; None when it was not measured."""
    source_latency_ms: float | None
    """Time of one call of the fp32 file, in milliseconds; None when it was not measured."""
    batch: int
    """Rows of a call that was timed."""
    threads: int
    """Threads that suit a call of the written file, recorded in its manifest; 0 means all cores."""
    source_threads: int | None
    """Threads that suit a call of the fp32 file, and that candidates were measured with; None when nothing was
    measured."""
    rows: int
    """Rows of the samples that were used."""
    held_out_rows: int
    """How many of them were held out."""
    rows_independent: bool
    """Whether a row's answer is the same whatever rows and steps run beside it."""
    tolerance: float | None
    """The tolerance in the written file's manifest; None when the file has no manifest."""
    layers: tuple[LayerReport, ...]
    """Every layer, in graph order."""
    plan: str | None
    """The plan that was used; None when this was a search."""
    saved_plan: str | None
    """The file that the plan was written to."""
    pages: tuple[str, ...]
    """Pages and pictures of the search that were written."""
    seconds: float
    """How long all of it took."""
    notes: tuple[str, ...]
    """What else the user should know."""
