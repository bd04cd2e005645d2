"""Where the data sets are: a folder that is named, the usual places, a public loader, or an error that says more.

A data folder holds one folder a data set (`imdb/`, `ett/`, ...), as `_FILES` lists them.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeseq
from edgeseq.errors import DataUnavailable, MissingInput

CONNECT_SECONDS = 10.0
"""How long to wait for a public server's first answer."""
READ_SECONDS = 60.0
"""How long a download may stand still."""

_PUBLIC = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set: its files in a data folder, and where people get it."""

    name: str
    """Name of its folder."""
    files: tuple[str, ...]
    """The files that a recipe reads."""
    advice: str
    """Where to get it."""


_REVIEWS_FORM = "one JSON object a line with the fields text and label (0 or 1), gzipped"
DATA_SETS = {
    item.name: item
    for item in (
        DataSet(
            name="imdb",
            files=("train.jsonl.gz", "test.jsonl.gz"),
            advice=f"https://ai.stanford.edu/~amaas/data/sentiment/ has the reviews; make each file {_REVIEWS_FORM}",
        ),
        DataSet(
            name="series",
            files=("airline-passengers.csv", "daily-min-temperatures.csv"),
            advice="https://github.com/jbrownlee/Datasets has both files",
        ),
        DataSet(name="ett", files=("ETTh1.csv",), advice="https://github.com/zhouhaoyi/ETDataset has the file"),
        DataSet(
            name="japanese_vowels",
            files=("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts"),
            advice="https://timeseriesclassification.com/description.php?Dataset=JapaneseVowels has both files",
        ),
        DataSet(
            name="mnist",
            files=("t10k-images-idx3-ubyte.gz",),
            advice="https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz is the file",
        ),
    )
}


def locate(name: str, data: Path | None) -> Path | None:
    """The folder of the data set `name`, or None when it is in none of the usual places.

    `data`, when it is named, is the only place looked at. Otherwise the places are the environment variable
    EDGESEQ_DATA, and `../shared/data` as seen from the current folder and from the one that holds the package.
    Raises MissingInput when `data` or EDGESEQ_DATA is no folder, or `data` does not hold the data set.
    """
    if data is not None:
        if not data.is_dir():
            raise MissingInput(data, "data folder")
        for missing in _missing(name, data):
            raise MissingInput(missing, f"a file of the data set '{name}'", _advice(name))
        return data / name
    places = [folder / ".." / "shared" / "data" for folder in (Path.cwd(), Path(edgeseq.__file__).parents[1])]
    if named := os.environ.get("EDGESEQ_DATA"):
        if not Path(named).is_dir():
            raise MissingInput(named, "data folder named by EDGESEQ_DATA")
        places.insert(0, Path(named))
    return next((place.resolve() / name for place in places if not _missing(name, place)), None)


def require(name: str, data: Path | None) -> Path:
    """The folder of the data set `name`; raises DataUnavailable, saying where to get it, when it is nowhere."""
    folder = locate(name, data)
    if folder is None:
        raise unavailable(name, "it is not on this machine")
    return folder


def unavailable(name: str, reason: str) -> DataUnavailable:
    """The error for a data set that cannot be had, with where to get it."""
    return DataUnavailable(name, f"data set '{name}' is not available: {reason}. {_advice(name)}")


def load_public(name: str, files: tuple[str, ...], load: Callable[[], Any]) -> Any:
    """Call a Keras loader of the public data set `name`, which downloads `files` unless they are cached.

    Raises DataUnavailable after some seconds, rather than waiting, where the network does not answer.
    """
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
    if not all((cache / file).exists() for file in files):
        _check_reachable(name, _PUBLIC + files[0])
    try:
        # Keras prints its own progress of a download.
        with _read_timeout(READ_SECONDS), contextlib.redirect_stdout(io.StringIO()):
            return load()
    # Keras raises a bare Exception when a download fails.
    except Exception as error:
        raise unavailable(name, f"its public loader failed ({error})") from error


def _check_reachable(name: str, address: str) -> None:
    """Ask for the address in a thread that may be left behind: no time-out of Python's covers looking up a name."""
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
            outcome.append(None)
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not outcome:
        raise unavailable(name, f"{address} did not answer within {CONNECT_SECONDS:.0f} seconds")
    if outcome[0] is not None:
        raise unavailable(name, f"{address} cannot be reached ({outcome[0]})")


@contextlib.contextmanager
def _read_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _missing(name: str, data: Path) -> list[Path]:
    return [data / name / file for file in DATA_SETS[name].files if not (data / name / file).is_file()]


def _advice(name: str) -> str:
    files = ", ".join(f"{name}/{file}" for file in DATA_SETS[name].files)
    return f"{DATA_SETS[name].advice}; put {files} into a folder and name it (--data, or EDGESEQ_DATA)."
