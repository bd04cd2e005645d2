"""One small data folder for all tests of recipes: real files' forms, a few samples each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest


def _reviews(path: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for index in range(count):
            label = index % 2
            words = random.choice(["good", "great"] if label else ["bad", "awful"], 12)
            file.write(json.dumps({"text": " ".join(words) + ", a film!", "label": label}) + "\n")


def _series(path: Path, rows: int, columns: int) -> None:
    time = np.arange(rows)[:, None]
    values = 20 + 5 * np.sin(time / 7 + np.arange(columns))
    heading = ",".join(["date", *(f"c{column}" for column in range(columns))])
    lines = [f"d{index}," + ",".join(f"{value:.6f}" for value in row) for index, row in enumerate(values)]
    path.write_text("\n".join([heading, *lines]) + "\n")


def _sequences(path: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = ["# made for tests", "@problemName small", "@classLabel true 1 2", "@data"]
    for index in range(count):
        steps = random.integers(3, 8)
        channels = random.normal(1 + index % 2, 0.3, (3, steps))
        lines.append(":".join(",".join(f"{v:.4f}" for v in channel) for channel in channels) + f":{index % 2 + 1}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which every recipe finds its files, small enough to train on in a second."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("imdb", "series", "ett", "japanese_vowels", "mnist"):
        (folder / name).mkdir()
    _reviews(folder / "imdb" / "train.jsonl.gz", 60, 0)
    _reviews(folder / "imdb" / "test.jsonl.gz", 20, 1)
    _series(folder / "series" / "airline-passengers.csv", 120, 1)
    _series(folder / "series" / "daily-min-temperatures.csv", 200, 1)
    _series(folder / "ett" / "ETTh1.csv", 200, 7)
    _sequences(folder / "japanese_vowels" / "JapaneseVowels_TRAIN.ts", 40, 0)
    _sequences(folder / "japanese_vowels" / "JapaneseVowels_TEST.ts", 20, 1)
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    header = b"\x00\x00\x08\x03" + np.array([50, 28, 28], ">i4").tobytes()
    with gzip.open(folder / "mnist" / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + images.tobytes())
    return folder
