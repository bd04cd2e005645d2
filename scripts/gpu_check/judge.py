"""The expectations, judged on results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpu_check.results import RIVAL, ArtifactResult, Expectation, Measurement

SPEEDUP = 10.0
"""What a fused op is expected to win over Keras's Loop on CUDA at batch 1: one launch of cuDNN for the whole sequence
against some ten for every step. Steps that are written out launch their kernels one by one as well: no such claim."""

RELU_ON_CUDA = "relu-lstm-cuda"
"""Name of the model whose activation only its lowering for CUDA keeps on the GPU."""

_GPU = ("cuda", "tensorrt")


def judge(results: Sequence[ArtifactResult]) -> tuple[Expectation, ...]:
    """Every expectation with its verdict; ``not run`` where nothing there is could tell."""
    meant = [result for result in results if not result.expects_refusal]
    native = [result for result in meant if result.provider in _GPU]
    refused = [result for result in results if result.expects_refusal and result.provider in _GPU]
    fused = [result for result in results if result.provider == "cuda" and result.expects_speedup]
    return (
        _all("every recurrent node on the GPU", native, _on_provider),
        _all(
            f"fused ops at least {SPEEDUP:g} × Keras's Loop export on CUDA, batch 1",
            fused,
            _fast,
        ),
        _all(
            'relu LSTM on the GPU through target="cuda"',
            [result for result in native if result.name == RELU_ON_CUDA and result.provider == "cuda"],
            _on_provider,
        ),
        _all("what a provider has no kernel for is refused, node by node", refused, _refused),
        _all("answers within the tolerance of Keras's", meant, _exact),
    )


Verdict = tuple[bool | None, str]
"""Whether a result meets the expectation, None where it did not run, and what to tell."""


def _all(name: str, results: Sequence[ArtifactResult], ask: Callable[[ArtifactResult], Verdict]) -> Expectation:
    answers = [(f"{result.name} on {result.provider}", *ask(result)) for result in results]
    met = [one for one, verdict, _ in answers if verdict]
    against = [f"{one}: {text}" for one, verdict, text in answers if verdict is False]
    missing = [f"{one}: {text}" for one, verdict, text in answers if verdict is None]
    if against:
        return Expectation(name=name, verdict="not met", detail="; ".join(against))
    if not met:
        return Expectation(name=name, verdict="not run", detail="no such model ran")
    # What ran keeps the expectation; what did not is said beside it, never counted as kept.
    left = f"; not run: {', '.join(entry.split(': ')[0] for entry in missing)}" if missing else ""
    return Expectation(name=name, verdict="met", detail=f"{len(met)} of {len(answers)} models{left}")


def _did_not_run(result: ArtifactResult) -> bool:
    return result.failure is not None and result.failure.kind in ("NotRun", "ProviderUnavailable", "MissingExtra")


def _on_provider(result: ArtifactResult) -> Verdict:
    if _did_not_run(result):
        return None, "did not run"
    if result.failure is not None:
        return False, f"{result.failure.kind}: {result.failure.message}"
    if result.placed is None:
        return False, "its placement was not proved"
    if result.placed.fallen:
        return False, f"{len(result.placed.fallen)} nodes ran elsewhere: {', '.join(result.placed.fallen[:3])}"
    return (True, "") if result.placed.recurrent else (False, "no recurrent node was seen on it")


def _refused(result: ArtifactResult) -> Verdict:
    if _did_not_run(result):
        return None, "did not run"
    if result.failure is None:
        return False, "it ran, where a refusal was expected"
    if result.failure.kind != "PlacementRefused":
        return False, f"{result.failure.kind}: {result.failure.message}"
    return True, ""


def _fast(result: ArtifactResult) -> Verdict:
    found = one_measurement(result, RIVAL, "call", 1)
    if found is None or found.time_ratio is None:
        return None, "not measured"
    ratio = found.time_ratio.value
    return ratio >= SPEEDUP, f"{ratio:.1f} ×"


def _exact(result: ArtifactResult) -> Verdict:
    if _did_not_run(result):
        return None, "did not run"
    failure = result.failure or result.parity_failure
    if failure is not None:
        # Where it runs is another expectation's question; what was refused gave no wrong answer.
        ran = failure.kind not in ("NotRun", "PlacementRefused")
        return (False, f"{failure.kind}: {failure.message}") if ran else (None, "did not run")
    if result.parity is None:
        return None, "not compared"
    shown = "NaN" if result.parity.max_rel is None else f"{result.parity.max_rel:.1e}"
    return result.parity.within, f"{shown} of {result.parity.tolerance:g}"


def one_measurement(result: ArtifactResult, subject: str, what: str, batch: int) -> Measurement | None:
    """The measurement of `subject`, if there is one."""
    for found in result.measurements:
        if (found.subject, found.what, found.batch) == (subject, what, batch):
            return found
    return None
