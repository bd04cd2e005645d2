"""Opening a session on the execution provider that was asked for, or an error with the real reason: never on another.

onnxruntime is imported when the first session is opened, not before.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq.errors import (
    InputMismatch,
    InvalidFile,
    MissingExtra,
    ModelRefused,
    ProviderUnavailable,
    Unavailable,
    WrongUsage,
)
from edgeseq.files import StrPath, check_input
from edgeseq.runtime import nvidia
from edgeseq.runtime.partitions import RECORD
from edgeseq.runtime.tiny import tiny_model

SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Our name of a provider -> onnxruntime's. Any other is asked for by onnxruntime's own name."""

# CUDA's own errors, which lie in some 600 characters of templates and paths.
_GPU_FAILURE = re.compile(r"(?:CUDA|CUDNN|CUBLAS|CURAND|CUFFT) failure \d+: [^;]*[^; ]")

_ADVICE_PAGE = "https://onnxruntime.ai/docs/execution-providers"

# More than any machine has cores; onnxruntime would start every one of them.
_MOST_THREADS = 4096

_NVIDIA = {SHORT_NAMES["cuda"]: "cuda", SHORT_NAMES["tensorrt"]: "tensorrt"}

DISTRIBUTIONS = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn"),
    *("onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-training", "onnxruntime-silicon"),
)
"""The packages that bring a folder `onnxruntime`, each over the others'."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The providers that a session is opened on."""

    names: tuple[str, ...]
    """As they were asked for, the preferred one first; those that cannot start left out."""
    unavailable: Mapping[str, str]
    """Those that cannot start, or do not take the model, and why."""
    prefers_first: bool = True
    """Whether the first one asked for is among them, which options are for."""

    def without_first(self, reason: str) -> Choice:
        """The others, where the first does not take the model."""
        left = {**self.unavailable, self.names[0]: f"it does not take this model ({reason})"}
        return Choice(names=self.names[1:], unavailable=left, prefers_first=False)

    @property
    def full_names(self) -> tuple[str, ...]:
        """onnxruntime's names of them."""
        return tuple(SHORT_NAMES.get(name, name) for name in self.names)


def spelled(provider: str | Sequence[str]) -> str:
    """A provider, or a list of them as text with commas or as a sequence, as text: ``cuda,cpu``.

    Raises WrongUsage for anything else.
    """
    if isinstance(provider, str):
        return provider
    if isinstance(provider, Sequence) and provider and all(isinstance(name, str) for name in provider):
        return ",".join(provider)
    raise WrongUsage(f"provider is a name, as 'cuda', or names, as 'cuda,cpu' or ['cuda', 'cpu']; got {provider!r}")


def choose(provider: str, provider_options: Mapping[str, Any] | None = None) -> Choice:
    """What of ``cuda``, or of a list such as ``cuda,cpu``, can be used.

    A list is the caller's consent to the later ones: one that cannot start is left out, which opening a tiny session
    on it tells. One name alone is taken as it is. `provider_options` are those of the first.

    Raises WrongUsage for an unknown, empty or repeated name, ProviderUnavailable when none of a list can start.
    """
    names = [name.strip() for name in provider.split(",")]
    if len(names) == 1:
        return Choice(names=(provider,), unavailable={})
    full_names = [SHORT_NAMES.get(name, name) for name in names]
    if not all(names) or len(set(full_names)) < len(names):
        raise WrongUsage(f"providers are different names with commas between them, as in cuda,cpu; got '{provider}'")
    started, unavailable, reasons, advice = [], {}, [], ""
    # Those of engines would build, or write, one of the tiny model.
    options = {key: value for key, value in (provider_options or {}).items() if not str(key).startswith("trt_")}
    for place, name in enumerate(names):
        try:
            open_session(tiny_model(), provider=name, provider_options=None if place else options)
        except ProviderUnavailable as error:
            unavailable[name] = f"it cannot start ({error.reason})"
            reasons.append(f"{name}: {error.reason}")
            advice = advice or error.advice
        else:
            started.append(name)
    if not started:
        raise ProviderUnavailable(provider, "; ".join(reasons), advice)
    return Choice(names=tuple(started), unavailable=unavailable, prefers_first=started[0] == names[0])


def open_session(
    source: StrPath | bytes,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, Any] | None = None,
    others: Sequence[str] = (),
    profile: str | None = None,
    config: Mapping[str, str] | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` of `source`, an ONNX file or its bytes, on `provider` first.

    What `provider` has no kernel for goes to `others`, in their order, and after them to the CPU. `profile` is the
    beginning of the path that onnxruntime writes a profile to. `config` is for the session's own entries.

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
    check_options(full_name, threads, provider_options)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Only what is fatal: every error is raised as well, with the same words.
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    # Where only the CPU can run a node there is nothing to record.
    recorded = {} if full_name == SHORT_NAMES["cpu"] else RECORD
    for key, value in {**recorded, **(config or {})}.items():
        options.add_session_config_entry(key, value)
    other_names = [_full_name(onnxruntime, other) for other in others]
    if not _NVIDIA.keys().isdisjoint({full_name, *other_names}):
        nvidia.preload(onnxruntime)
    raised = _exceptions()
    file_errors = (raised.InvalidProtobuf, raised.InvalidGraph, raised.NoModel, raised.NoSuchFile)
    other_errors = (raised.Fail, raised.InvalidArgument, raised.NotImplemented, raised.RuntimeException, raised.EPFail)
    try:
        session = onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else os.fspath(source),
            options,
            providers=[(full_name, dict(provider_options or {})), *other_names],
            enable_fallback=0,
        )
    except (*file_errors, *other_errors, RuntimeError, ValueError) as error:
        reason = _reason(error)
        if full_name == SHORT_NAMES["cpu"] or isinstance(error, file_errors):
            raise InvalidFile("a model in memory" if isinstance(source, bytes) else source, reason) from error
        raise _unavailable(onnxruntime, provider, full_name, provider_options, reason) from error
    if session.get_providers()[0] != full_name:
        reason = "onnxruntime gave no reason and would run on the CPU"
        raise _unavailable(onnxruntime, provider, full_name, provider_options, reason)
    known = session.get_provider_options().get(full_name)
    if provider_options and known:
        _check_known(provider, provider_options, known)
    return session


def run(session: Any, outputs: Sequence[str], feed: Mapping[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
    """`session.run`, with onnxruntime's run `options`.

    Raises InputMismatch for what an op refuses: a word id past the vocabulary, shapes that do not fit one another;
    Unavailable where the GPU fails, as when its memory is full.
    """
    try:
        found: list[np.ndarray] = session.run(outputs, feed, options)
    except _refusals() as error:  # evaluated only when something was raised
        raise _refused(error) from error
    return found


def run_bound(session: Any, binding: Any, options: Any = None) -> None:
    """`session.run_with_iobinding`; as `run`."""
    try:
        session.run_with_iobinding(binding, options)
    except _refusals(RuntimeError) as error:  # of bindings, onnxruntime raises Python's own
        raise _refused(error) from error


def _refused(error: Exception) -> InputMismatch | Unavailable:
    reason = _reason(error)
    if _GPU_FAILURE.search(reason):
        return Unavailable(f"the GPU failed: {reason}. Try a smaller batch, another device_id, or provider 'cpu'")
    return InputMismatch(f"onnxruntime refuses this input: {reason}")


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


def known_name(provider: str) -> str:
    """onnxruntime's name of a provider, installed or not. Raises WrongUsage for one that it has never heard of."""
    onnxruntime = _onnxruntime()
    known = {*onnxruntime.get_all_providers(), *onnxruntime.get_available_providers()}
    full_name = SHORT_NAMES.get(provider, provider)
    if full_name not in known:
        others = sorted(known - set(SHORT_NAMES.values()))
        raise WrongUsage(f"unknown provider '{provider}'; allowed are {', '.join([*SHORT_NAMES, *others])}")
    return full_name


def _full_name(onnxruntime: Any, provider: str) -> str:
    full_name, installed = known_name(provider), onnxruntime.get_available_providers()
    if full_name not in installed:
        short = {full: name for name, full in SHORT_NAMES.items()}
        has = ", ".join(short.get(name, name) for name in installed)
        reason = f"the installed onnxruntime {onnxruntime.__version__} was built without it; it has {has}"
        if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
            reason += ". Both onnxruntime and onnxruntime-gpu are installed, and overwrite each other's files"
        raise ProviderUnavailable(provider, reason, _advice(full_name))
    return full_name


def check_installed(provider: str) -> None:
    """Raise ProviderUnavailable, and WrongUsage for an unknown one, unless the installed onnxruntime has it."""
    _full_name(_onnxruntime(), provider)


def check_options(full_name: str, threads: int | None, provider_options: Mapping[str, Any] | None) -> None:
    """Raise WrongUsage for `threads` out of bounds, and for options that are no mapping or that the CPU has not."""
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
    """What to install where the provider is not compiled in."""
    if full_name in _NVIDIA:
        there = " ".join(name for name in DISTRIBUTIONS if _installed(name))
        uninstall = f"pip uninstall -y {there} && " if there else ""
        return f"Install it with: {uninstall}pip install 'edgeseq[gpu]'"
    return f"Install an onnxruntime built with {full_name}, and what that needs."


def _unavailable(
    onnxruntime: Any, provider: str, full_name: str, options: Mapping[str, Any] | None, reason: str
) -> ProviderUnavailable:
    """The real cause where it can be found, else `reason`.

    Raises WrongUsage where the options are the cause, ModelRefused where it is the model.
    """
    library = _library(onnxruntime, full_name)
    if full_name in _NVIDIA and library is not None:
        cause = nvidia.find_cause(
            _NVIDIA[full_name],
            library,
            getattr(onnxruntime, "cuda_version", None),
            folders=_library_folders(onnxruntime),
        )
        if cause is not None:
            return ProviderUnavailable(provider, cause.reason, cause.advice)
    if options:
        # Without them a session of almost nothing tells whether it is they that are refused.
        known = open_session(tiny_model(), provider=provider).get_provider_options().get(full_name) or {}
        _check_known(provider, options, known)
        if not _opens_tiny(onnxruntime, full_name, options):
            raise WrongUsage(f"the provider '{provider}' refuses its options {dict(options)}: {reason}")
    if _opens_tiny(onnxruntime, full_name, options or {}):
        raise ModelRefused(provider, reason)
    reason = _unloadable(library) or reason
    return ProviderUnavailable(provider, reason, f"See {_ADVICE_PAGE} for what {full_name} needs.")


def _opens_tiny(onnxruntime: Any, full_name: str, options: Mapping[str, Any]) -> bool:
    """Whether a model of almost nothing opens with `options`: then it is the model that the provider refuses."""
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            tiny_model(), quiet, providers=[(full_name, dict(options))], enable_fallback=0
        )
    except (*_refusals(), _exceptions().EPFail, RuntimeError, ValueError):
        return False
    return bool(session.get_providers()[0] == full_name)


def _check_known(provider: str, options: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Raise WrongUsage for an option that the provider, which told us all of its own, does not have."""
    for name in options:
        if known and name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            raise WrongUsage(
                f"the provider '{provider}' has no option '{name}'.{meant} It has {', '.join(sorted(known))}"
            )


def versions() -> dict[str, str]:
    """The installed ``onnxruntime`` and the ``cuda`` that it was built for, which is empty for a build without.

    Raises MissingExtra where there is no onnxruntime.
    """
    onnxruntime = _onnxruntime()
    return {"onnxruntime": onnxruntime.__version__, "cuda": getattr(onnxruntime, "cuda_version", None) or ""}


def library_folder() -> Path:
    """Where the installed onnxruntime has its shared libraries. Raises MissingExtra where there is none."""
    return Path(_onnxruntime().__file__).parent / "capi"


def nvidia_libraries() -> dict[str, bool]:
    """The libraries that the installed onnxruntime's CUDA and TensorRT need, and whether each can be loaded.

    Empty for a build without them. Raises MissingExtra where there is no onnxruntime.
    """
    onnxruntime = _onnxruntime()
    found: dict[str, bool] = {}
    for full_name, short in _NVIDIA.items():
        library = _library(onnxruntime, full_name)
        if library is not None:
            nvidia.preload(onnxruntime)
            found |= nvidia.find_libraries(short, library)
    return found


def _library(onnxruntime: Any, full_name: str) -> Path | None:
    """The provider's shared library; None for a provider that is compiled into onnxruntime."""
    stem = full_name.removesuffix("ExecutionProvider").lower()
    folder = Path(onnxruntime.__file__).parent / "capi"
    return next(folder.glob(f"*onnxruntime_providers_{stem}.*"), None)


def _library_folders(onnxruntime: Any) -> list[Path]:
    """Where other versions of a library may lie: the system's folders, CUDA's, and those of pip's packages."""
    paths = [Path(text) for text in os.environ.get("LD_LIBRARY_PATH", "").split(":") if text]
    paths += [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu"), *Path("/usr/local").glob("cuda*/lib64")]
    packages = Path(onnxruntime.__file__).parent.parent
    return [*paths, *packages.glob("nvidia/*/lib"), *packages.glob("tensorrt*_libs")]


def _unloadable(library: Path | None) -> str | None:
    """Why a provider's shared library cannot be loaded, which onnxruntime only logs; None when that is not it.

    To be asked only after onnxruntime failed: loaded before onnxruntime loads it, the library would not find its host.
    """
    if library is None:
        return None
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def _installed(package: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _reason(error: Exception) -> str:
    """onnxruntime's message without its error code and, for CUDA's own errors, its source lines; on one line."""
    text = " ".join(re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+|Error in execution) ?: ", "", str(error)).split())
    # What ONNX Runtime itself throws begins with where: file, line and the function's whole signature.
    text = re.sub(r"^/\S+\.(?:cc|h):\d+ [^(]*\((?:[^()]|\([^()]*\))*\)(?: const)? ", "", text)
    cuda = _GPU_FAILURE.search(text)
    return cuda.group() if cuda else text


def _refusals(*others: type[Exception]) -> tuple[type[Exception], ...]:
    raised = _exceptions()
    return raised.InvalidArgument, raised.Fail, raised.RuntimeException, raised.NotImplemented, *others


def _exceptions() -> Any:
    """The module of onnxruntime's exceptions, which have no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    return onnxruntime_pybind11_state
