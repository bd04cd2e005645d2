"""What can be measured: anything callable, described. Made here from ONNX files, run as an application runs them."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgeseq.bench.inputs import check_counts, find_inputs, given_inputs, rows_of
from edgeseq.bench.lengths import Cycle, FileLengths, LengthFacts, length_inputs, read_lengths
from edgeseq.bench.scenarios import given_batch
from edgeseq.bench.units import plural, threads_text
from edgeseq.errors import EdgeseqError, WrongUsage
from edgeseq.files import StrPath
from edgeseq.prediction import surprises
from edgeseq.runtime import Model, structure, wire
from edgeseq.runtime.manifest import Manifest, TensorSpec, load_manifest
from edgeseq.runtime.providers import SHORT_NAMES, spelled
from edgeseq.runtime.ranges import GivenRanges, choose_ranges

_MOST_THREADS_A_CORE = 4
"""More share a core only by mistake: some more than there are cores may be what is to be measured."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to measure: `call` does the work once and returns the answers, or `error` says why it cannot."""

    name: str
    """Unique in a run."""
    call: Callable[[], object] | None
    """Takes nothing, returns the answers (arrays, nested as they may be); None when `error` is set."""
    fed: Any = None
    """What it is fed (in its first call, where a cycle is fed), nested as its model takes it, to feed a rival the same;
    None where that is not told."""
    feeds: tuple[Any, ...] = ()
    """All that it is fed in turn, each like `fed`, which is the first; empty where that is not told."""
    cycle: int = 1
    """How many inputs the calls go through in turn: only whole cycles are comparable."""
    model: str = ""
    """What is measured, without batch and threads; empty: `name`."""
    path: Path | None = None
    """The ONNX file; None where it has none."""
    provider: str = "cpu"
    """Where it runs."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """What the provider was told."""
    ranges: GivenRanges | None = None
    """The lengths that TensorRT's engine was built for; None elsewhere."""
    threads: int | None = None
    """Threads within an op; 0 means all cores, None that the subject's library decides."""
    batch: int = 1
    """Rows of a call."""
    time_steps: int | None = None
    """Length of the time axis, the longest of a cycle; None where there is none."""
    inputs: str = "given"
    """Where the inputs came from: ``golden``, ``made`` or ``given``."""
    lengths: LengthFacts | None = None
    """The lengths of its sequences, where they came from a file."""
    size_bytes: int | None = None
    """Size of the model on disk; None where it has no file."""
    file_sha256: str | None = None
    """SHA-256 of the file in hexadecimal; None where it has no file."""
    error: str | None = None
    """Why it cannot be measured; None when it can."""
    ran_on: Callable[[], tuple[str, ...]] = tuple
    """onnxruntime's names of the providers that ran it."""
    notes: Callable[[], tuple[str, ...]] = tuple
    """What to tell of it after it ran: what fell back to another provider, or ran elsewhere than predicted."""


def file_subject(
    model: StrPath,
    *,
    name: str | None = None,
    provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int | None = None,
    batch: int | None = None,
    time_steps: int | None = None,
    inputs: Any = None,
    lengths: StrPath | None = None,
    seed: int = 0,
) -> Subject:
    """A subject that runs an ONNX file, ours or any other, through `edgeseq.runtime.Model`, its checks included.

    `ranges` are as for `edgeseq.runtime.Model`; for TensorRT, without them, what `batch` and `time_steps` need.
    `threads` None takes the file's advice for the batch. `inputs` are what the model takes, or arrays by input name:
    one batch as it is. None takes the golden samples beside the file, else makes some from `seed`, of `batch` rows
    (None: 1): see `edgeseq.bench.inputs.find_inputs`. `lengths` is a file of lengths, for a cycle of inputs that has
    them: see `edgeseq.bench.lengths`. `name` None takes the file's name.

    Raises MissingInput, InvalidFile, ProviderUnavailable, WrongUsage, MissingExtra.
    """
    [subject] = file_subjects(
        [model],
        providers=[provider],
        provider_options=provider_options,
        ranges=ranges,
        threads=threads,
        batch=batch,
        time_steps=time_steps,
        inputs=inputs,
        lengths=lengths,
        seed=seed,
    )
    return subject if name is None else replace(subject, name=name, model=name)


def file_subjects(
    models: Sequence[StrPath],
    *,
    providers: Sequence[str] = ("cpu",),
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: Sequence[int | None] | int | None = None,
    batch: Sequence[int] | int | None = None,
    time_steps: int | None = None,
    inputs: Any = None,
    lengths: StrPath | None = None,
    sort_rows: bool = False,
    seed: int = 0,
) -> tuple[Subject, ...]:
    """A subject for every file on every provider with every batch and number of threads, in that order.

    Those that take the same inputs are fed the same. Names are the files', with their folder where two files share a
    name, and with the provider, batch and threads where there are several: ``imdb.onnx (cpu), batch 32, all threads``.
    `provider_options` go to all providers but the CPU, which takes none, and `ranges` to TensorRT. `sort_rows` puts
    rows of like `lengths` into one batch, as offline work can. Otherwise as `file_subject`.
    """
    if not models or not providers:
        raise WrongUsage("there is nothing to measure: give at least one ONNX file and one provider")
    batches = () if batch is None else _several(batch, "batch")
    counts = _several(threads, "number of threads")
    check_threads(counts)
    providers = [spelled(provider) for provider in providers]
    source = None if lengths is None else _path(lengths, "the file of lengths")
    chooser = _Chooser(time_steps=time_steps, lengths=source, sort_rows=sort_rows, seed=seed)
    if inputs is not None:
        if lengths is not None or time_steps is not None:
            raise WrongUsage("inputs have lengths of their own: give inputs, lengths or time_steps, one of them alone")
        batches = given_batch(batches, rows_of(inputs))
    batches = batches or (1,)
    for rows in batches:
        check_counts(batch=rows, time_steps=time_steps)
    paths = [_path(model, "a model") for model in models]
    plain = [path.name for path in paths]
    names = [path.name if plain.count(path.name) == 1 else str(Path(path.parent.name) / path.name) for path in paths]
    subjects = []
    for path, file_name in zip(paths, names, strict=True):
        for provider in providers:
            options = None if provider == "cpu" and len(providers) > 1 else provider_options
            given = ranges if _on_tensorrt(provider) or not any(map(_on_tensorrt, providers)) else None
            if not given and inputs is None and _on_tensorrt(provider):
                given = _ranges(path, [partial(chooser.find, path, batch=rows) for rows in batches])
            opener = _Opener(path, provider, options, given)
            name = f"{file_name} ({provider})" if len(providers) > 1 else file_name
            for rows in batches:
                for count in counts:
                    opened = opener.open(count, rows)
                    if inputs is None:
                        found = chooser.find(path, opened.manifest, batch=rows)
                    else:
                        found = Cycle(inputs=(given_inputs(opened.feed.by_name(inputs), opened.manifest),))
                    called = [name]
                    called += [f"batch {rows}"] if len(batches) > 1 else []
                    called += [threads_text(count, unset="advised")] if len(counts) > 1 else []
                    subject = _subject(opened, found, options)
                    subjects.append(replace(subject, name=", ".join(called), model=name, ranges=given))
    return tuple(subjects)


T = TypeVar("T")


def _path(given: StrPath, what: str) -> Path:
    """`given` as a Path. Raises WrongUsage for what is none."""
    if not isinstance(given, (str, os.PathLike)):
        raise WrongUsage(f"{what} is given by its path; got {given!r}")
    return Path(given)


def check_threads(counts: Sequence[int | None]) -> None:
    """Raise WrongUsage where so many threads share a core that a call mostly waits for threads to get their turn."""
    cores = os.cpu_count() or 1
    for count in counts:
        if isinstance(count, int) and count > cores * _MOST_THREADS_A_CORE:
            raise WrongUsage(
                f"{count} threads are too many for {plural(cores, 'core')}: they would wait for each other. Ask for "
                f"at most {cores * _MOST_THREADS_A_CORE}, or for 0, which is all cores"
            )


def _several(values: Sequence[T] | T, what: str) -> tuple[T, ...]:
    """One value or several as a tuple, each once."""
    found = tuple(dict.fromkeys(values)) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
    if not found:
        raise WrongUsage(f"there is nothing to measure: give at least one {what}")
    return found


@dataclass(kw_only=True)
class _Chooser:
    """Finds what each file is fed, and remembers it: files that take the same are fed the same."""

    time_steps: int | None
    lengths: StrPath | None
    sort_rows: bool
    seed: int
    _chosen: dict[tuple[tuple[TensorSpec, ...], int], Cycle] = field(default_factory=dict)
    _lengths: dict[tuple[TensorSpec, ...], FileLengths] = field(default_factory=dict)

    def find(self, path: Path, manifest: Manifest, *, batch: int) -> Cycle:
        key = manifest.inputs, batch
        if key not in self._chosen:
            self._chosen[key] = self._find(path, manifest, batch)
        return self._chosen[key]

    def _find(self, path: Path, manifest: Manifest, batch: int) -> Cycle:
        if self.lengths is None:
            found = find_inputs(path, manifest, batch=batch, time_steps=self.time_steps, seed=self.seed)
            return Cycle(inputs=(found,))
        if self.time_steps is not None:
            raise WrongUsage("lengths tell how many time steps there are: give lengths or time_steps, not both")
        if manifest.inputs not in self._lengths:
            self._lengths[manifest.inputs] = read_lengths(self.lengths, manifest)
        return length_inputs(
            self._lengths[manifest.inputs], manifest, batch=batch, sort_rows=self.sort_rows, seed=self.seed
        )


class _Opener:
    """Opens one file on one provider, once for each number of threads."""

    def __init__(self, path: Path, provider: str, options: Mapping[str, str] | None, ranges: GivenRanges | None):
        self._path = path
        self._settings: dict[str, Any] = {"provider": provider, "provider_options": options, "ranges": ranges}
        self._opened: dict[int, Model] = {}

    def open(self, threads: int | None, batch: int) -> Model:
        """The model with `threads`, for None as many as it advises for `batch`."""
        if threads is None and self._opened:
            threads = next(iter(self._opened.values())).manifest.threads_for(batch)
        if threads is None or threads not in self._opened:
            opened = Model(self._path, threads=threads, batch=batch, **self._settings)
            self._opened[opened.threads] = opened
            return opened
        return self._opened[threads]


def _ranges(path: Path, finds: Sequence[Callable[[Manifest], Cycle]]) -> GivenRanges | None:
    """What TensorRT's engine must be built for to run what is to be measured; None where the file itself decides."""
    manifest = load_manifest(path)
    if manifest is None or manifest.compiled:
        return None
    needed = [choose_ranges(manifest, None, inputs.arrays) for find in finds for inputs in find(manifest).inputs]
    return {axis: max((ranges[axis] for ranges in needed), key=lambda found: found[-1]) for axis in needed[0]}


def _on_tensorrt(provider: str) -> bool:
    first = provider.split(",")[0].strip()
    return SHORT_NAMES.get(first, first) == SHORT_NAMES["tensorrt"]


def _subject(opened: Model, cycle: Cycle, options: Mapping[str, str] | None) -> Subject:
    feeds = tuple(structure.nest(inputs.arrays, opened.manifest.input_structure) for inputs in cycle.inputs)
    return Subject(
        name=opened.path.name,
        call=calls_of(opened, feeds),
        fed=feeds[0],
        feeds=feeds,
        cycle=len(feeds),
        path=opened.path,
        provider=opened.provider,
        provider_options=dict(options or {}),
        threads=opened.threads,
        batch=cycle.inputs[0].batch,
        time_steps=cycle.time_steps,
        inputs=cycle.inputs[0].source,
        lengths=cycle.lengths,
        size_bytes=model_size_bytes(opened.path),
        file_sha256=file_sha256(opened.path),
        ran_on=lambda: opened.placement.ran_on if opened.placement else (),
        notes=lambda: (*_notes(opened), *_tail(cycle.lengths)),
    )


def calls_of(model: Callable[[Any], object], feeds: Sequence[Any]) -> Callable[[], object]:
    """A call that takes nothing: `model` of the next of `feeds`, and after the last of the first again."""
    if len(feeds) == 1:
        [fed] = feeds
        return lambda: model(fed)
    turns = itertools.cycle(feeds)
    return lambda: model(next(turns))


def _notes(opened: Model) -> tuple[str, ...]:
    placement = opened.placement
    return (*placement.notes, *surprises(opened.path, placement)) if placement else ()


def _tail(facts: LengthFacts | None) -> tuple[str, ...]:
    """That the file's longest were not fed, where they were not."""
    if facts is None or facts.file_longest is None or facts.file_longest <= facts.longest:
        return ()
    return (
        f"the lengths in {facts.source} are {facts.file_shortest} to {facts.file_longest} steps, mean "
        f"{facts.file_mean:.4g}; those fed {facts.shortest} to {facts.longest}, mean {facts.mean:.4g}: no time of the "
        "longest is among those measured",
    )


def file_sha256(path: StrPath) -> str:
    """SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_size_bytes(path: StrPath) -> int:
    """Size of an ONNX file together with those files that hold its weights beside it that are there.

    Raises MissingInput when there is no file, InvalidFile when it is not an ONNX model.
    """
    found = Path(path)
    outside = [found.parent / name for name in wire.read_data_files(found)]
    return found.stat().st_size + sum(other.stat().st_size for other in outside if other.is_file())


def error_text(error: Exception) -> str:
    """An error as one line for a table: with its type where the message alone may not tell, and with its notes."""
    text = str(error) if isinstance(error, EdgeseqError) else f"{type(error).__name__}: {error}"
    # Keras writes its messages in bold, by the codes of a terminal.
    text = re.sub(r"\x1b\[[0-9;]*m", "", " ".join([text, *getattr(error, "__notes__", ())]))
    return " ".join(text.split())
