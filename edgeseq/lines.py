"""What goes into a stream and comes out of it, as it comes: lines of JSON, raw frames, and signals between them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, BinaryIO

import numpy as np

from edgeseq import files
from edgeseq.errors import InvalidFile
from edgeseq.files import StrPath

STDIN = "-"
LINES = ".jsonl"
FRAME_DTYPES = ("float32", "float64", "int16", "int32", "int64", "uint8")
"""Numbers that raw frames may be made of, little-endian."""


def takes_steps(inputs: StrPath, frames: str | None) -> bool:
    """Whether a stream's `inputs` are fed as they come: JSON lines, frames or stdin, and not whole arrays."""
    return frames is not None or os.fspath(inputs) == STDIN or Path(inputs).suffix == LINES


@contextlib.contextmanager
def source(inputs: StrPath) -> Iterator[tuple[BinaryIO, str]]:
    """What is read, and its name in messages. Raises MissingInput."""
    if os.fspath(inputs) == STDIN:
        yield sys.stdin.buffer, "standard input"
        return
    with files.check_input(inputs, "inputs").open("rb") as file:
        yield file, os.fspath(inputs)


def value_of(line: str | bytes, number: int, named: str) -> Any:
    """What a line of JSON says. Raises InvalidFile, which names the line."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter of what is nested too deeply
        raise InvalidFile(named, f"line {number} is not JSON ({error})") from error


def json_lines(read: BinaryIO, named: str) -> Iterator[tuple[str, Any]]:
    """Each line that is not blank: its number in words, and its value. Raises InvalidFile."""
    for number, line in enumerate(read, start=1):
        if line.strip():
            yield f"line {number} of {named}", value_of(line, number, named)


def raw_frames(
    read: BinaryIO, named: str, *, dtype: str, shape: tuple[int, ...], count: int
) -> Iterator[tuple[str, Any]]:
    """`count` frames of `shape` at a time, fewer at the end: their place in words, and an array (time, ...).

    Raises InvalidFile for an input that ends within a frame.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    size = kind.itemsize * math.prod(shape)
    number = 1
    while content := read.read(size * count):
        whole, rest = divmod(len(content), size)
        if rest:
            raise InvalidFile(
                named, f"it ends within frame {number + whole}: {rest} of {size} bytes of {dtype} {shape}"
            )
        yield f"frame {number} of {named} and those after it", np.frombuffer(content, kind).reshape(whole, *shape)
        number += whole


@contextlib.contextmanager
def sink(path: Path) -> Iterator[IO[str]]:
    """A new file in the place of `path`, for `write_line`."""
    file = path.open("w", encoding="utf-8")
    try:
        yield file
    except BaseException:
        # What found no room once finds none now, and would hide the error that tells how far the stream came.
        with contextlib.suppress(OSError):
            file.close()
        raise
    file.close()


def write_line(file: IO[str], answer: Any) -> None:
    """`answer` as a line of JSON, at once."""
    file.write(json.dumps(answer) + "\n")
    file.flush()


class Interrupts:
    """Ctrl-C and SIGTERM end the block: at once where it waits for input, else when the chunk at hand is answered."""

    def __init__(self) -> None:
        self._busy = self._over = False
        self._before: dict[signal.Signals, Any] = {}
        self.signal: signal.Signals | None = None
        """What ended the block; None where nothing did."""

    def __enter__(self) -> Interrupts:
        # Python lets the main thread alone say what a signal does.
        here = threading.current_thread() is threading.main_thread()
        # One that comes while they are set is noted; to raise here would leave them set.
        self._busy = True
        for number in (signal.SIGINT, signal.SIGTERM) if here else ():
            # What the process was started to ignore, as in the background of a script, it goes on to ignore.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)
        self._busy = False
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._over = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return kind is KeyboardInterrupt and self.signal is not None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # A second one strikes at once.
        at_once = (self.signal is not None or not self._busy) and not self._over
        self.signal = signal.Signals(number)
        if at_once:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is done here is done to its end."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self.signal is not None:
            raise KeyboardInterrupt
