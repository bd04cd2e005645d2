"""Where the time goes: onnxruntime's profile of a few calls, put together by the Keras layer each node came from.

The nodes' names tell it, in edgeseq's files those of recurrent layers; other nodes are put together by their op type.

The profile counts in whole microseconds, cut off: a node loses half of one on average, so that many small nodes look a
little cheaper than they are. Writing it costs some microseconds a node besides, which falls between the nodes. On a
GPU a node's time is what it takes to hand the work over, not what the GPU takes for it.
"""

from __future__ import annotations

import bisect
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from edgeseq.bench.subjects import Subject
from edgeseq.errors import EdgeseqError, WrongUsage
from edgeseq.runtime import opening, providers, signature
from edgeseq.runtime.feed import Feed, Lengths, shape_of
from edgeseq.runtime.manifest import Manifest, load_manifest
from edgeseq.runtime.placement import KERNEL_TIME, layer_of

_RUN = "model_run"
_WARM_UP_CALLS = 3
PROFILED = "Means over profiled calls, which are slower than timed ones: the shares are what to read."
"""What belongs to every table and picture of layers."""

_LEAST_SECONDS, _MOST_CALLS = 0.1, 500

OUTSIDE = "outside of nodes"
"""What is written for the rest of a call."""


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """What one layer takes of a call, on average over the quieter half of the profiled calls of each input: a call
    that the machine disturbed would change the shares."""

    layer: str
    """Name of the Keras layer; empty for nodes whose name does not tell one: there is one entry an op type of those."""
    op_types: tuple[str, ...]
    """Op types of its nodes, the most expensive first; onnxruntime's own for fused nodes."""
    provider: str
    """onnxruntime's name of the provider that ran most of it."""
    mean_ns: float
    """Mean time of a call spent in its nodes, bodies of `Scan` included once, in nanoseconds."""
    share: float
    """`mean_ns` / the mean time of these calls; what is missing to 1 is spent outside of nodes."""
    calls: int = 0
    """How many calls these are."""

    @property
    def title(self) -> str:
        """The name of the layer, or for nodes that name none, their op types."""
        return self.layer or f"{', '.join(self.op_types)} of no layer"


def outside_share(layers: Iterable[LayerTime]) -> float:
    """Share of a profiled call that no node took; 0 where nodes at the same time add up to more than the call."""
    return max(0.0, 1.0 - sum(layer.share for layer in layers))


def time_layers(subject: Subject, *, calls: int = 20) -> tuple[LayerTime, ...]:
    """Time by layer over at least `calls` calls of whole cycles, the largest first, in a session of its own.

    Quick calls are more, up to 500, until they took a tenth of a second. Calls before them warm it up and are left out:
    at least 3, and one of each input.

    Raises WrongUsage for a subject that was not made from a file, and what opening and running it raise.
    """
    if subject.path is None or not subject.feeds:
        raise WrongUsage(f"'{subject.name}' was not made from an ONNX file: there is no profile of what it does")
    if calls < 1:
        raise WrongUsage(f"calls must be at least 1, not {calls}")
    cycle = len(subject.feeds)
    warm_ups, kept = (-(-count // cycle) * cycle for count in (_WARM_UP_CALLS, calls))
    # Windows does not let a file go that a session holds open.
    with tempfile.TemporaryDirectory(prefix="edgeseq-profile-", ignore_cleanup_errors=True) as folder:
        session, manifest = _open(subject, str(Path(folder) / "profile"))
        outputs = [spec.name for spec in manifest.outputs]
        feeds = [_feed(manifest, fed) for fed in subject.feeds]
        done, started = 0, time.perf_counter()
        while done < warm_ups + kept or (time.perf_counter() - started < _LEAST_SECONDS and done < _MOST_CALLS):
            for feed in feeds:
                providers.run(session, outputs, feed)
            done += cycle
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return layer_times(events, leave_out=warm_ups, cycle=cycle)


def _open(subject: Subject, profile: str) -> tuple[Any, Manifest]:
    """A session like that of the subject, but profiled, and the manifest."""
    path = Path(str(subject.path))
    manifest = load_manifest(path)
    options = dict(subject.provider_options) or None
    session = opening.open_planned(
        path,
        manifest,
        providers.choose(subject.provider, options),
        threads=subject.threads,
        provider_options=options,
        ranges=subject.ranges,
        profile=profile,
    ).session
    return session, manifest or signature.describe(path, session)


def _feed(manifest: Manifest, fed: Any) -> Mapping[str, Any]:
    """What the session takes for what the model takes, initial states included."""
    feed, lengths = Feed(manifest.inputs, manifest.input_structure), Lengths()
    arrays = feed.arrays(feed.by_name(fed), lengths)
    states = {
        state.input: np.full(shape_of(state.axes, lengths), state.initial, state.dtype) for state in manifest.states
    }
    return {**arrays, **states}


def layer_times(events: Sequence[Mapping[str, Any]], *, leave_out: int = 0, cycle: int = 1) -> tuple[LayerTime, ...]:
    """Time by layer of the runs in the events of a profile, without the first `leave_out` of them.

    The runs go through `cycle` inputs in turn; of each input the quieter half of its runs counts.

    Raises EdgeseqError where none is left: onnxruntime keeps a million events and drops the others.
    """
    runs = sorted((event["ts"], event["dur"]) for event in events if event["name"] == _RUN)[leave_out:]
    if not runs:
        raise EdgeseqError(f"the profile holds no run after the first {leave_out}: profile fewer calls")
    limits = [median_low(duration for _, duration in runs[turn::cycle]) for turn in range(min(cycle, len(runs)))]
    runs = [run for number, run in enumerate(runs) if run[1] <= limits[number % cycle]]
    starts = [start for start, _ in runs]
    layers: dict[tuple[str, str], _Layer] = defaultdict(_Layer)
    for event, self_us in _self_times(events):
        before = bisect.bisect_right(starts, event["ts"]) - 1
        if before < 0 or event["ts"] > sum(runs[before]):
            continue
        arguments = event["args"]
        name = layer_of(event["name"].removesuffix(KERNEL_TIME))
        layer = layers[name, "" if name else arguments["op_name"]]
        layer.by_op[arguments["op_name"]] += self_us
        layer.by_provider[arguments["provider"]] += self_us
    call_us = sum(duration for _, duration in runs) / len(runs)
    times = [layer.time(name, call_us, len(runs)) for (name, _), layer in layers.items()]
    return tuple(sorted(times, key=lambda time: -time.mean_ns))


@dataclass
class _Layer:
    """Microseconds of all profiled calls."""

    by_op: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_provider: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def time(self, name: str, call_us: float, calls: int) -> LayerTime:
        mean_us = sum(self.by_op.values()) / calls
        return LayerTime(
            layer=name,
            op_types=tuple(sorted(self.by_op, key=lambda op: -self.by_op[op])),
            provider=max(self.by_provider, key=lambda provider: self.by_provider[provider]),
            mean_ns=mean_us * 1000,
            share=mean_us / call_us if call_us else 0.0,
            calls=calls,
        )


def _self_times(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The nodes' events, each with its microseconds less those of the nodes that ran within it.

    The nodes of a body run in the thread of the node that holds it, while that runs.
    """
    threads: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL_TIME):
            threads[event["tid"]].append(event)
    for nodes in threads.values():
        nodes.sort(key=lambda event: (event["ts"], -event["dur"]))
        own = [event["dur"] for event in nodes]
        around: list[int] = []
        for index, event in enumerate(nodes):
            while around and event["ts"] >= nodes[around[-1]]["ts"] + nodes[around[-1]]["dur"]:
                around.pop()
            if around:
                own[around[-1]] -= event["dur"]
            around.append(index)
        # Rounding can make the nodes of a body one microsecond longer than what holds them.
        yield from ((event, max(0, microseconds)) for event, microseconds in zip(nodes, own, strict=True))
