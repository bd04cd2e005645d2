"""Writing the result: golden samples first, the `.onnx` last, so that its appearance completes the whole."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from edgeseq.files import check_output, whole_file
from edgeseq.quantization.candidates import CANDIDATES, Parameters, apply, rows_independent
from edgeseq.quantization.layers import CONV_LSTM, RECURRENT, Layer, has_external_data
from edgeseq.quantization.plan import Plan
from edgeseq.quantization.runs import run_all, serialize
from edgeseq.quantization.search import Choices
from edgeseq.quantization.source import Source
from edgeseq.runtime.golden import Golden, check_golden, golden_folder, write_golden
from edgeseq.runtime.manifest import METADATA_KEY, Manifest, Quantization, RecurrentLayer, ThreadAdvice


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What is to be written."""

    content: bytes
    """The `.onnx` file."""
    golden: Golden | None
    """The samples beside it; None where the fp32 file has none."""


def finish(source: Source, plan: Plan) -> Result:
    """The file that the plan makes, and its samples; the fp32 file itself when the plan has no forms."""
    if not plan.forms:
        # The file as it is, unless its weights lie beside it, where another folder's file would not find them.
        content = serialize(source.model) if has_external_data(source.path) else source.path.read_bytes()
        return Result(content=content, golden=source.golden)
    assert plan.tolerance is not None
    content = quantized_file(
        source.model,
        source.layers,
        plan.choices,
        plan.parameters,
        source.manifest,
        plan.tolerance,
        advice=ThreadAdvice(batch=plan.batch, threads=plan.threads),
        onnxruntime_version=plan.versions["onnxruntime"],
    )
    return Result(content=content, golden=golden_after(source, content, plan.batch, plan.threads, plan.target))


def golden_after(source: Source, content: bytes, batch: int, threads: int, provider: str) -> Golden | None:
    """The fp32 file's samples with the answers of the file `content` beside them; None where there are none.

    `threads` suit calls of `batch` rows on `provider`.
    """
    if source.golden is None:
        return None
    if source.manifest is not None:
        # Those that the runtime will use, on which the answers of some forms depend: see SampledTrial.
        advised = _advised(source.manifest.threads, ThreadAdvice(batch=batch, threads=threads))
        threads = dataclasses.replace(source.manifest, threads=advised).threads_for(None)
    [own] = run_all(content, [source.golden.inputs], source.described.states, threads=threads, provider=provider)
    return dataclasses.replace(source.golden, own_outputs=dict(zip(source.golden.outputs, own, strict=True)))


def quantized_file(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    choices: Choices,
    parameters: Mapping[str, Parameters],
    manifest: Manifest | None,
    tolerance: float,
    *,
    advice: ThreadAdvice | None = None,
    onnxruntime_version: str = onnxruntime.__version__,
) -> bytes:
    """The bytes of the quantized file, a pure function of its arguments. Without a manifest none is made up."""
    result = apply(model, layers, choices, parameters)
    if manifest is not None:
        updated = _quantized_manifest(manifest, layers, choices, tolerance, advice, onnxruntime_version)
        entry = next(entry for entry in result.metadata_props if entry.key == METADATA_KEY)
        entry.value = updated.to_json()
    return serialize(result)


def bytes_of_manifest(manifest: Manifest | None, layers: Sequence[Layer], choices: Choices) -> int:
    """By how much at most the manifest grows when the file is quantized so."""
    if manifest is None or not choices:
        return 0
    # Numbers and a version of the most digits.
    advice = ThreadAdvice(batch=10**6, threads=10**3)
    after = _quantized_manifest(manifest, layers, choices, 1.2e-05, advice, onnxruntime.__version__)
    return len(after.to_json().encode()) - len(manifest.to_json().encode())


def _quantized_manifest(
    manifest: Manifest,
    layers: Sequence[Layer],
    choices: Choices,
    tolerance: float,
    advice: ThreadAdvice | None,
    onnxruntime_version: str,
) -> Manifest:
    return dataclasses.replace(
        manifest,
        tolerance=tolerance,
        recurrent=tuple(_after(entry, choices, layers) for entry in manifest.recurrent),
        quantization=Quantization(
            method="post-training",
            layers=dict(sorted(choices.items())),
            rows_independent=rows_independent(choices),
        ),
        threads=manifest.threads if advice is None else _advised(manifest.threads, advice),
        versions={**manifest.versions, "onnxruntime": onnxruntime_version},
    )


def _advised(before: Sequence[ThreadAdvice], advice: ThreadAdvice) -> tuple[ThreadAdvice, ...]:
    """The advice for other batch sizes, and this one."""
    others = [entry for entry in before if entry.batch != advice.batch]
    return tuple(sorted([*others, advice], key=lambda entry: entry.batch))


def write(target: Path, result: Result, model_hash: str, *, overwrite: bool) -> None:
    """Write the samples, then the file. Samples of an older file of that name never stay beside it.

    Raises OutputExists, or WrongUsage, when another process has put something there since the work began.
    """
    check_output(target, overwrite=overwrite)
    check_golden(target, overwrite=overwrite)
    with whole_file(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(result.content)
        if result.golden is not None:
            write_golden(target, result.golden, model_hash)
        elif golden_folder(target).exists():
            shutil.rmtree(golden_folder(target))


def _after(entry: RecurrentLayer, choices: Choices, layers: Sequence[Layer]) -> RecurrentLayer:
    """What the manifest says of a recurrent layer, with the ops that compute it now."""
    for layer in layers:
        if layer.name in choices and layer.name.startswith(f"{entry.name}/"):
            form = CANDIDATES[choices[layer.name]]
            if form.op_type_after is not None and layer.op_type in (*RECURRENT, CONV_LSTM):
                strategy = "scan" if form.op_type_after == "Scan" else entry.strategy
                return dataclasses.replace(entry, strategy=strategy, op_types=(form.op_type_after,))
    return entry
