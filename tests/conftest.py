"""What every test may use. Real data is read in place; a test that needs a missing file skips and names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# TensorFlow's own log lines would drown the test report.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets (imdb/, cmapss/, ett/, japanese_vowels/, mnist/, series/)."""
    folder = Path(os.environ.get("EDGESEQ_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder} (set EDGESEQ_DATA to a folder that has it)")
    return folder
