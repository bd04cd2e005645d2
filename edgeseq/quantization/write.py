"""Writing the result: golden samples first, the `.onnx` last, so that its appearance completes the whole."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from edgeseq.errors import MissingInput
from edgeseq.files import check_output, whole_file
from edgeseq.quantization.candidates import CANDIDATES, Parameters, apply, rows_independent
from edgeseq.quantization.layers import CONV_LSTM, RECURRENT, Layer, has_external_data
from edgeseq.quantization.measure import SampledTrial
from edgeseq.quantization.metrics import tolerance_for
from edgeseq.quantization.runs import run_all, serialize
from edgeseq.quantization.search import Choices
from edgeseq.runtime.golden import Golden, check_golden, golden_folder, read_golden, write_golden
from edgeseq.runtime.manifest import METADATA_KEY, Manifest, Quantization, RecurrentLayer


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What is to be written."""

    content: bytes
    """The `.onnx` file."""
    golden: Golden | None
    """The samples beside it; None where the fp32 file has none."""
    tolerance: float | None
    """The tolerance in the file's manifest; None without a manifest."""


def finish(trial: SampledTrial, choices: Choices, source: Path, manifest: Manifest | None) -> Result:
    """The file with the forms chosen, its tolerance and its samples; the fp32 file itself when none was chosen."""
    golden = _golden_of(source, manifest)
    if not choices:
        # The file as it is, unless its weights lie beside it, where another folder's file would not find them.
        content = serialize(trial.model) if has_external_data(source) else source.read_bytes()
        return Result(content=content, golden=golden, tolerance=manifest.tolerance if manifest else None)
    pairs = trial.answers_beside_reference(choices)
    if golden is not None:
        # With the threads that the runtime will use, on which the answers of some forms depend: see SampledTrial.
        own = run_all(trial.build(choices), [golden.inputs], trial.states, threads=trial.threads)
        golden = dataclasses.replace(golden, own_outputs=dict(zip(golden.outputs, own[0], strict=True)))
        pairs = [*pairs, ([list(golden.outputs.values())], own)]
    tolerance = max(tolerance_for(reference, answers) for reference, answers in pairs)
    content = quantized_file(trial.model, trial.layers, choices, trial.parameters(choices), manifest, tolerance)
    return Result(content=content, golden=golden, tolerance=tolerance if manifest else None)


def quantized_file(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    choices: Choices,
    parameters: Mapping[str, Parameters],
    manifest: Manifest | None,
    tolerance: float,
) -> bytes:
    """The bytes of the quantized file, a pure function of its arguments. Without a manifest none is made up."""
    result = apply(model, layers, choices, parameters)
    if manifest is not None:
        updated = dataclasses.replace(
            manifest,
            tolerance=tolerance,
            recurrent=tuple(_after(entry, choices, layers) for entry in manifest.recurrent),
            quantization=Quantization(
                method="post-training",
                layers=dict(sorted(choices.items())),
                rows_independent=rows_independent(choices),
            ),
            versions={**manifest.versions, "onnxruntime": onnxruntime.__version__},
        )
        entry = next(entry for entry in result.metadata_props if entry.key == METADATA_KEY)
        entry.value = updated.to_json()
    return serialize(result)


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


def _golden_of(source: Path, manifest: Manifest | None) -> Golden | None:
    """The golden samples beside the fp32 file; None when there are none. Raises InvalidFile when they are damaged."""
    try:
        return read_golden(source, manifest.model_hash if manifest else "")
    except MissingInput:
        return None


def _after(entry: RecurrentLayer, choices: Choices, layers: Sequence[Layer]) -> RecurrentLayer:
    """What the manifest says of a recurrent layer, with the ops that compute it now."""
    for layer in layers:
        if layer.name in choices and layer.name.startswith(f"{entry.name}/"):
            form = CANDIDATES[choices[layer.name]]
            if form.op_type_after is not None and layer.op_type in (*RECURRENT, CONV_LSTM):
                strategy = "scan" if form.op_type_after == "Scan" else entry.strategy
                return dataclasses.replace(entry, strategy=strategy, op_types=(form.op_type_after,))
    return entry
