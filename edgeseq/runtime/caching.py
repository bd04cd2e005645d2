"""Where files go that can be made again: one folder a user, and names in it by content."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseq.errors import Unavailable
from edgeseq.files import StrPath, check_input
from edgeseq.runtime import wire

VARIABLE = "EDGESEQ_CACHE"
"""The environment variable that names another folder."""

_NAME = "edgeseq"


def cache_folder(platform: str = sys.platform) -> Path:
    """The user's cache folder of edgeseq; it need not exist yet.

    What EDGESEQ_CACHE names; else where caches belong on the system: LOCALAPPDATA on Windows, ~/Library/Caches on a
    Mac, and elsewhere XDG_CACHE_HOME or ~/.cache (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    home = Path.home()
    if platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / _NAME / "Cache"
    if platform == "darwin":
        return home / "Library" / "Caches" / _NAME
    xdg = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    # The specification has relative paths ignored.
    return (xdg if xdg.is_absolute() else home / ".cache") / _NAME


def make_folder(folder: Path) -> Path:
    """`folder`, made with its parents where it is not there. Raises Unavailable where the system does not let us."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"cannot make the cache folder {folder}: {error.strerror}. Name one that you may write to: {VARIABLE}"
        ) from error
    return folder


def key_of(ingredients: Mapping[str, Any]) -> str:
    """A name of 32 hexadecimal digits that changes with each of `ingredients`, which JSON must be able to hold."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def hash_model(path: StrPath) -> str:
    """SHA-256, in hexadecimal, of an ONNX file and of the files beside it that hold its weights.

    Raises MissingInput when one of them is not there, InvalidFile when it is not an ONNX model.
    """
    found = check_input(path)
    digest = hashlib.sha256()
    for part in (found, *(found.parent / name for name in sorted(wire.read_data_files(found)))):
        with check_input(part, "file of weights").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
