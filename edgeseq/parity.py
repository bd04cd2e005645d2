"""Numeric parity: does a file answer what the reference answers, within the one tolerance rule?

|a - b| <= tolerance × max(1, max |reference|), for each output. NaN never passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import InputMismatch, InvalidFile, WrongUsage
from edgeseq.files import StrPath
from edgeseq.prediction import surprises
from edgeseq.runtime import Model, structure
from edgeseq.runtime.golden import golden_folder, read_golden
from edgeseq.runtime.providers import SHORT_NAMES, spelled
from edgeseq.runtime.ranges import GivenRanges

# NVIDIA's libraries read it once, when they are loaded.
_TF32 = "NVIDIA_TF32_OVERRIDE"

Array = npt.NDArray[Any]
Reference = Callable[[Any], Any]

GPU_TOLERANCE = 1e-4
"""For float32 on a GPU with TF32 off: other orders of summation, and cuDNN's own sigmoid and tanh."""


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """How far one output is from its reference."""

    name: str
    """Name of the output."""
    max_abs: float
    """Largest absolute difference; NaN when one side has a NaN."""
    max_rel: float
    """`max_abs` over max(1, largest absolute value of the reference)."""
    tolerance: float
    """What `max_rel` may be."""
    within: bool
    """Whether it is."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The result of a comparison. True only when every output is within its tolerance."""

    outputs: tuple[OutputParity, ...]
    """One entry an output."""
    provider: str
    """What was asked for: one execution provider, or a list of those allowed."""
    reference: str
    """What it was compared with: ``keras``, ``golden`` or ``onnx``."""
    samples: int
    """Rows compared."""
    notes: tuple[str, ...] = ()
    """What to know of the reference, such as what Keras 3 would have read otherwise in an old file."""
    ran_on: tuple[str, ...] = ()
    """onnxruntime's names of the providers that ran floating-point nodes, most nodes first."""

    def __bool__(self) -> bool:
        return bool(self.outputs) and all(output.within for output in self.outputs)


def compare(
    path: StrPath,
    reference: Any = None,
    inputs: Any = None,
    *,
    tolerance: float | None = None,
    provider: str | Sequence[str] = "cpu",
    provider_options: Mapping[str, Any] | None = None,
    ranges: GivenRanges | None = None,
) -> Parity:
    """Compare the file's answers with a reference's.

    `reference` is a Keras model, a path to one (`.keras`, `.h5`), another `.onnx` file, or None for the golden samples
    saved beside the file. `inputs` are what the model takes; None means the golden samples' inputs. `tolerance`
    defaults to the file's own on the CPU, and at least 1e-4 elsewhere. `provider`, `provider_options` and `ranges` are
    as for `edgeseq.runtime.Model`; on CUDA, TF32 is off unless they say otherwise.

    Raises MissingInput when there is no file or no golden samples, WrongUsage for inputs without a reference and for a
    tolerance that is not a positive number, and whatever opening the file or the reference raises. A difference is not
    an error: the result is false.
    """
    if tolerance is not None and not (0 < tolerance < float("inf")):
        raise WrongUsage(f"tolerance must be a positive number, got {tolerance}")
    if inputs is not None and reference is None:
        raise WrongUsage(
            "inputs need a reference to be compared with: the golden samples only have answers to their own inputs. "
            "Name a Keras model or another file as the reference"
        )
    provider = spelled(provider)
    # TF32 rounds products to ten bits, which no tolerance for float32 allows for.
    options = {"use_tf32": "0"} if provider.split(",")[0].strip() in ("cuda", SHORT_NAMES["cuda"]) else {}
    model = Model(path, provider=provider, provider_options={**options, **(provider_options or {})}, ranges=ranges)
    manifest = model.manifest
    if tolerance is None:
        on_cpu = model.session.get_providers()[0] == SHORT_NAMES["cpu"]
        tolerance = manifest.tolerance if on_cpu else max(manifest.tolerance, GPU_TOLERANCE)
    wanted = [spec.name for spec in manifest.outputs]
    golden = read_golden(path, manifest.model_hash) if inputs is None or reference is None else None
    if golden is not None:
        missing = [name for name in wanted if name not in golden.outputs]
        missing += [spec.name for spec in manifest.inputs if spec.name not in golden.inputs]
        if missing:
            raise InvalidFile(golden_folder(path), f"the golden samples lack '{missing[0]}'. Export the model again")
    if inputs is None:
        assert golden is not None
        inputs = {spec.name: golden.inputs[spec.name] for spec in manifest.inputs}
    answers = structure.flatten(model(inputs), manifest.output_structure, "the answer")
    notes: tuple[str, ...] = ()
    if reference is None:
        assert golden is not None
        expected: Mapping[str, Any] = {name: golden.outputs[name] for name in wanted}
        kind = "golden"
    else:
        kind, ask, notes = _open_reference(reference)
        nested = structure.nest(model.feed.by_name(inputs), manifest.input_structure)
        expected = structure.flatten(ask(nested), manifest.output_structure, "the reference's answer")
    pair = ({name: answers[name] for name in wanted}, expected)
    parity = compare_answers([pair], tolerance=tolerance, provider=provider, reference=kind)
    placement = model.placement
    assert placement is not None, "the model was called"
    if not parity and placement.requested[0] == SHORT_NAMES["tensorrt"] and os.environ.get(_TF32) != "0":
        notes = (*notes, f"TensorRT may round products to TF32, for which it has no option here: set {_TF32}=0 and try")
    notes = (*notes, *placement.notes, *surprises(path, placement))
    return replace(parity, notes=notes, ran_on=placement.ran_on)


def compare_answers(
    trials: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]],
    *,
    tolerance: float,
    provider: str,
    reference: str,
) -> Parity:
    """Parity over several trials, each a pair of answers and reference answers by output name.

    An output's worst trial counts. Raises InputMismatch when an answer and its reference differ in shape.
    """
    names = list(trials[0][0])
    outputs = []
    for name in names:
        pairs = [(np.asarray(mine[name]), np.asarray(theirs[name])) for mine, theirs in trials]
        for mine, theirs in pairs:
            if mine.shape != theirs.shape:
                raise InputMismatch(f"output '{name}' has shape {mine.shape}, its reference {theirs.shape}", name)
        differences = [_difference(mine, theirs) for mine, theirs in pairs]
        max_abs = float(np.max([absolute for absolute, _ in differences]))
        max_rel = float(np.max([relative for _, relative in differences]))
        outputs.append(
            OutputParity(
                name=name, max_abs=max_abs, max_rel=max_rel, tolerance=tolerance, within=bool(max_rel <= tolerance)
            )
        )
    rows = sum(next(iter(mine.values())).shape[0] if next(iter(mine.values())).ndim else 1 for mine, _ in trials)
    return Parity(outputs=tuple(outputs), provider=provider, reference=reference, samples=rows)


def _difference(mine: Array, theirs: Array) -> tuple[float, float]:
    """Largest absolute difference, and that over max(1, largest reference). NaN on a side gives NaN, never within."""
    if not mine.size:
        return 0.0, 0.0
    mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
    # Equal infinities are no difference, but their subtraction is NaN.
    with np.errstate(invalid="ignore"):
        difference = np.where(mine == theirs, 0.0, np.abs(mine - theirs))
    absolute = float(difference.max())
    finite = np.abs(theirs[np.isfinite(theirs)])
    return absolute, absolute / max(1.0, float(finite.max(initial=0.0)))


def _open_reference(reference: Any) -> tuple[str, Reference, tuple[str, ...]]:
    if isinstance(reference, str | os.PathLike) and os.fspath(reference).endswith(".onnx"):
        return "onnx", Model(reference), ()
    # The one place below conversion that knows of it, and only when a Keras reference is really asked for.
    from edgeseq.conversion.reference import open_keras

    return "keras", *open_keras(reference)
