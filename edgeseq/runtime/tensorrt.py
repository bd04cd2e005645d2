"""TensorRT through onnxruntime: profiles planned from the manifest, and engines kept so that none is built twice.

An engine is built for one model, one range of shapes, one GPU and one version of everything: all that is in the name of
its folder. Options: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html; what decides about
a rebuild: onnxruntime/core/providers/tensorrt/tensorrt_execution_provider.cc.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseq.errors import MissingInput, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime import caching, nvidia, providers
from edgeseq.runtime.golden import read_golden
from edgeseq.runtime.manifest import Manifest
from edgeseq.runtime.ranges import GivenRanges, Range, choose_ranges, dynamic_shapes

FULL_NAME = providers.SHORT_NAMES["tensorrt"]
CONTEXT_NAME = "context.onnx"
"""The model with the engine in it, in the folder of a compilation."""
PLAN_NAME = "plan.json"
"""What a folder is for; written last, so that a folder without it is no finished one."""

MIN, OPT, MAX = "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"
CACHE, CACHE_PATH, CACHE_PREFIX = "trt_engine_cache_enable", "trt_engine_cache_path", "trt_engine_cache_prefix"
TIMING, TIMING_PATH = "trt_timing_cache_enable", "trt_timing_cache_path"
CONTEXT, CONTEXT_PATH, CONTEXT_EMBED = (
    "trt_dump_ep_context_model",
    "trt_ep_context_file_path",
    "trt_ep_context_embed_mode",
)
PRECISIONS = {"fp32": None, "fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable"}
"""Name of a precision -> the option that allows it."""
OPTIONS = (MIN, OPT, MAX, CACHE, CACHE_PATH, CACHE_PREFIX, TIMING, TIMING_PATH, CONTEXT, CONTEXT_PATH, CONTEXT_EMBED)
"""The options that are set here."""

# The parser of profiles splits at these.
_SEPARATORS = (":", ",")
# Where the engine is or goes is not what it is.
_PLACES = (CACHE_PATH, TIMING_PATH, CONTEXT_PATH)
BUILDING = (*OPTIONS, "trt_builder_optimization_level", "trt_max_workspace_size")
"""Options that matter while an engine is built, and not to one that is."""
# Results of cuDeviceGetAttribute: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What an engine is built with and for; an empty text where this machine does not tell."""

    onnxruntime: str
    """Version of onnxruntime."""
    cuda: str
    """The CUDA that onnxruntime was built for."""
    tensorrt: str
    """Version of TensorRT's library."""
    driver: str
    """The newest CUDA that NVIDIA's driver runs."""
    gpu: str
    """Name of the GPU."""
    compute_capability: str
    """Such as ``8.6``."""


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """One optimisation profile, as the provider's options take it."""

    ranges: dict[str, Range]
    """Axis to (shortest, fastest, longest)."""
    shapes: dict[str, str]
    """Option to the shape of every input that has a free axis: ``x:1x1x8,state_in.00.lstm.h:1x32``. Empty for a model
    of fixed shapes, which needs none."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How to open a model on TensorRT."""

    options: dict[str, str]
    """The provider's options, the caller's included; without the path of `folder`."""
    ranges: dict[str, Range]
    """Axis to (shortest, fastest, longest) that it is built for; empty where the caller's own options plan it."""
    folder: Path | None
    """Where the engine is kept; None where the caller's own options say."""
    cached: bool
    """Whether it was built before: else opening builds it, which takes 30 to 120 s."""
    ingredients: dict[str, Any]
    """What the name of `folder` is made of."""


def plan(manifest: Manifest, ranges: Mapping[str, Range]) -> Profiles:
    """The profile for `ranges`, which name every free axis (see `choose_ranges`), over all inputs, states included.

    Raises WrongUsage for an input whose name the provider's option cannot hold.
    """
    shapes = dynamic_shapes(manifest)
    for name in shapes:
        if any(separator in name for separator in _SEPARATORS):
            raise WrongUsage(
                f"TensorRT's profiles cannot name the input '{name}', because ':' and ',' separate them. "
                "Rename it in the ONNX file, or fix its lengths"
            )

    def text(place: int) -> str:
        return ",".join(
            f"{name}:" + "x".join(str(axis if isinstance(axis, int) else ranges[axis][place]) for axis in axes)
            for name, axes in shapes.items()
        )

    made = {option: text(place) for place, option in enumerate((MIN, OPT, MAX))} if shapes else {}
    return Profiles(ranges=dict(ranges), shapes=made)


def prepare(
    path: StrPath,
    manifest: Manifest,
    *,
    ranges: GivenRanges | None = None,
    samples: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    context: bool = False,
) -> Engine:
    """Plan the engine of a file: its profile, options and folder, and whether it is there. Builds nothing.

    Axes without a range in `ranges` take it from `samples` (arrays by input name), or else from the golden samples
    beside the file. `options` win over what is planned. `context` is for writing the engine into a model.

    Raises WrongUsage for axes without a range and for options that contradict one another.
    """
    given = {name: as_text(value) for name, value in (options or {}).items()}
    _check_options(given, ranges)
    if not context and is_true(given.get(CONTEXT, "0")):
        raise WrongUsage(f"{CONTEXT} is what compiling does: edgeseq compile, or edgeseq.compile_model")
    if MIN in given:
        chosen, shapes = {}, {}
    else:
        if samples is None and set(_free(manifest)) - set(ranges or {}):
            samples = _golden_inputs(path, manifest)
        chosen = choose_ranges(manifest, ranges, samples)
        shapes = plan(manifest, chosen).shapes
    device = read_device(device_id(given))
    ours = {**shapes, TIMING: "1", TIMING_PATH: str(timing_folder(device))}
    if context:
        ours |= {CONTEXT: "1", CONTEXT_EMBED: "1"}
    else:
        ours |= {CACHE: "1", CACHE_PREFIX: "edgeseq"}
    merged = {**ours, **given}
    ingredients = {
        "model": caching.hash_model(path),
        # onnxruntime names the engine by it.
        "file_name": Path(path).name,
        "options": {name: value for name, value in merged.items() if name not in _PLACES},
        "device": dataclasses.asdict(device),
    }
    kept = context or (CACHE_PATH not in given and is_true(merged[CACHE]))
    folder = caching.cache_folder() / "tensorrt" / caching.key_of(ingredients) if kept else None
    return Engine(
        options=merged,
        ranges=chosen,
        folder=folder,
        cached=folder is not None and (folder / PLAN_NAME).is_file(),
        ingredients=ingredients,
    )


def timing_folder(device: Device) -> Path:
    """Where the timings of kernels are kept, for all models of one GPU and one version of everything."""
    return caching.cache_folder() / "tensorrt" / "timing" / caching.key_of(dataclasses.asdict(device))


def device_id(options: Mapping[str, Any]) -> int:
    """The number of the GPU in a provider's options. Raises WrongUsage for what is no number."""
    text = str(options.get("device_id", "0"))
    if not text.isdigit():
        raise WrongUsage(f"device_id must be the number of a GPU, 0 or more; got {text}")
    return int(text)


def read_device(device_id: int = 0, load: nvidia.Load = ctypes.CDLL) -> Device:
    """Ask onnxruntime, TensorRT's library and NVIDIA's driver what they are. Raises MissingExtra."""
    versions = providers.versions()
    driver = nvidia.read_driver(load)
    there = device_id < len(driver.devices)
    return Device(
        onnxruntime=versions["onnxruntime"],
        cuda=versions["cuda"],
        tensorrt=_library_version(load),
        driver=".".join(str(number) for number in driver.cuda or ()),
        gpu=driver.devices[device_id] if there else "",
        compute_capability=_compute_capability(device_id, load) if there else "",
    )


def _library_version(load: nvidia.Load) -> str:
    """The loaded library's own version, else the installed package's."""
    for name in providers.nvidia_libraries():
        if name.startswith("libnvinfer.so"):
            try:
                number = int(load(name).getInferLibVersion())
            except OSError:
                break
            # Up to TensorRT 8 the steps were of 1000 and 100.
            major, minor = (number // 10000, number // 100 % 100) if number >= 10000 else divmod(number // 100, 10)
            return f"{major}.{minor}.{number % 100}"
    import importlib.metadata

    for package in _PACKAGES:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _compute_capability(device_id: int, load: nvidia.Load) -> str:
    library, numbers = load(nvidia.DRIVER_LIBRARY), []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        number = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(number), attribute, device_id)
        numbers.append(number.value)
    return ".".join(str(number) for number in numbers)


def _free(manifest: Manifest) -> set[str]:
    return {axis for axes in dynamic_shapes(manifest).values() for axis in axes if isinstance(axis, str)}


def _golden_inputs(path: StrPath, manifest: Manifest) -> Mapping[str, Any]:
    try:
        return read_golden(path, manifest.model_hash).inputs
    except MissingInput:
        return {}


def as_text(value: Any) -> str:
    """An option's value as onnxruntime takes it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def is_true(text: str) -> bool:
    """Whether an option of the provider's says yes."""
    return text.lower() in ("1", "true")


def _check_options(given: Mapping[str, str], ranges: GivenRanges | None) -> None:
    profiles = [option for option in (MIN, OPT, MAX) if option in given]
    if profiles and len(profiles) < 3:
        raise WrongUsage(f"{', '.join(profiles)} needs the other two of {MIN}, {OPT} and {MAX}")
    if profiles and ranges:
        raise WrongUsage(f"ranges and {profiles[0]} plan the same thing. Give one of them")
    if CACHE_PATH in given and CACHE in given and not is_true(given[CACHE]):
        raise WrongUsage(f"{CACHE_PATH} is of no use with {CACHE}={given[CACHE]}. Leave one of them out")
    if TIMING_PATH in given and TIMING in given and not is_true(given[TIMING]):
        raise WrongUsage(f"{TIMING_PATH} is of no use with {TIMING}={given[TIMING]}. Leave one of them out")
    device_id(given)
