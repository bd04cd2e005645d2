"""One small Keras model and its exports for all tests of the command line, and a way to run a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import edgeseq
from edgeseq.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((REPOSITORY / "edgeseq" / "schema.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def document(self, command: str) -> Any:
        """The one JSON document on stdout, which must fit the schema of `command`."""
        found = json.loads(self.out)
        assert command in SCHEMA["commands"]
        jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/commands/{command}"}).validate(found)
        return found


@pytest.fixture(autouse=True)
def _width_of_no_terminal(monkeypatch):
    """pytest-xdist gives its workers 80 columns, whatever the terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def edgeseq_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs a command in this process through the console script's own function."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def edgeseq_process() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a process of its own, with no terminal; `before` is Python to run first."""

    def start(arguments: Sequence[object], *, before: str = "") -> subprocess.Popen[str]:
        program = (
            "import signal, sys\n"
            # Ctrl-C must interrupt also where the tests were started in the background, which ignores it.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"{before}\n"
            "from edgeseq.__main__ import main\n"
            "sys.exit(main())\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    return start


@dataclass(frozen=True)
class Files:
    """Files made once; tests read them only."""

    folder: Path
    keras: Path
    """LSTM 4 with sequences, GRU 3, Dense 2; input (batch, time, 3)."""
    onnx: Path
    """Its export, with golden samples."""
    streaming: Path
    """Its export with states."""
    samples: Path
    """.npz of 16 rows and 12 steps."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    keras = pytest.importorskip("keras")
    folder = tmp_path_factory.mktemp("cli")
    files = Files(
        folder=folder,
        keras=folder / "model.keras",
        onnx=folder / "model.onnx",
        streaming=folder / "streaming.onnx",
        samples=folder / "samples.npz",
    )
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, 3), name="x")
    sequence = keras.layers.LSTM(4, return_sequences=True, name="lstm")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="y")(keras.layers.GRU(3, name="gru")(sequence)))
    model.save(files.keras)
    edgeseq.export(files.keras, files.onnx)
    stepwise = keras.Model(inputs, keras.layers.Dense(2, name="y")(sequence))
    edgeseq.export(stepwise, files.streaming, streaming=True)
    np.savez(files.samples, x=np.random.default_rng(0).standard_normal((16, 12, 3)).astype(np.float32))
    return files
