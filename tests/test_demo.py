"""The demo on `middle`, which needs no data: every command a user types, one after another."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgeseq.bench import read_run
from edgeseq.cli.console import console

DEMO = Path(__file__).resolve().parents[1] / "scripts" / "demo.py"


@pytest.mark.slow
def test_the_demo_runs_from_training_to_report(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    import sys

    demo.Demo(tmp_path, console(sys.stdout)).middle()
    out = capsys.readouterr().out
    assert "The middle of 13, 14, 15 is 14." in out or "The middle of 13, 14, 15 is 13.9" in out
    assert [result.name for result in read_run(tmp_path / "bench.json").results] == [
        "Keras predict",
        "Keras export",
        "middle.onnx",
        "middle-int8.onnx",
    ]
    for name in ("report.html", "middle.curves.png", "latency-light.png", "latency-dark.png", "middle.golden"):
        assert (tmp_path / name).exists()
