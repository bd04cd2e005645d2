"""What a processor makes of products of 8-bit numbers, and so which forms are right on it.

onnxruntime multiplies unsigned 8-bit activations by signed 8-bit weights. x86 processors without VNNI do so by an
instruction that adds two products in 16 bits: 255 x 127 twice is more than that holds, and what is over is cut off
without a word (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "U8S8 and saturation").
With weights of 7 bits, up to 64 in magnitude, the sum always fits. ARM's instructions and VNNI's add in 32 bits.
`MatMulNBits` is not concerned: its 4-bit weights are small, and its 8-bit kernel for such processors multiplies the odd
and the even numbers apart.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Sums = Literal["any", "wide", "narrow"]
"""Which processors a form is for, by how they add products of 8-bit numbers: all, those that do in 32 bits, or those
that do in 16."""

_X86 = ("x86_64", "amd64", "i386", "i686", "x86")
_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")


def sums_of(architecture: str, features: Collection[str]) -> Sums:
    """``"wide"`` or ``"narrow"``, from what `edgeseq.bench.machine.this_machine` says.

    An x86 processor of unknown features counts as narrow, where weights of 7 bits are right on every one.
    """
    is_narrow = architecture.lower() in _X86 and not set(_VNNI) & set(features)
    return "narrow" if is_narrow else "wide"


def reason_against(made_for: Sums, sums: Sums) -> str:
    """Why a form made for processors with sums `made_for` is not used on one with `sums`; empty when it is."""
    if made_for in ("any", sums):
        return ""
    if sums == "narrow":
        return (
            "this processor has no VNNI, or does not tell: its sums of 8-bit products can overflow. The form with "
            "weights of 7 bits is tried instead"
        )
    return "this processor adds 8-bit products exactly, and so needs no weights of 7 bits"
