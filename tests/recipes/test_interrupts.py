"""Ctrl-C waits for the end of a step."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from edgeseq.recipes.interrupts import interrupts_between_steps


def strike():
    os.kill(os.getpid(), signal.SIGINT)


def test_it_waits_until_it_may():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_between_steps() as check:
        check()
        strike()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_one_strikes_at_once():
    with interrupts_between_steps():
        strike()
        with pytest.raises(KeyboardInterrupt):
            strike()


def test_other_threads_get_no_signals():
    outcomes = []

    def work():
        with interrupts_between_steps() as check:
            check()
            outcomes.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes == ["done"]
