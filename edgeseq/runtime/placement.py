"""Where every node of a file ran, read from onnxruntime's profile: the proof that nothing fell back in silence.

The profile alone tells: what a session lists are the providers that it may use, and the nodes of subgraphs (the body of
a Scan) are placed one by one. Its events of the category ``Node`` carry the provider and the types of what went in and
came out: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeseq.errors import PlacementRefused
from edgeseq.runtime.partitions import read_partitions

KERNEL_TIME = "_kernel_time"
"""How the name of a node's event in a profile ends."""
_FLOATS = ("float", "double", "bfloat")
_SHOWN = 3

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PlacedNode:
    """One node of the graph that onnxruntime ran, after its own optimizations."""

    name: str
    """Name of the node: the layer's scope, the op and a number in files that edgeseq wrote."""
    op_type: str
    """Op type, such as ``LSTM``; onnxruntime's own for fused nodes."""
    layer: str
    """Name of the Keras layer it computes a part of; empty where the name does not tell."""
    provider: str
    """onnxruntime's name of the execution provider that ran it."""
    floating: bool
    """Whether floating-point numbers go in or come out. The others are arithmetic on shapes, lengths and masks."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where each node ran."""

    requested: tuple[str, ...]
    """onnxruntime's names of the providers asked for, the preferred one first; those that could not start left out."""
    nodes: tuple[PlacedNode, ...] = ()
    """Every node that the first call ran, once each, subgraphs included; empty on the CPU alone: nothing to prove."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Providers asked for, as they were asked for, that could not start or do not take the model, and why."""
    not_run: tuple[str, ...] = ()
    """Nodes that the first call did not come to, as those of a branch not taken, and that are elsewhere too: op type
    and name. Whether they compute with floating-point numbers is not known."""

    @property
    def fallen(self) -> tuple[PlacedNode, ...]:
        """Floating-point nodes that ran on another provider than the preferred one."""
        return tuple(node for node in self.nodes if node.floating and node.provider != self.requested[0])

    @property
    def host(self) -> tuple[PlacedNode, ...]:
        """Integer and Boolean nodes elsewhere: onnxruntime keeps arithmetic on shapes on the host on purpose."""
        return tuple(node for node in self.nodes if not node.floating and node.provider != self.requested[0])

    @property
    def counts(self) -> dict[str, int]:
        """Number of nodes by provider, most first."""
        return dict(Counter(node.provider for node in self.nodes).most_common())

    @property
    def ran_on(self) -> tuple[str, ...]:
        """onnxruntime's names of the providers that ran floating-point nodes, most nodes first."""
        counts = Counter(node.provider for node in self.nodes if node.floating)
        return tuple(name for name, _ in counts.most_common()) or self.requested[:1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user who allowed several providers should hear: what could not start, and what fell back."""
        told = [f"{name} was not used: {why}" for name, why in self.unavailable.items()]
        if self.fallen:
            ops = ", ".join(
                f"{count} {op}" for op, count in Counter(node.op_type for node in self.fallen).most_common()
            )
            wanted, others = self.requested[0], ", ".join(sorted({node.provider for node in self.fallen}))
            told.append(f"{len(self.fallen)} of {len(self.nodes)} nodes ran on {others}, not on {wanted}: {ops}")
        if self.not_run:
            shown = ", ".join(self.not_run[:_SHOWN])
            more = f" and {len(self.not_run) - _SHOWN} more" if len(self.not_run) > _SHOWN else ""
            told.append(f"the first call did not come to nodes that are not on {self.requested[0]}: {shown}{more}")
        return tuple(told)


class Proof:
    """The first run of a session opened with `prefix` as its profile's: it is profiled, and judged."""

    def __init__(self, requested: Sequence[str], unavailable: Mapping[str, str]):
        self._requested, self._unavailable = tuple(requested), unavailable
        # Imported here, because on the CPU alone there is nothing to prove.
        import tempfile

        # A session that never ran has its profile open still, which Windows does not let go.
        self._folder = tempfile.TemporaryDirectory(prefix="edgeseq-profile-", ignore_cleanup_errors=True)
        self._lock = threading.Lock()
        self._passed = False
        self.prefix = str(Path(self._folder.name) / "profile")
        """Where the session is to write its profile."""
        self.placement: Placement | None = None
        """Where the nodes ran; None before the first run that answered."""

    def run(self, session: Any, run: Callable[[], T]) -> T:
        """What `run`, which runs `session` once, answers.

        Raises PlacementRefused, on this run and any other, as `check_strict` does.
        """
        if not self._passed:
            # One at a time: profiling ends with the first run.
            with self._lock:
                if self.placement is None:
                    results = run()
                    try:
                        nodes = read_profile(Path(session.end_profiling()))
                    finally:
                        self._folder.cleanup()
                    self.placement = Placement(
                        requested=self._requested,
                        nodes=nodes,
                        unavailable=dict(self._unavailable),
                        not_run=_not_run(session, nodes),
                    )
                    check_strict(self.placement)
                    self._passed = True
                    return results
            check_strict(self.placement)
        return run()


def read_profile(path: Path) -> tuple[PlacedNode, ...]:
    """The nodes in a profile that onnxruntime wrote, in the order they first ran."""
    found: dict[tuple[str, str, str], bool] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") != "Node" or not event["name"].endswith(KERNEL_TIME):
            continue
        name, arguments = event["name"].removesuffix(KERNEL_TIME), event["args"]
        # Nodes without a name are numbered anew in each subgraph, so that two may share theirs.
        key = name, arguments["op_name"], arguments["provider"]
        found[key] = found.get(key, False) or _floating(arguments)
    return tuple(
        PlacedNode(name=name, op_type=op_type, layer=layer_of(name), provider=provider, floating=floating)
        for (name, op_type, provider), floating in found.items()
    )


def _not_run(session: Any, nodes: Sequence[PlacedNode]) -> tuple[str, ...]:
    """What onnxruntime placed elsewhere and a branch or a loop did not come to."""
    if not any(node.op_type in ("If", "Loop") for node in nodes):
        return ()
    partitions = read_partitions(session)
    ran = {node.name.removeprefix("fused ") for node in nodes}
    left = partitions.left if partitions else ()
    return tuple(f"{node.op_type} '{node.name}'" for node in left if node.name not in ran)


def check_strict(placement: Placement) -> None:
    """Raise PlacementRefused where only one provider was asked for and floating-point nodes ran on another."""
    if len(placement.requested) > 1 or not placement.fallen:
        return
    fallen = placement.fallen
    first = ", ".join(
        f"{node.op_type} '{node.name}'" + (f" of layer '{node.layer}'" if node.layer else "")
        for node in fallen[:_SHOWN]
    )
    more = f" and {len(fallen) - _SHOWN} more" if len(fallen) > _SHOWN else ""
    raise PlacementRefused(
        f"{len(fallen)} of {len(placement.nodes)} nodes ran on {fallen[0].provider}, not on {placement.requested[0]}, "
        f"which has no kernel for them as they are: {first}{more}. Export with --target for that provider, or allow it "
        "by a list, such as 'cuda,cpu'",
        tuple(node.name for node in fallen),
    )


def layer_of(name: str) -> str:
    """Name of the layer in a node's name, which is its scope; empty where there is none.

    Files of edgeseq's tell the recurrent layers; all other nodes are called ``node/...``. onnxruntime puts ``fused ``
    before the name of a node that it fused, and its transformer's name behind.
    """
    scope, slash, _ = name.removeprefix("fused ").partition("/")
    return scope if slash and scope != "node" else ""


def _floating(arguments: Mapping[str, Any]) -> bool:
    shapes = [*arguments.get("input_type_shape", ()), *arguments.get("output_type_shape", ())]
    # A Shape node looks at a tensor's shape alone.
    if arguments["op_name"] in ("Shape", "Size"):
        return False
    return any(kind.startswith(_FLOATS) for entry in shapes for kind in entry)
