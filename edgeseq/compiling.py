"""`compile_model`: the engine built ahead of time and written into an ONNX file, so that a device need not build it.

onnxruntime calls such a file an EP-context model: https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq import files
from edgeseq.errors import (
    EdgeseqError,
    MissingInput,
    ModelRefused,
    ParityFailed,
    ProviderUnavailable,
    Refused,
    Unavailable,
    WrongUsage,
)
from edgeseq.files import StrPath
from edgeseq.parity import Parity, compare
from edgeseq.runtime import caching, compiled, document, opening, providers, signature, tensorrt, wire
from edgeseq.runtime.feed import Feed
from edgeseq.runtime.golden import Golden, check_golden, golden_folder, read_golden, write_golden
from edgeseq.runtime.manifest import METADATA_KEY, Compiled, Manifest, load_manifest
from edgeseq.runtime.partitions import Partitions, read_partitions
from edgeseq.runtime.ranges import GivenRanges, Range

Arrays = Mapping[str, npt.NDArray[Any]]

PRECISION_TOLERANCE = {"fp32": 0.0, "fp16": 1e-2, "bf16": 8e-2}
"""What the manifest of a compiled file allows at least, over max(1, largest answer): some ten roundings of the format
(half a unit of its last place is 2^-11 in fp16 and 2^-8 in bf16), since errors of recurrent steps add up. fp32 adds
nothing to what the file allowed."""

# These run a file as it is.
_COMPILES_NOTHING = (providers.SHORT_NAMES["cpu"], providers.SHORT_NAMES["cuda"])
_OPENVINO, _OPENVINO_READER = "OpenVINOExecutionProvider", "*openvino_ir_frontend*"
_PROFILES = (tensorrt.MIN, tensorrt.OPT, tensorrt.MAX)
# Parts of the plan of a compilation that another one reads back.
_PARTITIONS, _SECONDS = "partitions", "build_seconds"


@dataclass(frozen=True, kw_only=True)
class CompileReport:
    """What `compile_model` did, or with `dry_run` would do."""

    path: str
    """The file that was compiled."""
    output: str
    """The compiled file."""
    dry_run: bool
    """Whether nothing was built or written."""
    size_bytes: int | None
    """Size of the compiled file; None when it was not written."""
    golden_path: str | None
    """Folder of golden samples beside it; None where the original has none, or nothing was written."""
    provider: str
    """onnxruntime's name of the provider."""
    precision: str
    """``fp32``, or ``fp16`` or ``bf16`` where TensorRT may round to that."""
    tolerance: float
    """What the compiled file's manifest allows."""
    ranges: dict[str, Range]
    """Axis to (shortest, fastest, longest) that it takes; empty where it takes what the original does."""
    profiles: dict[str, str]
    """TensorRT's option to the shapes of every input with a free axis."""
    options: dict[str, str]
    """The provider's options, the caller's included."""
    built_on: dict[str, str]
    """Versions, and the device, that it is for; empty texts are what this machine does not tell."""
    cache_folder: str | None
    """Where the engine is kept; None for a provider whose compilations are not."""
    cached: bool
    """Whether it was built before, with the same model, options, ranges, versions and GPU: then nothing is built."""
    build_seconds: float | None
    """Wall-clock time of the build, also of an earlier one; None when it was never built."""
    partitions: Partitions | None
    """What the provider took; None with `dry_run`, or where onnxruntime does not tell (before 1.24)."""
    parity: Parity | None
    """The compiled file held against the golden samples, or against the original; None with `dry_run`."""
    notes: tuple[str, ...] = ()
    """What else to know."""


def compile_model(
    path: StrPath,
    output: StrPath | None = None,
    *,
    provider: str | Sequence[str] = "tensorrt",
    ranges: GivenRanges | None = None,
    samples: Any = None,
    precision: str = "fp32",
    provider_options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> CompileReport:
    """Compile an ONNX file for `provider` on this machine; write it to `output`, ``model.tensorrt.onnx`` unless said.

    The file runs by `edgeseq.runtime.Model` on the same provider, GPU and versions, and is refused elsewhere. Manifest
    and golden samples go with it, and it is checked against them, or the original, before it is written.

    For TensorRT, `ranges` give each free axis as (min, max) or (min, opt, max), opt being max unless said; axes without
    one take 1 to the longest in `samples` (as for a call, nested or by input name), or in the golden samples.
    `precision` lets it round to ``fp16`` or ``bf16``. A list of providers, as ``tensorrt,cpu``, allows the later ones
    for nodes that the first does not take. `dry_run` plans everything and builds nothing; it needs no GPU.

    Raises MissingInput, OutputExists, InvalidFile, WrongUsage (a provider that compiles nothing; an axis without a
    range; options that contradict one another), ProviderUnavailable, PlacementRefused and Refused where the provider
    does not take the whole model, and ParityFailed.
    """
    source = files.check_input(path, "model file")
    provider = providers.spelled(provider)
    names = [name.strip() for name in provider.split(",")]
    full_name = _check_provider(names[0])
    target = Path(output) if output is not None else _beside(source, full_name)
    files.check_output(target, overwrite=overwrite, sources=(source,))
    check_golden(target, overwrite=overwrite)
    options = {**_precision_option(full_name, precision, provider_options), **(provider_options or {})}
    written = load_manifest(source)
    # Its inputs, where nothing in the file tells what they mean.
    manifest = written or signature.describe(source, providers.open_session(source))
    if manifest.compiled is not None:
        raise WrongUsage(
            f"{source} is compiled already. Compile the original: it was made from {manifest.compiled.source}"
        )
    golden = _golden(source, manifest)
    given = None if samples is None else _arrays(samples, manifest)
    if not dry_run:
        providers.check_installed(names[0])
    engine = None
    if full_name == tensorrt.FULL_NAME:
        _check_context(options)
        seen = given if given is not None else golden.inputs if golden else {}
        with contextlib.nullcontext() if dry_run else opening.cause_first(names[0]):
            engine = tensorrt.prepare(source, manifest, ranges=ranges, samples=seen, options=options, context=True)
    elif ranges:
        raise WrongUsage(f"ranges plan engines of TensorRT; {full_name} compiles for any length. Leave them out")
    built_on = compiled.read_machine(full_name, options)
    record = Compiled(
        provider=full_name,
        options={name: tensorrt.as_text(value) for name, value in options.items() if name not in tensorrt.BUILDING},
        precision=precision,
        ranges=engine.ranges if engine else {},
        built_on=built_on,
        source=caching.hash_model(source),
    )
    result = dataclasses.replace(
        manifest, compiled=record, tolerance=max(manifest.tolerance, PRECISION_TOLERANCE[precision])
    )
    report = CompileReport(
        path=os.fspath(path),
        output=os.fspath(target),
        dry_run=dry_run,
        size_bytes=None,
        golden_path=None,
        provider=full_name,
        precision=precision,
        tolerance=result.tolerance,
        ranges=dict(engine.ranges) if engine else {},
        profiles={name: engine.options[name] for name in _PROFILES if name in engine.options} if engine else {},
        options=dict(engine.options) if engine else dict(record.options),
        built_on=built_on,
        cache_folder=os.fspath(engine.folder) if engine and engine.folder else None,
        cached=engine is not None and engine.cached,
        build_seconds=None,
        partitions=None,
        parity=None,
        notes=_notes(full_name, built_on),
    )
    if dry_run:
        return report
    with tempfile.TemporaryDirectory(prefix="edgeseq-compile-") as folder:
        context, partitions, seconds = _build(source, names, engine, options, Path(folder))
        checked = Path(folder) / "checked" / target.name
        checked.parent.mkdir()
        wire.write_with_metadata(context, checked, {METADATA_KEY: result.to_json()})
        if golden is not None:
            write_golden(checked, golden, manifest.model_hash)
        trial = None if golden is not None and given is None else given or _made_up(manifest, record.ranges)
        parity = _verify(checked, source, provider, full_name, options, trial)
        with files.whole_file(target, overwrite=overwrite) as temporary:
            shutil.copyfile(checked, temporary)
            if golden is not None:
                write_golden(target, golden, manifest.model_hash)
            elif golden_folder(target).exists():
                # Samples of an older file of that name.
                shutil.rmtree(golden_folder(target))
    return dataclasses.replace(
        report,
        size_bytes=target.stat().st_size,
        golden_path=os.fspath(golden_folder(target)) if golden is not None else None,
        build_seconds=seconds,
        partitions=partitions,
        parity=parity,
        notes=(*report.notes, *parity.notes),
    )


def _arrays(samples: Any, manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """`samples`, nested as the model takes them, by input name."""
    named = Feed(manifest.inputs, manifest.input_structure).by_name(samples)
    return {name: np.asarray(value) for name, value in named.items()}


def _check_provider(name: str) -> str:
    full_name = providers.known_name(name)
    if full_name in _COMPILES_NOTHING:
        raise WrongUsage(
            f"there is nothing to compile for the provider '{name}': it runs the file as it is. Compile for "
            "tensorrt, or for another provider that builds engines, such as OpenVINOExecutionProvider"
        )
    return full_name


def _beside(source: Path, full_name: str) -> Path:
    return source.with_suffix(f".{full_name.removesuffix('ExecutionProvider').lower()}.onnx")


def _precision_option(full_name: str, precision: str, given: Mapping[str, Any] | None) -> dict[str, str]:
    if precision not in tensorrt.PRECISIONS:
        raise WrongUsage(f"precision must be one of {', '.join(tensorrt.PRECISIONS)}; got '{precision}'")
    option = tensorrt.PRECISIONS[precision]
    if full_name != tensorrt.FULL_NAME:
        if option is not None:
            raise WrongUsage(
                f"precision is for TensorRT; {full_name} has options of its own for it (--provider-option)"
            )
        return {}
    for other in tensorrt.PRECISIONS.values():
        if other is not None and other in (given or {}):
            raise WrongUsage(f"{other} is what precision={precision} decides. Leave the option out")
    return {} if option is None else {option: "1"}


def _check_context(options: Mapping[str, Any]) -> None:
    for name in (tensorrt.CONTEXT, tensorrt.CONTEXT_PATH, tensorrt.CONTEXT_EMBED, tensorrt.CACHE, tensorrt.CACHE_PATH):
        if name in options:
            raise WrongUsage(f"{name} is set by compiling itself. Leave it out; the output names the file")


def _golden(source: Path, manifest: Manifest) -> Golden | None:
    try:
        return read_golden(source, manifest.model_hash)
    except MissingInput:
        return None


def _notes(full_name: str, built_on: Mapping[str, str]) -> tuple[str, ...]:
    if full_name != tensorrt.FULL_NAME or built_on["gpu"]:
        return ()
    return ("no NVIDIA GPU was found here: with one, its name and versions give the engine another folder",)


def _build(
    source: Path, names: list[str], engine: tensorrt.Engine | None, options: Mapping[str, Any], folder: Path
) -> tuple[Path, Partitions | None, float]:
    """The model with the engine in it, what the provider took, and how many seconds it took to build, now or before."""

    def opened(given: Mapping[str, Any], config: Mapping[str, str] | None = None) -> Any:
        return providers.open_session(
            source, provider=names[0], provider_options=given, others=names[1:], config=config
        )

    if engine is not None:
        assert engine.folder is not None, "compilations are always kept"
        context = engine.folder / tensorrt.CONTEXT_NAME
        if not engine.cached:

            def extra(session: Any) -> dict[str, Any]:
                return {_PARTITIONS: dataclasses.asdict(found) if (found := read_partitions(session)) else None}

            opening.build(engine, opened, tensorrt.CONTEXT_PATH, name=tensorrt.CONTEXT_NAME, extra=extra)
        plan = files.read_json(engine.folder / tensorrt.PLAN_NAME)
        taken = document.read(Partitions, plan[_PARTITIONS]) if plan[_PARTITIONS] else None
        return _there(context, names[0], taken), taken, plan[_SECONDS]
    context = folder / tensorrt.CONTEXT_NAME
    config = {"ep.context_enable": "1", "ep.context_file_path": str(context), "ep.context_embed_mode": "1"}
    start = time.perf_counter()
    session = opened(options, config)
    seconds = time.perf_counter() - start
    taken = read_partitions(session)
    return _there(context, names[0], taken), taken, seconds


def _there(context: Path, name: str, partitions: Partitions | None) -> Path:
    if context.is_file():
        return context
    took = f" It took {partitions.nodes} nodes and left {len(partitions.left)}." if partitions else ""
    raise Refused(
        f"the provider '{name}' wrote no compiled model: it compiles nothing ahead of time, or not this model.{took}"
    )


def _verify(
    checked: Path, source: Path, provider: str, full_name: str, options: Mapping[str, Any], trial: Any
) -> Parity:
    """Parity of the compiled file with its golden samples, or with the original on the inputs `trial`."""
    reference = None if trial is None else source
    try:
        parity = compare(checked, reference, trial, provider=provider, provider_options=options)
    except EdgeseqError as error:
        if isinstance(error, ModelRefused | ProviderUnavailable | WrongUsage) and _lacks_reader(full_name):
            raise Unavailable(
                f"{full_name} compiled the model, but cannot read it back: the library openvino_ir_frontend, which "
                f"does that for its CPU, is not in {providers.library_folder()}. Nothing was written. Use an "
                "onnxruntime with OpenVINO that has it, or run the original, which OpenVINO compiles at each start"
            ) from error
        error.add_note("while checking the compiled file; nothing was written")
        raise
    if not parity:
        worst = max(parity.outputs, key=lambda output: output.max_rel)
        raise ParityFailed(
            f"the compiled file differs from {'the golden samples' if reference is None else 'the original'} by "
            f"{worst.max_rel:.3g} in '{worst.name}', allowed is {worst.tolerance:.3g}; it was not written",
            parity,
        )
    return parity


def _lacks_reader(full_name: str) -> bool:
    return full_name == _OPENVINO and not any(providers.library_folder().glob(_OPENVINO_READER))


def _made_up(manifest: Manifest, ranges: Mapping[str, Range]) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the shortest lengths, where nobody gave any: normal numbers from a fixed seed, and ids of 0."""
    random = np.random.default_rng(0)
    made = {}
    for spec in manifest.inputs:
        shape = [axis if isinstance(axis, int) else ranges.get(axis, (1,))[0] for axis in spec.axes]
        dtype = np.dtype(spec.dtype)
        made[spec.name] = random.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return made
