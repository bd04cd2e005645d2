"""Recurrent layers as ONNX nodes: a `RecurrentSpec` in, nodes out, by one of several strategies."""

from __future__ import annotations

from types import ModuleType

from edgeseq.errors import UnsupportedLayer, WrongUsage
from edgeseq.lowering import fused, scan, unrolled
from edgeseq.lowering.spec import RecurrentSpec

STRATEGIES: dict[str, ModuleType] = {"fused": fused, "unrolled": unrolled, "scan": scan}
"""Each has ``decline(spec, target) -> reason`` and ``lower(builder, spec, signals) -> Lowered``."""

# Written-out steps are faster than a Scan while they are few: a ConvLSTM's step is large, so that it pays for long.
# What a traced cell costs is not known, so it stays one body.
_UNROLL_AT_MOST = {"conv_lstm": 32, "lstm": 8, "gru": 8, "simple_rnn": 8, "traced": 0}


def choose(spec: RecurrentSpec, *, lowering: str = "auto", target: str = "cpu") -> tuple[str, str]:
    """Name of the strategy for `spec`, and why it was chosen.

    `lowering` is ``auto`` or a strategy's name, `target` is ``cpu``, ``cuda`` or ``tensorrt``.
    Raises WrongUsage for an unknown name, and UnsupportedLayer with every strategy's reason when none can.
    """
    if lowering != "auto":
        if lowering not in STRATEGIES:
            raise WrongUsage(f"unknown lowering '{lowering}'; allowed: auto, {', '.join(STRATEGIES)}")
        reason = STRATEGIES[lowering].decline(spec, target)
        if reason:
            raise UnsupportedLayer(spec.layer, f"lowering '{lowering}' was asked for, but {reason}")
        return lowering, "asked for"
    reasons = {name: strategy.decline(spec, target) for name, strategy in STRATEGIES.items()}
    # A Scan leaves masked steps out, while written-out steps are all computed.
    short = not spec.masked and spec.time_steps is not None and spec.time_steps <= _UNROLL_AT_MOST[spec.kind]
    order = ("fused", "unrolled", "scan") if short else ("fused", "scan", "unrolled")
    for name in order:
        if not reasons[name]:
            return name, reasons["fused"] if name != "fused" else "one recurrent op holds the whole layer"
    raise UnsupportedLayer(spec.layer, "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
