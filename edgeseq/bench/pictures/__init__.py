"""The pictures of a benchmark, each in a light and a dark form; one module a picture, `canvas` what they share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeseq.bench.pictures.canvas import DARK, LIGHT, Theme, new_figure, rendered
from edgeseq.bench.pictures.drift import DRIFT
from edgeseq.bench.pictures.kind import Kind, View
from edgeseq.bench.pictures.latency import BARS, DISTRIBUTION
from edgeseq.bench.pictures.rivals import rivals_finding, rivals_picture
from edgeseq.bench.pictures.server import SERVER
from edgeseq.bench.pictures.speed import SPEED
from edgeseq.bench.pictures.start import COLD
from edgeseq.bench.pictures.throughput import THROUGHPUT
from edgeseq.bench.pictures.trade_off import TRADE_OFF
from edgeseq.bench.pictures.where import LAYERS

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "bars": BARS,
        "speed": SPEED,
        "distribution": DISTRIBUTION,
        "throughput": THROUGHPUT,
        "trade-off": TRADE_OFF,
        "layers": LAYERS,
        "cold-start": COLD,
        "server": SERVER,
        "drift": DRIFT,
    }
)
"""Every picture of a run, by the name that `save_picture` takes, in the order of the report."""

__all__ = [
    "DARK",
    "KINDS",
    "LIGHT",
    "Kind",
    "Theme",
    "View",
    "new_figure",
    "rendered",
    "rivals_finding",
    "rivals_picture",
]
