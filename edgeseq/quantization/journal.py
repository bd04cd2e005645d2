"""What a search has measured so far, in a file beside the output, so that an interrupted one goes on where it was."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq import files
from edgeseq.errors import InvalidFile, NegativeResult, OutputExists, WrongUsage
from edgeseq.quantization.samples import Array, Feed
from edgeseq.quantization.search import Tried
from edgeseq.runtime import document

_SCHEMA = "edgeseq unfinished search"
_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The file."""

    identity: Mapping[str, Any]
    """All that the measurements depend on."""
    threads: int
    """Threads that they were made with."""
    tried: tuple[Tried, ...]
    """The measurements."""
    schema: str = _SCHEMA
    """What kind of document this is."""
    schema_version: int = _SCHEMA_VERSION
    """Version of its format."""


class Journal:
    """The measurements of a search, written after each one."""

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path = path
        self.note = ""
        self.threads: int | None = None
        self.known: tuple[Tried, ...] = ()
        # As it will be read back: tuples become lists.
        self._identity = json.loads(json.dumps(identity))
        found = _read(path)
        if found is None:
            return
        differ = [name for name in self._identity if found.identity.get(name) != self._identity[name]]
        if differ:
            self.note = (
                f"An interrupted search's measurements in {path.name} were not used, because they were made with "
                f"another {', '.join(differ)}."
            )
            return
        self.threads, self.known = found.threads, found.tried
        self.note = f"{len(self.known)} measurement(s) were taken from an interrupted search."

    def begin(self, threads: int) -> None:
        """Say with how many threads is measured."""
        self.threads = threads

    def tell(self, tried: Tried) -> None:
        """Keep one more measurement."""
        assert self.threads is not None
        self.known = (*self.known, _finite(tried))
        content = _Document(identity=self._identity, threads=self.threads, tried=self.known)
        files.write_json(self.path, dataclasses.asdict(content))


@contextlib.contextmanager
def journal_beside(output: Path, identity: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of the search for `output`. It stays when the search is interrupted or crashes, else it goes.

    Raises WrongUsage when what is in its place is something else.
    """
    journal = Journal(journal_path(output), identity)
    try:
        yield journal
    except OutputExists:
        # Somebody put it there meanwhile: with another name the search need not begin again.
        raise
    except (NegativeResult, WrongUsage):
        # Run again, it would come to the same.
        journal.path.unlink(missing_ok=True)
        raise
    except KeyboardInterrupt as interrupt:
        if journal.path.exists():
            interrupt.add_note(
                f"{len(journal.known)} measurement(s) are kept in {journal.path}: run the same command again, and the "
                "search goes on where it stopped"
            )
        raise
    journal.path.unlink(missing_ok=True)


def journal_path(output: Path) -> Path:
    """Where the journal of the search for `output` lies."""
    return output.with_name(f"{output.name}.search.json")


def hash_of_samples(feeds: Sequence[Feed], labels: Array | None) -> str:
    """SHA-256 of the samples and labels, in hexadecimal."""
    found = hashlib.sha256()
    named = [item for feed in feeds for item in sorted(feed.items())]
    for name, array in [*named, *([("labels", labels)] if labels is not None else [])]:
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _read(path: Path) -> _Document | None:
    """The journal; None when there is none, or one of another version."""
    if not path.exists():
        return None
    taken = WrongUsage(
        f"{path} is in the place of the search's own measurements and holds something else. Move it away, or give the "
        "output another name"
    )
    try:
        content = files.read_json(path)
    except InvalidFile as error:
        raise taken from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise taken
    if content.get("schema_version") != _SCHEMA_VERSION:
        return None
    try:
        return document.read(_Document, content)
    except ValueError as error:
        raise taken from error


def _finite(tried: Tried) -> Tried:
    """The measurement as JSON can hold it: without the quality of answers that are no numbers."""
    if tried.quality is None or math.isfinite(tried.quality.error):
        return tried
    return dataclasses.replace(tried, quality=None)
