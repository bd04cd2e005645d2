"""Checking one model on one provider: can it start, where do its nodes run, are the answers Keras's, how fast is it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeseq.errors import PlacementRefused
from edgeseq.parity import compare
from edgeseq.runtime import Model
from edgeseq.runtime.partitions import read_partitions
from edgeseq.runtime.placement import PlacedNode
from edgeseq.runtime.structure import nest
from gpu_check.artifacts import Artifact
from gpu_check.measure import Place, failure_of, inputs_for, measure, planned
from gpu_check.results import EDGESEQ, GRAPH, RIVAL, ArtifactResult, Failure, Measurement, Parity, Placed

BATCHES = (1, 32, 256)

_RECURRENT_OPS = ("LSTM", "GRU", "RNN")
_LEAST_SECONDS = 0.2

DONE = "nothing"
"""What is tried next when everything was."""

Progress = tuple[ArtifactResult, str | Measurement]
"""What is known of a model so far, and what is tried next: ``opening``, ``parity``, a measurement without its times, or
`DONE`."""

NOT_RUN = Failure(kind="NotRun", message="the time given was used up; --seconds gives more")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How every model is checked."""

    folder: Path
    """Where the set is."""
    options: Mapping[str, str]
    """For every provider but the CPU, which takes none."""
    batches: tuple[int, ...]
    """Rows of the calls that are timed."""
    deadline: float
    """When nothing more begins, by `time.monotonic`, in seconds."""

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() >= self.deadline

    def place(self, artifact: Artifact, provider: str) -> Place:
        """The file of `artifact`, and how it is run on `provider`."""
        return Place(
            path=self.folder / artifact.file,
            rival=self.folder / artifact.rival if artifact.rival else None,
            provider=provider,
            options={} if provider == "cpu" else dict(self.options),
            batches=tuple(batch for batch in self.batches if not artifact.batches or batch in artifact.batches),
        )


def blank(artifact: Artifact, provider: str, failure: Failure | None = None) -> ArtifactResult:
    """The result of a model of which nothing is known yet, or only why it cannot be checked."""
    return ArtifactResult(
        name=artifact.name,
        provider=provider,
        strategies=artifact.strategies,
        precision=artifact.precision,
        expects_refusal=provider in artifact.refused_on,
        expects_speedup=artifact.fused and artifact.rival_loops > 0 and artifact.precision == "fp32",
        failure=failure,
    )


def check(artifact: Artifact, provider: str, plan: Plan, seconds: float) -> Iterator[Progress]:
    """Everything about one model on one provider, in about `seconds`, yielded again whenever more is known.

    Whatever is raised becomes part of the result. With each result comes what is tried next, for whoever has to tell of
    a process that ends in the middle of it.
    """
    result, place = blank(artifact, provider), plan.place(artifact, provider)
    ends = time.monotonic() + seconds
    batches = place.batches
    yield result, "opening"
    try:
        model = Model(place.path, provider=provider, provider_options=place.options, ranges=planned(place.path, place))
        first = inputs_for(model, place.path, batches[0] if batches else 1, "call")
        try:
            model(nest(first.arrays, model.manifest.input_structure))
        except PlacementRefused as error:
            yield replace(result, failure=failure_of(error), placed=_placed(model)), DONE
            return
    except Exception as error:  # noqa: BLE001 - one broken model is its own result, and the others go on
        yield replace(result, failure=failure_of(error)), DONE
        return
    result = replace(result, started=True, placed=_placed(model))
    yield result, "parity"
    result = _with_parity(result, place)
    own = ("call", "step") if model.manifest.states else ("call",)
    ways = [(_own_subjects(provider), what, batch) for batch in batches for what in own]
    # After all of edgeseq's own: another's file that ends the process takes nothing else along.
    ways += [((RIVAL,), "call", batch) for batch in batches if place.rival is not None]
    found: list[Measurement] = []
    for done, (subjects, what, batch) in enumerate(ways):
        for subject in subjects:
            pending = Measurement(subject=subject, what=what, batch=batch, time_steps=None)
            yield replace(result, measurements=tuple(found)), pending
            share = max((ends - time.monotonic()) / (len(ways) - done), _LEAST_SECONDS)
            try:
                found.append(
                    replace(pending, failure=NOT_RUN)
                    if plan.over
                    else measure(model, place, pending, share / len(subjects))
                )
            except Exception as error:  # noqa: BLE001 - as above
                found.append(replace(pending, failure=failure_of(error)))
    yield replace(result, measurements=tuple(found)), DONE


def _own_subjects(provider: str) -> tuple[str, ...]:
    return (EDGESEQ, GRAPH) if provider == "cuda" else (EDGESEQ,)


def _with_parity(result: ArtifactResult, place: Place) -> ArtifactResult:
    try:
        parity = compare(
            place.path,
            provider=place.provider,
            provider_options=place.options,
            ranges=planned(place.path, place),
        )
    except Exception as error:  # noqa: BLE001 - as above
        return replace(result, parity_failure=failure_of(error))
    # NaN is never the smaller one, and would get lost in a maximum.
    worst = max(parity.outputs, key=lambda output: (np.isnan(output.max_rel), output.max_rel))
    return replace(
        result,
        parity=Parity(
            max_rel=None if np.isnan(worst.max_rel) else worst.max_rel,
            tolerance=worst.tolerance,
            within=bool(parity),
        ),
    )


def _placed(model: Model) -> Placed | None:
    placement = model.placement
    if placement is None or not placement.nodes:
        return None
    wanted = placement.requested[0]
    layers = {layer.name for layer in model.manifest.recurrent}
    here = [node for node in placement.nodes if node.provider == wanted]
    return Placed(
        nodes=placement.counts,
        recurrent=sum(node.layer in layers or node.op_type in _RECURRENT_OPS for node in here)
        + (_recurrent_inside(model) if any(map(_compiled, here)) else 0),
        fallen=tuple(f"{node.op_type} {node.name}" for node in placement.fallen),
        host=len(placement.host),
    )


def _compiled(node: PlacedNode) -> bool:
    """Whether it is a whole subgraph that the provider compiled: the profile cannot say more of what is in it.

    onnxruntime names such a node after the provider.
    """
    return node.name.startswith(f"{node.provider}_")


def _recurrent_inside(model: Model) -> int:
    """Number of recurrent ops, or of those that stand for them, in the subgraphs that the provider compiled."""
    partitions = read_partitions(model.session)
    if partitions is None:
        return 0
    ops = {*_RECURRENT_OPS, *(op for layer in model.manifest.recurrent for op in layer.op_types)}
    return sum(count for part in partitions.subgraphs for op, count in part.op_types.items() if op in ops)
