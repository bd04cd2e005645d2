"""What a provider took of a graph when a session was opened: subgraphs that it compiles whole, and what it left.

onnxruntime 1.24 and newer tell, where the session was opened with `session.record_ep_graph_assignment_info`, which
`providers.open_session` sets for any provider but the CPU's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

RECORD = {"session.record_ep_graph_assignment_info": "1"}
"""The session's configuration that makes onnxruntime remember."""


@dataclass(frozen=True, kw_only=True)
class Subgraph:
    """One part of the graph that the provider runs."""

    nodes: int
    """Number of nodes of the file in it."""
    op_types: dict[str, int]
    """Their op types, most first."""


@dataclass(frozen=True, kw_only=True)
class LeftNode:
    """One node that another provider runs."""

    name: str
    """Name of the node."""
    op_type: str
    """Its op type."""
    provider: str
    """onnxruntime's name of the provider that runs it."""


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """How a graph was divided."""

    provider: str
    """onnxruntime's name of the provider asked for."""
    subgraphs: tuple[Subgraph, ...]
    """What it took. One that computes node by node, as CUDA's, has a subgraph for each."""
    left: tuple[LeftNode, ...]
    """What it did not take."""

    @property
    def nodes(self) -> int:
        """Number of nodes that the provider took."""
        return sum(subgraph.nodes for subgraph in self.subgraphs)


def read_partitions(session: Any) -> Partitions | None:
    """The parts of an open session's graph; None where onnxruntime does not tell (before 1.24, or not recorded)."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    provider: str = session.get_providers()[0]
    try:
        parts = [(part.ep_name, list(part.get_nodes())) for part in session.get_provider_graph_assignment_info()]
    except Exception as error:
        # onnxruntime's errors have no common base class; any but this one is not ours to judge.
        if "record_ep_graph_assignment_info" not in str(error):
            raise
        return None
    subgraphs = tuple(
        Subgraph(nodes=len(nodes), op_types=dict(Counter(node.op_type for node in nodes).most_common()))
        for name, nodes in parts
        if name == provider
    )
    left = tuple(
        LeftNode(name=node.name, op_type=node.op_type, provider=name)
        for name, nodes in parts
        if name != provider
        for node in nodes
    )
    return Partitions(provider=provider, subgraphs=subgraphs, left=left)
