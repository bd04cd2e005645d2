"""Opening a file on the providers chosen: on TensorRT with a planned engine, and a compiled file where it belongs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseq import files
from edgeseq.errors import EdgeseqError, Refused, WrongUsage
from edgeseq.runtime import caching, compiled, providers, signature, tensorrt
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.ranges import GivenRanges, check_axes
from edgeseq.runtime.tiny import tiny_model

# onnxruntime's refusal where a part of the graph has dynamic inputs of its own, and their names.
_UNPLANNED = re.compile(r"no associated shape profiles provided: (\S+)")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A session, and what it was planned for."""

    session: Any
    """onnxruntime's session."""
    ranges: Mapping[str, tuple[int, ...]]
    """Axis to (shortest, fastest, longest) that it may be run with; empty where it takes any length."""
    engine_folder: Path | None
    """Where TensorRT's engine is kept; None for any other provider."""


def open_planned(
    path: files.StrPath,
    manifest: Manifest | None,
    choice: providers.Choice,
    *,
    threads: int | None = None,
    provider_options: Mapping[str, Any] | None = None,
    ranges: GivenRanges | None = None,
    **session: Any,
) -> Opened:
    """Open the file at `path`, whose manifest is `manifest`, on the providers of `choice`.

    `provider_options` are those of the first provider asked for; `ranges` are for TensorRT, see `choose_ranges`;
    `session` goes to `providers.open_session`.

    Raises what `providers.open_session` and `tensorrt.prepare` do, WrongUsage for `ranges` that mean nothing here and
    for a compiled file on another provider, CompiledElsewhere for one on another machine, and Refused where TensorRT
    takes the model only in parts whose shapes cannot be planned.
    """
    full_name, others = choice.full_names[0], choice.names[1:]
    given_options = provider_options if choice.prefers_first else None
    providers.check_options(full_name, threads, given_options)
    options = dict(given_options or {})

    def opened(given: Mapping[str, Any]) -> Any:
        return providers.open_session(
            path, provider=choice.names[0], threads=threads, provider_options=given, others=others, **session
        )

    if manifest is not None and manifest.compiled is not None:
        record = manifest.compiled
        if ranges:
            raise WrongUsage(f"{path} is compiled: its ranges are fixed. Give ranges when compiling (--range)")
        options = {**record.options, **options}
        compiled.check(path, record, full_name, options)
        return Opened(session=opened(options), ranges=record.ranges, engine_folder=None)
    if full_name != tensorrt.FULL_NAME:
        asked = {providers.SHORT_NAMES.get(name, name) for name in choice.unavailable}
        if ranges and tensorrt.FULL_NAME not in asked:
            raise WrongUsage(f"ranges plan engines of TensorRT; {full_name} takes any length. Leave them out")
        if ranges and manifest is not None:
            # Not needed now, but wrong ones would fail only where TensorRT starts.
            check_axes(manifest, ranges)
        return Opened(session=opened(options), ranges={}, engine_folder=None)
    providers.check_installed(choice.names[0])
    if manifest is None:
        # Its inputs must be known before there is an engine for them.
        manifest = signature.describe(path, providers.open_session(path))
    with cause_first(choice.names[0]):
        engine = tensorrt.prepare(path, manifest, ranges=ranges, options=options)
    return Opened(session=build(engine, opened, tensorrt.CACHE_PATH), ranges=engine.ranges, engine_folder=engine.folder)


@contextlib.contextmanager
def cause_first(provider: str) -> Iterator[None]:
    """Where what is planned meanwhile fails, a provider that cannot start at all is the error that is told."""
    try:
        yield
    except WrongUsage:
        providers.open_session(tiny_model(), provider=provider)
        raise


def build(
    engine: tensorrt.Engine,
    opened: Callable[[Mapping[str, Any]], Any],
    place: str,
    *,
    name: str = "",
    extra: Callable[[Any], Mapping[str, Any]] = lambda _: {},
) -> Any:
    """The session that `opened`, called with the options of `engine`, answers; its folder is filled first if need be.

    `place` is the option for the path, which is that of the folder, or of `name` in it. The folder appears whole or
    not at all: an engine that was cut short is never loaded. What `extra` says of the session goes into its plan.
    """
    caching.make_folder(Path(engine.options[tensorrt.TIMING_PATH]))
    try:
        if engine.folder is None:
            return opened(engine.options)
        if engine.cached:
            return opened({**engine.options, place: str(engine.folder / name)})
        caching.make_folder(engine.folder.parent)
        with files.whole_folder(engine.folder) as temporary:
            start = time.perf_counter()
            session = opened({**engine.options, place: str(temporary / name)})
            seconds = time.perf_counter() - start
            plan = {**engine.ingredients, "ranges": engine.ranges, "build_seconds": seconds, **extra(session)}
            files.write_json(temporary / tensorrt.PLAN_NAME, plan)
        return session
    except EdgeseqError as error:
        if found := _UNPLANNED.search(str(error)):
            raise Refused(
                "TensorRT takes this model only in parts, and some begin in the middle of it with shapes that no range "
                f"is known for: {found.group(1).rstrip('.')}. Export it with fixed lengths or with --target tensorrt, "
                "or use provider 'cuda'"
            ) from error
        if engine.cached:
            error.add_note(f"the engine was read from {engine.folder}; delete that folder to have it built again")
        raise
