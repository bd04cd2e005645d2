"""Environments of their own, with the real onnxruntime packages; made once in .environments and kept there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".environments"

# What pip installs into each, one command after the other.
PACKAGES = {
    "cpu": [".[cpu,cli]"],
    "gpu": [".[cli]", "onnxruntime-gpu>=1.22,<2"],  # without CUDA's and cuDNN's libraries
    "gpu-libraries": [".[gpu,cli]"],
    "both": [".[cpu,cli]", "onnxruntime-gpu>=1.22,<2"],
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with edgeseq in it."""

    python: Path

    def edgeseq(self, *arguments: object, variables: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Exit code and document of an edgeseq command."""
        command = [self.python, "-m", "edgeseq", *map(str, arguments), "--json"]
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=FOLDER, env={**os.environ, **(variables or {})}, check=False
        )
        return ran.returncode, json.loads(ran.stdout)


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Environment]:
    """Makes the environment of a name in `PACKAGES`, where it is not there yet."""

    def make(name: str) -> Environment:
        folder = FOLDER / name
        python, done = folder / "bin" / "python", folder / "done"
        if not done.is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            for requirement in PACKAGES[name]:
                pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                # As it is in the repository, so that the code under test is what runs.
                editable = ["--editable", requirement] if requirement.startswith(".") else [requirement]
                subprocess.run([*pip, *editable], cwd=REPOSITORY, check=True)
            done.touch()
        return Environment(python)

    return make
