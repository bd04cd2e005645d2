"""What can be measured: anything callable, described. Made here from ONNX files, run as an application runs them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeseq.bench.answers import flatten
from edgeseq.bench.inputs import Inputs, find_inputs, given_inputs
from edgeseq.errors import EdgeseqError, WrongUsage
from edgeseq.files import StrPath
from edgeseq.prediction import surprises
from edgeseq.runtime import Model, structure, wire
from edgeseq.runtime.manifest import Manifest, TensorSpec, load_manifest
from edgeseq.runtime.providers import SHORT_NAMES
from edgeseq.runtime.ranges import GivenRanges, choose_ranges


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to measure: `call` does the work once and returns the answers, or `error` says why it cannot."""

    name: str
    """Unique in a run."""
    call: Callable[[], object] | None
    """Takes nothing, returns the answers (arrays, nested as they may be); None when `error` is set."""
    fed: Any = None
    """What it is fed, nested as its model takes it, to feed a rival the same; None where that is not told."""
    provider: str = "cpu"
    """Where it runs."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """What the provider was told."""
    threads: int | None = None
    """Threads within an op; 0 means all cores, None that the subject's library decides."""
    batch: int = 1
    """Rows of a call."""
    time_steps: int | None = None
    """Length of the time axis; None where there is none."""
    inputs: str = "given"
    """Where the inputs came from: ``golden``, ``made`` or ``given``."""
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
    batch: int = 1,
    time_steps: int | None = None,
    inputs: Any = None,
    seed: int = 0,
) -> Subject:
    """A subject that runs an ONNX file, ours or any other, through `edgeseq.runtime.Model`, its checks included.

    `ranges` are as for `edgeseq.runtime.Model`; for TensorRT, without them, what `batch` and `time_steps` need.
    `threads` None takes the file's advice for the batch. `inputs` are what the model takes, or arrays by input name;
    `batch` and `time_steps` are then read from them. None takes the golden samples beside the file, else makes some
    from `seed`: see `edgeseq.bench.inputs.find_inputs`. `name` None takes the file's name.

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
        seed=seed,
    )
    return subject if name is None else replace(subject, name=name)


def file_subjects(
    models: Sequence[StrPath],
    *,
    providers: Sequence[str] = ("cpu",),
    provider_options: Mapping[str, str] | None = None,
    ranges: GivenRanges | None = None,
    threads: int | None = None,
    batch: int = 1,
    time_steps: int | None = None,
    inputs: Any = None,
    seed: int = 0,
) -> tuple[Subject, ...]:
    """A subject for every file on every provider; those that take the same inputs are fed the same.

    Names are the files', with their folder where two files share a name, and with the provider where there are
    several. `provider_options` go to all providers but the CPU, which takes none, and `ranges` to TensorRT. Otherwise
    as `file_subject`.
    """
    if not models or not providers:
        raise WrongUsage("there is nothing to measure: give at least one ONNX file and one provider")
    paths = [Path(model) for model in models]
    plain = [path.name for path in paths]
    names = [path.name if plain.count(path.name) == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    chosen: dict[tuple[TensorSpec, ...], Inputs] = {}

    def find(path: Path, manifest: Manifest) -> Inputs:
        if manifest.inputs not in chosen:
            chosen[manifest.inputs] = find_inputs(path, manifest, batch=batch, time_steps=time_steps, seed=seed)
        return chosen[manifest.inputs]

    rows = batch
    if inputs is not None:
        first = flatten(inputs)[0]
        rows = len(first) if first.ndim else 1
    subjects = []
    for path, name in zip(paths, names, strict=True):
        for provider in providers:
            options = None if provider == "cpu" and len(providers) > 1 else provider_options
            given = ranges if _on_tensorrt(provider) or not any(map(_on_tensorrt, providers)) else None
            if not given and inputs is None and _on_tensorrt(provider):
                given = _ranges(path, find)
            opened = Model(path, provider=provider, provider_options=options, ranges=given, threads=threads, batch=rows)
            if inputs is None:
                found = find(path, opened.manifest)
            else:
                found = given_inputs(opened.feed.by_name(inputs), opened.manifest)
            called = f"{name} ({provider})" if len(providers) > 1 else name
            subjects.append(_subject(opened, found, called, options))
    return tuple(subjects)


def _ranges(path: Path, find: Callable[[Path, Manifest], Inputs]) -> GivenRanges | None:
    """What TensorRT's engine must be built for to run what is to be measured; None where the file itself decides."""
    manifest = load_manifest(path)
    if manifest is None or manifest.compiled:
        return None
    return choose_ranges(manifest, None, find(path, manifest).arrays)


def _on_tensorrt(provider: str) -> bool:
    first = provider.split(",")[0].strip()
    return SHORT_NAMES.get(first, first) == SHORT_NAMES["tensorrt"]


def _subject(opened: Model, inputs: Inputs, name: str, options: Mapping[str, str] | None) -> Subject:
    fed = structure.nest(inputs.arrays, opened.manifest.input_structure)
    return Subject(
        name=name,
        call=lambda: opened(fed),
        fed=fed,
        provider=opened.provider,
        provider_options=dict(options or {}),
        threads=opened.threads,
        batch=inputs.batch,
        time_steps=inputs.time_steps,
        inputs=inputs.source,
        size_bytes=model_size_bytes(opened.path),
        file_sha256=file_sha256(opened.path),
        ran_on=lambda: opened.placement.ran_on if opened.placement else (),
        notes=lambda: _notes(opened),
    )


def _notes(opened: Model) -> tuple[str, ...]:
    placement = opened.placement
    return (*placement.notes, *surprises(opened.path, placement)) if placement else ()


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
