"""Ctrl-C in a real process: exit code 130, a word on what is left, and no partial file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

# A signal from within, at the moment when the file is written but not yet in its place.
DURING_VERIFICATION = """
import os, time
import edgeseq.conversion
def verify(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
sys.modules["edgeseq.conversion.exporting"].verify = verify
"""


def test_interrupted_export_leaves_nothing(edgeseq_process: Any, made: Any, tmp_path: Path) -> None:
    process = edgeseq_process(["export", made.keras, "-o", tmp_path / "m.onnx"], before=DURING_VERIFICATION)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "interrupted: " in err
    assert "no partial file" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_interrupted_training_says_how_to_go_on(edgeseq_process: Any, tmp_path: Path) -> None:
    output = tmp_path / "m.keras"
    process = edgeseq_process(["train", "middle", "-o", output, "--epochs", 100_000])
    checkpoint = tmp_path / "m.checkpoint" / "state.npz"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "training stopped after epoch" in err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.checkpoint"]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["state.npz"]
