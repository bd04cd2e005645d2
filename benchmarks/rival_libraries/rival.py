"""What a rival is, and the case it is given: a system with the folder where its converted files are kept."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import systems

from edgeseq.bench.subjects import error_text
from edgeseq.conversion.reference import reset_states

FORGETS = "keeps no state from call to call"
"""Of a stateful model's file that always begins at zero."""


class Failed(Exception):
    """A rival could not convert or run a model; the message is its result."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A rival that is ready to run."""

    call: Callable[[], object]
    """Runs it once on the inputs it was opened with and returns the answers as numpy arrays."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how it runs."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One way to run a Keras model."""

    name: str
    provider: str
    """Name of the library that runs it."""
    open: Callable[[Case, Path | None, np.ndarray, int], Opened]
    """From case, converted file, inputs and threads (0 is all) to what can be called."""
    precision: str = "fp32"
    convert: Callable[[Case, Path, np.ndarray, int], None] | None = None
    """Writes the converted file; None where there is none."""
    file: str = ""
    """Name of the converted file, which rivals may share."""
    per: tuple[str, ...] = ()
    """``batch`` and ``threads``, where the converted file is only for these."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A system, and a folder for everything made of it."""

    name: str
    folder: Path

    @property
    def system(self):
        return systems.SYSTEMS[self.name]

    @functools.cached_property
    def model(self):
        """The Keras model, built on first use."""
        return systems.build(self.system)

    @property
    def states(self):
        """The variables of stateful layers."""
        return [state for layer in self.model.layers for state in getattr(layer, "states", None) or []]

    def answer(self, inputs):
        """What `tf.function` traces: the model, from states of zero."""
        # The first call of a model creates what must not be created inside a function.
        self.model(inputs, training=False)
        states = self.states

        def call(x):
            for state in states:
                state.assign(np.zeros(state.shape, np.float32))
            return self.model(x, training=False)

        return call

    def saved_model(self):
        """The model as TensorFlow's SavedModel, by Keras's own export."""

        def write(path):
            # Keras exports only models that were called.
            self.model(systems.feed(self.system, self.system.batches[0]), training=False)
            # They begin where the model is.
            reset_states(self.model)
            self.model.export(path, format="tf_saved_model", verbose=False)

        return once(self.folder / "saved_model", write)

    def converted(self, rival, inputs, threads):
        """The rival's file for this case, made now where it is not there yet; None for a rival without one."""
        if rival.convert is None:
            return None
        path = self.folder / rival.file
        parts = {"batch": f"batch-{len(inputs)}", "threads": f"threads-{threads}"}
        path = path.with_name("-".join([path.stem, *(parts[part] for part in rival.per)]) + path.suffix)
        return once(path, lambda target: rival.convert(self, target, inputs, threads))


def once(path, make):
    """`path`, made by `make(path)` where it is not there; what failed once fails again with the same reason.

    A converter that ends the whole process leaves its mark, so that the next process reports it and goes on.
    """
    with attempt(path.with_name(path.name + ".failed")):
        if not path.exists():
            make(path)
    return path


@contextlib.contextmanager
def attempt(mark):
    """Keep in the file `mark` why what is inside failed; it holds that already while it runs, should it not return."""
    if mark.exists():
        raise Failed(mark.read_text(encoding="utf-8"))
    mark.write_text("it ended the whole process", encoding="utf-8")
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, Failed) else error_text(error)
        mark.write_text(text, encoding="utf-8")
        raise Failed(text) from error
    except BaseException:
        # Somebody stopped it: no fault of the library.
        mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def cores(threads):
    """`threads` as a number, for libraries that do not take 0 as all."""
    return threads or len(os.sched_getaffinity(0))
