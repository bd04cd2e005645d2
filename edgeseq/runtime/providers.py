"""Opening a session on the execution provider that was asked for, or an error with the real reason: never on another.

onnxruntime is imported when the first session is opened, not before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq.errors import InputMismatch, InvalidFile, MissingExtra, ProviderUnavailable, WrongUsage
from edgeseq.files import StrPath, check_input

SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Our name of a provider -> onnxruntime's. Any other is asked for by onnxruntime's own name."""

# More than any machine has cores; onnxruntime would start every one of them.
_MOST_THREADS = 4096

# The two onnxruntime packages install over each other, hence the uninstall.
_GPU_ADVICE = "Install it with: pip uninstall onnxruntime && pip install 'edgeseq[gpu]'"


def open_session(
    source: StrPath | bytes,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, Any] | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` of `source`, an ONNX file or its bytes, on `provider` first.

    `threads` are those within one op; None and 0 mean all cores (one thread a physical core). Ops run one after the
    other. `provider_options` go to the provider as they are; the CPU's takes none.

    Raises WrongUsage for an unknown provider or bad `threads` or `provider_options`, ProviderUnavailable when the
    provider is not compiled in or cannot start, MissingExtra when there is no onnxruntime, MissingInput when there is
    no file and InvalidFile when the model cannot be loaded.
    """
    if not isinstance(source, bytes):
        source = check_input(source)
    onnxruntime = _onnxruntime()
    full_name = _full_name(onnxruntime, provider)
    _check_options(full_name, threads, provider_options)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Only what is fatal: every error is raised as well, with the same words.
    options.log_severity_level = 4
    if full_name in (SHORT_NAMES["cuda"], SHORT_NAMES["tensorrt"]):
        # Finds the libraries that the gpu extra installs inside Python's own folders. It prints what it does not find.
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    raised = _exceptions()
    file_errors = (raised.InvalidProtobuf, raised.InvalidGraph, raised.NoModel, raised.NoSuchFile)
    other_errors = (raised.Fail, raised.InvalidArgument, raised.NotImplemented, raised.RuntimeException, raised.EPFail)
    try:
        session = onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else os.fspath(source),
            options,
            providers=[(full_name, dict(provider_options or {}))],
            enable_fallback=0,
        )
    except (*file_errors, *other_errors, RuntimeError, ValueError) as error:
        reason = _reason(error)
        if full_name == SHORT_NAMES["cpu"] or isinstance(error, file_errors):
            raise InvalidFile("a model in memory" if isinstance(source, bytes) else source, reason) from error
        reason = _unloadable_library(onnxruntime, full_name) or reason
        raise ProviderUnavailable(provider, reason, _advice(full_name)) from error
    if session.get_providers()[0] != full_name:
        reason = _unloadable_library(onnxruntime, full_name) or "onnxruntime gave no reason and would run on the CPU"
        raise ProviderUnavailable(provider, reason, _advice(full_name))
    return session


def run(session: Any, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """`session.run`.

    Raises InputMismatch for what an op refuses: a word id past the vocabulary, shapes that do not fit one another.
    """
    try:
        found: list[np.ndarray] = session.run(outputs, feed)
    except _refusals() as error:  # evaluated only when something was raised
        raise InputMismatch(f"onnxruntime refuses this input: {_reason(error)}") from error
    return found


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingExtra("onnxruntime", "cpu", "running a model") from error
    # Uninstalling one of onnxruntime and onnxruntime-gpu where both were leaves an empty folder that still imports.
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingExtra("onnxruntime", "cpu", "running a model (the folder onnxruntime is there, but empty)")
    return onnxruntime


def _full_name(onnxruntime: Any, provider: str) -> str:
    known, installed = onnxruntime.get_all_providers(), onnxruntime.get_available_providers()
    full_name = SHORT_NAMES.get(provider, provider)
    if full_name not in {*known, *installed}:
        others = sorted({*known, *installed} - set(SHORT_NAMES.values()))
        raise WrongUsage(f"unknown provider '{provider}'; allowed are {', '.join([*SHORT_NAMES, *others])}")
    if full_name not in installed:
        short = {full: name for name, full in SHORT_NAMES.items()}
        has = ", ".join(short.get(name, name) for name in installed)
        reason = f"the installed onnxruntime {onnxruntime.__version__} was built without it; it has {has}"
        raise ProviderUnavailable(provider, reason, _advice(full_name))
    return full_name


def _check_options(full_name: str, threads: int | None, provider_options: Mapping[str, Any] | None) -> None:
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise WrongUsage(f"threads must be an integer; got {threads!r}")
        if not 0 <= threads <= _MOST_THREADS:
            raise WrongUsage(f"threads must be 0 (all cores) or more, at most {_MOST_THREADS}; got {threads}")
    if provider_options is None:
        return
    if not isinstance(provider_options, Mapping) or not all(isinstance(key, str) for key in provider_options):
        raise WrongUsage(f"provider_options must be a dict with names as its keys; got {provider_options!r}")
    if provider_options and full_name == SHORT_NAMES["cpu"]:
        # onnxruntime would pass them over in silence.
        raise WrongUsage(f"the provider 'cpu' takes no options; got {', '.join(provider_options)}")


def _advice(full_name: str) -> str:
    if full_name == SHORT_NAMES["cuda"]:
        return _GPU_ADVICE
    if full_name == SHORT_NAMES["tensorrt"]:
        return f"{_GPU_ADVICE} && pip install tensorrt"
    return f"Install an onnxruntime built with {full_name}, and what that needs."


def _unloadable_library(onnxruntime: Any, full_name: str) -> str | None:
    """Why the provider's shared library cannot be loaded, which onnxruntime only logs; None when that is not it.

    To be asked only after onnxruntime failed: loaded before onnxruntime loads it, the library would not find its host.
    """
    stem = full_name.removesuffix("ExecutionProvider").lower()
    folder = Path(onnxruntime.__file__).parent / "capi"
    for library in folder.glob(f"*onnxruntime_providers_{stem}.*"):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return str(error)
    return None


def _reason(error: Exception) -> str:
    """onnxruntime's message without its error code, on one line."""
    return " ".join(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).split())


def _refusals() -> tuple[type[Exception], ...]:
    raised = _exceptions()
    return raised.InvalidArgument, raised.Fail, raised.RuntimeException, raised.NotImplemented


def _exceptions() -> Any:
    """The module of onnxruntime's exceptions, which have no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    return onnxruntime_pybind11_state
