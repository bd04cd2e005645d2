"""What importing the runtime loads, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

HEAVY = ["tensorflow", "keras", "tf2onnx", "onnx", "typer", "rich", "matplotlib", "PIL"]


def loaded(code: str) -> list[str]:
    """Top-level modules after running `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_importing_loads_numpy_and_nothing_heavy():
    modules = loaded("import edgeseq.runtime")
    assert "numpy" in modules
    assert not {*HEAVY, "onnxruntime"} & set(modules)


def test_running_a_model_loads_onnxruntime_and_nothing_else_heavy(make_lstm: Callable[..., Any]):
    path = str(make_lstm(streaming=True).path)
    modules = loaded(
        f"import numpy; from edgeseq.runtime import Model; model = Model({path!r})\n"
        "model(numpy.zeros((1, 2, 3))); model.stream().step(numpy.zeros((1, 2, 3)))"
    )
    assert "onnxruntime" in modules
    assert not set(HEAVY) & set(modules)


def test_the_runtime_imports_no_other_room():
    code = "import edgeseq.runtime, sys; print(sorted(m for m in sys.modules if m.startswith('edgeseq')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = ("edgeseq'", "edgeseq.errors'", "edgeseq.files'", "edgeseq.runtime")
    assert all(name.strip(" ['").startswith("edgeseq") for name in done.stdout.strip().split(","))
    assert all(any(a in name for a in allowed) for name in done.stdout.strip().split(",")), done.stdout
