"""What a check found, as it is written to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseq.bench.machine import Machine
from edgeseq.bench.stats import Ratio

SCHEMA = "edgeseq.gpu-check"
SCHEMA_VERSION = 1

EDGESEQ, GRAPH, RIVAL = "edgeseq", "edgeseq, CUDA graph", "Keras export"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why something did not work."""

    kind: str
    """Name of the error's type, such as ``PlacementRefused``; ``NotRun`` where the time was used up."""
    message: str
    """What it said, on one line."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where the nodes of a model ran, by the profile of its first call."""

    nodes: Mapping[str, int]
    """Number of nodes by onnxruntime's name of the provider. A provider that compiles a subgraph shows it as one."""
    recurrent: int
    """Number of nodes of the recurrent layers that ran on the provider asked for."""
    fallen: tuple[str, ...]
    """Floating-point nodes that ran elsewhere: op type and name."""
    host: int
    """Number of integer and Boolean nodes that onnxruntime kept elsewhere: arithmetic on shapes and lengths."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The distance from Keras's golden answers, the worst output's."""

    max_rel: float | None
    """Largest absolute difference over max(1, largest answer); None for NaN."""
    tolerance: float
    """What it may be."""
    within: bool
    """Whether every output is within it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The latency of one way to run a model."""

    subject: str
    """``edgeseq``, ``edgeseq, CUDA graph`` or ``Keras export``."""
    what: str
    """``call`` for whole sequences, ``step`` for one step of a stream that keeps its state."""
    batch: int
    """Rows of a call."""
    time_steps: int | None
    """Length of the time axis."""
    count: int = 0
    """Number of timed calls."""
    p50_ns: int | None = None
    """Median time of a call; None where nothing was measured, or too little (11 calls)."""
    p90_ns: int | None = None
    """90th percentile; None with fewer than 64 calls."""
    p99_ns: int | None = None
    """99th percentile; None with fewer than 662 calls."""
    throughput_per_s: float | None = None
    """Rows a second, calls one after the other."""
    time_ratio: Ratio | None = None
    """Its time / that of ``edgeseq``, the calls of both taken in turns: above 1 it is the slower one. None for
    ``edgeseq`` itself."""
    max_abs: float | None = None
    """Largest difference from the answers of ``edgeseq`` to the same inputs; None where not compared."""
    notes: tuple[str, ...] = ()
    """What fell back to another provider, where that was allowed."""
    failure: Failure | None = None
    """Why there is no measurement."""


@dataclass(frozen=True, kw_only=True)
class ArtifactResult:
    """One model on one provider."""

    name: str
    """Name of the model in the set."""
    provider: str
    """The provider asked for, alone."""
    strategies: tuple[str, ...]
    """How its recurrent layers were lowered."""
    precision: str
    """``fp32`` or ``fp16``."""
    expects_refusal: bool
    """Whether this provider is expected to refuse it."""
    expects_speedup: bool
    """Whether ten times the speed of Keras's export is expected: fused ops against Loops."""
    started: bool = False
    """Whether it was opened and answered with every floating-point node on the provider."""
    failure: Failure | None = None
    """Why it was not."""
    placed: Placed | None = None
    """Where its nodes ran; None where it never ran, and on the CPU, where there is nothing to prove."""
    parity: Parity | None = None
    """How near its answers are to Keras's; None where it did not run, or `parity_failure` says why."""
    parity_failure: Failure | None = None
    """Why its answers were not compared."""
    measurements: tuple[Measurement, ...] = ()
    """Latencies."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Something the set is meant to show, judged."""

    name: str
    """What is expected."""
    verdict: str
    """``met``, ``not met`` or ``not run``."""
    detail: str
    """On what this rests."""


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """The GPU and its software."""

    devices: tuple[str, ...]
    """Names of the GPUs."""
    driver: str | None
    """Version of the kernel's driver; None where there is none."""
    driver_cuda: str | None
    """The newest CUDA that the driver runs."""
    libraries: Mapping[str, str]
    """Version of each of NVIDIA's libraries that could be asked."""
    error: str | None
    """Why no GPU can be used; None when one can."""


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """A whole check."""

    results: tuple[ArtifactResult, ...]
    """One a model and provider, in the order they were checked."""
    expectations: tuple[Expectation, ...]
    """What was expected of them, judged."""
    unavailable: Mapping[str, str]
    """Providers asked for that could not start, and why."""
    machine: Machine
    """The processor and the system."""
    gpu: GpuFacts
    """The GPU and its software."""
    versions: Mapping[str, str]
    """Versions of edgeseq, Python and the packages that matter."""
    providers: tuple[str, ...]
    """Providers asked for."""
    provider_options: Mapping[str, str]
    """What they were told. All is measured with TF32 off, unless NVIDIA_TF32_OVERRIDE says otherwise."""
    budget_seconds: float
    """The time that was given."""
    seconds: float
    """The time that it took."""
    started: str
    """When it began: date and time in UTC, ISO 8601."""
    complete: bool
    """False in what is written along the way."""
    schema: str = SCHEMA
    """What kind of document this is."""
    schema_version: int = SCHEMA_VERSION
    """Version of its format."""

    @property
    def exit_code(self) -> int:
        """1 when an expectation is not met, else 3 when a provider asked for could not start, else 0."""
        if any(one.verdict == "not met" for one in self.expectations):
            return 1
        return 3 if self.unavailable else 0
