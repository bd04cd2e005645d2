"""The JSON documents that no other room has a dataclass for, and the table of what each command prints."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from edgeseq.bench.baseline import BaselineComparison
from edgeseq.bench.record import BenchmarkRun


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a command did not do what was asked."""

    type: str
    """Name of the error: a class of edgeseq.errors, ``UsageError`` for arguments that cannot be parsed,
    ``KeyboardInterrupt``, or the exception of a bug."""
    message: str
    """What went wrong, for people."""
    notes: tuple[str, ...]
    """Where it happened and what to do, for people."""
    exit_code: int
    """The exit code of the command."""
    details: dict[str, Any]
    """The error's own data, such as ``path``, ``provider``, ``layer`` or ``parity``."""


@dataclass(frozen=True, kw_only=True)
class ErrorDocument:
    """What any command prints with `--json` when it fails."""

    error: Failure
    """The only field: a document with the key ``error`` is no result."""


@dataclass(frozen=True, kw_only=True)
class OptionEntry:
    """One option of a recipe."""

    name: str
    """Keyword of `edgeseq.train`; with dashes for underscores it is the command line's."""
    type: str
    """``bool``, ``int``, ``float`` or ``str``."""
    default: bool | int | float | str
    """The value when it is not given."""
    choices: tuple[str, ...]
    """The values allowed; empty when any of the type is."""
    help: str
    """One line for people."""


@dataclass(frozen=True, kw_only=True)
class RecipeEntry:
    """One training recipe."""

    name: str
    """Its name at the command line."""
    summary: str
    """One line for people."""
    options: tuple[OptionEntry, ...]
    """Its own options."""


@dataclass(frozen=True, kw_only=True)
class RecipeList:
    """What `edgeseq train --list` prints."""

    recipes: tuple[RecipeEntry, ...]
    """In the order in which people see them."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun(BenchmarkRun):
    """A benchmark run held against a baseline: what `edgeseq bench --baseline` prints."""

    comparison: BaselineComparison
    """What became slower or faster."""

    @classmethod
    def of(cls, run: BenchmarkRun, comparison: BaselineComparison) -> ComparedRun:
        """`run` with its comparison."""
        return cls(**{field.name: getattr(run, field.name) for field in fields(run)}, comparison=comparison)


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """What `edgeseq report` prints."""

    path: str
    """The page that was written."""
    size_bytes: int
    """Its size."""
    results: tuple[str, ...]
    """The files of results on it."""
