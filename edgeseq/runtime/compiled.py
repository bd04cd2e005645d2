"""Files that `edgeseq compile` built for one provider and one device: what they were built on, and whether it is here.

An engine is no portable thing: where it can be loaded elsewhere at all, nobody has checked its answers there.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

from edgeseq.errors import CompiledElsewhere, WrongUsage
from edgeseq.files import StrPath
from edgeseq.runtime import providers, tensorrt
from edgeseq.runtime.manifest import Compiled

# What an engine of TensorRT is bound to; CUDA, the driver and onnxruntime are told, and may be newer.
_TENSORRT_BINDS = ("tensorrt", "gpu", "compute_capability")
# Makes an engine that any GPU since compute capability 8.0 runs.
_ANY_GPU = "trt_engine_hw_compatible"


def read_machine(full_name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What a file for the provider `full_name` is built on here: versions, and the device. Raises MissingExtra."""
    if full_name == tensorrt.FULL_NAME:
        return dataclasses.asdict(tensorrt.read_device(tensorrt.device_id(options)))
    return {
        "onnxruntime": providers.versions()["onnxruntime"],
        "system": platform.system(),
        "machine": platform.machine(),
    }


def check(path: StrPath, record: Compiled, full_name: str, options: Mapping[str, Any]) -> None:
    """Raise unless `record` is of the provider `full_name` and this machine.

    WrongUsage for another provider, CompiledElsewhere for another device or other versions.
    """
    if full_name != record.provider:
        short = {full: name for name, full in providers.SHORT_NAMES.items()}
        raise WrongUsage(
            f"{path} was compiled for {record.provider} and runs nowhere else; got {full_name}. Open it with provider "
            f"'{short.get(record.provider, record.provider)}', or use the original, which any provider may run"
        )
    here = read_machine(full_name, options)
    binding = tuple(record.built_on)
    if full_name == tensorrt.FULL_NAME:
        binding = _TENSORRT_BINDS[:1] if tensorrt.is_true(record.options.get(_ANY_GPU, "0")) else _TENSORRT_BINDS
    differences = {
        name: (record.built_on.get(name, ""), here.get(name, ""))
        for name in binding
        if record.built_on.get(name, "") != here.get(name, "")
    }
    if differences:
        raise CompiledElsewhere(path, differences)
