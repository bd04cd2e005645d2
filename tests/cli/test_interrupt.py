"""Ctrl-C in a real process: exit code 130, a word on what is left, and no partial file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


# Before the command has begun, and when Python is about to end.
AT_THE_BEGINNING = """
import os
class Finder:
    def find_spec(self, name, *_):
        if name == "edgeseq.cli.boundary":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
AT_THE_END = """
import atexit, os
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
"""


@pytest.mark.parametrize("before", [AT_THE_BEGINNING, AT_THE_END], ids=["beginning", "end"])
def test_an_interrupt_at_the_edges_shows_no_traceback(before: str, edgeseq_process: Any) -> None:
    process = edgeseq_process(["--version"], before=before)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err == ("interrupted\n" if before is AT_THE_BEGINNING else "")


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


# When one candidate has been measured.
DURING_THE_SEARCH = """
import os, time
import edgeseq.quantization.journal as journal
tell = journal.Journal.tell
def stop(self, tried):
    tell(self, tried)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
journal.Journal.tell = stop
"""


def test_interrupted_search_says_how_to_go_on(
    edgeseq_process: Any, edgeseq_command: Any, save_searchable: Path, tmp_path: Path
) -> None:
    arguments = ["quantize", save_searchable, "-o", tmp_path / "q.onnx", "--threads", 1]
    arguments += ["--samples", save_searchable.with_suffix(".npy")]
    process = edgeseq_process(arguments, before=DURING_THE_SEARCH)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "1 measurement(s) are kept in " in err
    assert "run the same command again" in err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("q")] == ["q.onnx.search.json"]
    again = edgeseq_command(*arguments, "--json")
    assert again.code == 0
    assert "1 measurement(s) were taken from an interrupted search." in again.out
    assert not (tmp_path / "q.onnx.search.json").exists()


@pytest.fixture
def save_searchable(tmp_path: Path) -> Path:
    """One MatMul that is large enough to have forms, with samples beside it."""
    onnx = pytest.importorskip("onnx")
    random = np.random.default_rng(0)
    kernel = onnx.numpy_helper.from_array(random.standard_normal((32, 32)).astype(np.float32), "B")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 32]) for name in "xy")
    node = onnx.helper.make_node("MatMul", ["x", "B"], ["y"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y], [kernel]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "m.npy", random.standard_normal((16, 32)).astype(np.float32))
    return tmp_path / "m.onnx"
