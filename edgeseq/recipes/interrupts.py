"""Ctrl-C between two steps of a training, never inside TensorFlow, where it can abort the whole process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that is yielded is called, which then raises KeyboardInterrupt.

    A second Ctrl-C strikes at once. Only the main thread gets signals; in any other the function does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    held = False
    before = signal.getsignal(signal.SIGINT)

    def hold(signum: int, frame: Any) -> None:
        nonlocal held
        if held:
            signal.default_int_handler(signum, frame)
        held = True

    def release() -> None:
        if held:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hold)
    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, before)
