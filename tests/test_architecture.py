"""The rooms and what each may import, held against the code itself and against fresh interpreters."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import edgeseq

PACKAGE = Path(edgeseq.__file__).parent

# A room may import itself and the rooms in its row: one way, from the command line down to the runtime.
LEAVES = {"errors", "files"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "runtime": LEAVES,
    "lowering": {"runtime"} | LEAVES,
    "prediction": {"runtime"} | LEAVES,
    "parity": {"runtime", "lowering", "prediction"} | LEAVES,
    "bench": {"runtime", "lowering", "parity", "prediction", "arrays"} | LEAVES,
    "inspection": {"runtime", "prediction"} | LEAVES,
    "diagnosis": {"runtime", "bench"} | LEAVES,
    "compiling": {"runtime", "parity"} | LEAVES,
    "pictures": LEAVES,
    "arrays": {"runtime"} | LEAVES,
    "lines": LEAVES,
    "stepping": {"runtime", "arrays", "lines"} | LEAVES,
    "running": {"runtime", "arrays", "pictures", "lines", "stepping"} | LEAVES,
    "quantization": {"runtime", "lowering", "parity", "bench", "arrays"} | LEAVES,
    "conversion": {"runtime", "lowering", "parity", "bench", "quantization", "arrays"} | LEAVES,
    "recipes": {"runtime", "lowering", "parity", "bench", "quantization", "conversion", "arrays", "pictures"} | LEAVES,
}
# A Keras reference is opened through the one import that goes up, and only when a caller asks for it.
EXCEPTIONS = {("parity", "conversion")}

HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "typer", "rich", "matplotlib", "PIL", "h5py"}


def room_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module == "edgeseq" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "edgeseq" and len(parts) > 1:
                yield parts[1]


# The top may import everything.
BELOW_THE_TOP = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in ("cli", "__init__", "__main__"))


@pytest.mark.parametrize("path", BELOW_THE_TOP, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    room = room_of(path)
    rooms = {name for name in imported_rooms(path) if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}
    turned_back = {other for other in rooms - {room} - ALLOWED[room] if (room, other) not in EXCEPTIONS}
    assert not turned_back, f"{room} must not import {turned_back}"


def loaded_after(statement):
    code = f"{statement}\nimport sys\nprint(' '.join(sorted(name.split('.')[0] for name in sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("statement", "may_load"),
    [
        ("import edgeseq", set()),
        ("import edgeseq.runtime", set()),
        ("from edgeseq.runtime import Model", set()),
        ("import edgeseq.prediction", set()),
        ("import edgeseq.parity", set()),
        ("import edgeseq.bench", set()),
        ("import edgeseq.diagnosis", set()),
        ("import edgeseq.compiling", set()),
        ("import edgeseq.lowering", {"onnx", "onnx_ir"}),
        ("import edgeseq.inspection", {"onnx"}),
        ("import edgeseq.quantization", {"onnx", "onnx_ir"}),
        ("from edgeseq.recipes import RECIPES", set()),
    ],
)
def test_a_room_loads_no_more_than_its_extra_brings(statement, may_load):
    assert not (loaded_after(statement) & HEAVY) - may_load


def test_the_lazy_table_is_what_it_says():
    assert set(edgeseq.__all__) == {"__version__", *edgeseq._HOMES}
    for name, home in edgeseq._HOMES.items():
        assert callable(getattr(edgeseq, name))
        assert getattr(importlib.import_module(home), name) is getattr(edgeseq, name)


def test_no_public_function_shares_the_name_of_a_submodule():
    modules = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not modules & set(edgeseq._HOMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = edgeseq.exprot
