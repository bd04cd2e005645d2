"""Environments of their own, with the real onnxruntime packages; made once in .environments and kept there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".environments"
SOURCES = Path(__file__).parent / "pretended_gpu"

# What pip installs into each, one command after the other.
PACKAGES = {
    "cpu": [".[cpu,cli]"],
    "gpu": [".[cli]", "onnxruntime-gpu>=1.22,<2"],  # without CUDA's and cuDNN's libraries
    "gpu-libraries": [".[gpu,cli]"],
    "both": [".[cpu,cli]", "onnxruntime-gpu>=1.22,<2"],
    "openvino": [".[cli]", "onnxruntime-openvino>=1.24,<2"],  # a second provider that computes without a GPU
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


@pytest.fixture(scope="session")
def pretended_driver(tmp_path_factory: Any) -> Path:
    """A folder with a libcuda.so.1 that answers what the environment variables DRIVER_* say."""
    folder: Path = tmp_path_factory.mktemp("driver")
    _compile(folder / "libcuda.so.1", SOURCES / "driver.c")
    return folder


@pytest.fixture(scope="session")
def place_on_cuda(
    environment: Callable[[str], Environment], tmp_path_factory: Any
) -> Callable[[Sequence[Path]], dict[Path, list[tuple[str, str, str]]]]:
    """Asks the real CUDA provider, on a GPU that is pretended, where it places the nodes of files: it has no need to
    compute for that. Answers name, op type and provider of every node; a file that it refuses is left out.
    """
    python = environment("gpu-libraries").python
    command = [sys.executable, SOURCES / "build.py", tmp_path_factory.mktemp("gpu"), python]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode == 3:
        pytest.skip(built.stderr)
    assert built.returncode == 0, built.stderr
    variables = json.loads(built.stdout)

    def place(paths: Sequence[Path]) -> dict[Path, list[tuple[str, str, str]]]:
        command = [python, SOURCES / "place.py", *paths]
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)
        assert ran.returncode == 0, ran.stderr
        found = {Path(path): nodes for path, nodes in json.loads(ran.stdout).items()}
        return {path: [tuple(node) for node in nodes] for path, nodes in found.items() if nodes is not None}

    return place


def _compile(target: Path, source: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to pretend a GPU with")
    subprocess.run([compiler, "-w", "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", target, source], check=True)
