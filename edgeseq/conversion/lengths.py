"""Which lengths to try a model at, where its free axes do not take every length.

Convolutions need some steps, an encoder that halves its sequence an even number, learned positions at most so many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Sizes = Mapping[str, int]

USUAL = (24, 131)
"""What almost every model takes: enough for windows, and so many more that no window or stride hides them."""

# Some more and some fewer steps; multiples of powers of two, of tens, and of three; up to a second of sound.
_LADDER = (144, 64, 16, 8, 4, 15, 10, 5, 3, 2, 1, 100, 256, 512, 1000, 1024, 2000, 4096, 16000, 16384)

_QUICK = 256


def candidates(axes: Sequence[str], known: Sizes | None = None) -> list[dict[str, int]]:
    """Lengths of the free `axes`, other than the batch, in the order in which to try them, none twice.

    After the usual ones come those `known` to be taken, which are the samples' own, and twice as many.
    """
    ways = [dict.fromkeys(axes, length) for length in USUAL]
    if known is not None and all(axis in known for axis in axes):
        ways += [{axis: known[axis] * factor for axis in axes} for factor in (1, 2)]
    ways += [dict.fromkeys(axes, length) for length in _LADDER]
    return [way for index, way in enumerate(ways) if way not in ways[:index]]


def quick_candidates(axes: Sequence[str], known: Sizes | None = None) -> list[dict[str, int]]:
    """Those of the `candidates` that Keras answers soon, when a recurrent layer goes step by step, and the known."""
    every = candidates(axes, known)
    return [way for way in every if max(way.values(), default=0) <= _QUICK or (known is not None and way == known)]


def in_words(ways: Iterable[Sizes]) -> str:
    """The lengths, for messages: one number where all axes are equally long."""
    return ", ".join(
        "×".join(map(str, way.values() if len(set(way.values())) > 1 else [*way.values()][:1])) for way in ways
    )


ADVICE = "Give `samples` of a length that it takes, or fix its time axis: keras.Input((steps, ...))"
"""What to do about a model for which no length was found."""
