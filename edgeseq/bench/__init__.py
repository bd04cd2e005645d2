"""Measuring: latency with intervals, subjects side by side, the record, the report.

Each name loads its module on first use, so that what needs numpy alone works with numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Section": "report",
    "ServerSettings": "server",
    "Settings": "sample",
    "Subject": "subjects",
    "benchmark": "run",
    "compare_to_baseline": "baseline",
    "file_subjects": "subjects",
    "plan": "scenarios",
    "read_run": "record",
    "run_benchmark": "run",
    "save_picture": "report",
    "write_report": "report",
    "write_run": "record",
}

__all__ = [
    "Section",
    "ServerSettings",
    "Settings",
    "Subject",
    "benchmark",
    "compare_to_baseline",
    "file_subjects",
    "plan",
    "read_run",
    "run_benchmark",
    "save_picture",
    "write_report",
    "write_run",
]

if TYPE_CHECKING:
    from edgeseq.bench.baseline import compare_to_baseline
    from edgeseq.bench.record import read_run, write_run
    from edgeseq.bench.report import Section, save_picture, write_report
    from edgeseq.bench.run import benchmark, run_benchmark
    from edgeseq.bench.sample import Settings
    from edgeseq.bench.scenarios import plan
    from edgeseq.bench.server import ServerSettings
    from edgeseq.bench.subjects import Subject, file_subjects


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeseq.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgeseq.bench.{_HOMES[name]}"), name)
