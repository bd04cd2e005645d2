"""What the room needs to be imported, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_quantizing_loads_neither_tensorflow_nor_the_command_line() -> None:
    banned = ["tensorflow", "keras", "tf2onnx", "typer", "rich", "matplotlib"]
    code = f"import sys, edgeseq; edgeseq.quantize; print([name for name in {banned} if name in sys.modules])"
    assert _python(code) == "[]"


@pytest.mark.parametrize(("package", "extra"), [("onnx", "quantize"), ("onnxruntime", "cpu")])
def test_a_missing_package_names_the_extra_that_brings_it(package: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
import edgeseq, edgeseq.errors
try:
    edgeseq.quantize
except edgeseq.errors.MissingExtra as error:
    print(error)
"""
    assert _python(code) == (
        f"quantizing a model needs the package '{package}', which is not installed. "
        f"Install it with: pip install 'edgeseq[{extra}]'"
    )
