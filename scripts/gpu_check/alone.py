"""Each model is checked in a process of its own: one that crashes, hangs or fills the GPU takes nothing else along."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from edgeseq.errors import EdgeseqError, ProviderUnavailable, WrongUsage
from edgeseq.runtime.providers import open_session
from edgeseq.runtime.tiny import tiny_model
from gpu_check.artifacts import Artifact
from gpu_check.check import DONE, NOT_RUN, Plan, Progress, blank, check
from gpu_check.measure import failure_of
from gpu_check.results import ArtifactResult, Failure, Measurement

_CONTEXT: Any = multiprocessing.get_context("spawn")
"""A fork would take over what this process has loaded of a provider."""

_PATIENCE, _LEAST_PATIENCE_SECONDS = 8.0, 120.0
"""How much longer than its time a model may take before its process is ended: building an engine takes minutes."""
_OVERTIME_SECONDS = 40.0
"""How much longer than the whole time."""


def check_alone(artifact: Artifact, provider: str, plan: Plan, seconds: float) -> ArtifactResult:
    """The last result of `check`, in a process of its own. What ends that process is told in the result."""
    if plan.over:
        return blank(artifact, provider, NOT_RUN)
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(sender, artifact, provider, plan, seconds), daemon=True)
    limit = min(time.monotonic() + max(_PATIENCE * seconds, _LEAST_PATIENCE_SECONDS), plan.deadline + _OVERTIME_SECONDS)
    process.start()
    sender.close()
    result, pending = last = blank(artifact, provider), "opening"
    try:
        while pending != DONE:
            if not receiver.poll(max(0.0, limit - time.monotonic())):
                return _ended(last, Failure(kind="TimedOut", message="it was ended: it took too long"))
            result, pending = last = receiver.recv()
    except EOFError:
        process.join()
        return _ended(last, Failure(kind="Crashed", message=f"its process ended with {_code(process.exitcode)}"))
    finally:
        receiver.close()
        if pending != DONE:
            process.kill()
        process.join()
    return result


def find_unavailable(provider: str, options: Mapping[str, str]) -> Failure | None:
    """Why `provider` cannot start, by a tiny session in a process of its own; None when it can.

    Raises WrongUsage for an unknown provider or options that it has not.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_try_to_start, args=(sender, provider, dict(options)), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(_LEAST_PATIENCE_SECONDS):
            return Failure(kind="ProviderUnavailable", message="starting it took too long, and was ended")
        failure: Failure | None = receiver.recv()
    except EOFError:
        process.join()
        message = f"starting it ended the process with {_code(process.exitcode)}"
        return Failure(kind="ProviderUnavailable", message=message)
    finally:
        receiver.close()
        process.kill()
        process.join()
    if failure is not None and failure.kind == "WrongUsage":
        raise WrongUsage(failure.message)
    return failure


def _try_to_start(sender: Connection, provider: str, options: Mapping[str, str]) -> None:
    try:
        open_session(tiny_model(), provider=provider, provider_options=options)
    except ProviderUnavailable as error:
        reason = f"{error.reason}. {error.advice}" if error.advice else error.reason
        sender.send(Failure(kind="ProviderUnavailable", message=reason))
    except EdgeseqError as error:
        sender.send(failure_of(error))
    else:
        sender.send(None)


def _send(sender: Connection, artifact: Artifact, provider: str, plan: Plan, seconds: float) -> None:
    # Whoever interrupts the check interrupts the process that waits here; this one is then ended.
    with contextlib.suppress(BrokenPipeError):
        for progress in check(artifact, provider, plan, seconds):
            sender.send(progress)


def _ended(last: Progress, failure: Failure) -> ArtifactResult:
    """What was known when the process ended, with its end as the reason of what was tried then."""
    result, pending = last
    if isinstance(pending, Measurement):
        return replace(result, measurements=(*result.measurements, replace(pending, failure=failure)))
    if pending == "parity":
        return replace(result, parity_failure=failure)
    return replace(result, failure=failure)


def _code(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"exit code {exit_code}"
