"""What a rival is, and the case it is given: a system with the folder where its converted files are kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import systems

import edgeseq
from edgeseq.bench.subjects import error_text
from edgeseq.conversion.reference import reset_states


class Failed(Exception):
    """A rival could not convert or run a model; the message is its result."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A rival that is ready to run."""

    call: Callable[[], object]
    """Runs it once on the inputs it was opened with and returns the answers as numpy arrays."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how it runs."""
    returns_states: bool = True
    """Whether a caller of a stateful model can go on from where this call ended. Every call begins at zero, so without
    it the same is computed, but the state is lost."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One way to run a Keras model."""

    name: str
    provider: str
    """Name of the library that runs it."""
    open: Callable[[Case, Path | None, np.ndarray, int], Opened]
    """From case, converted file, inputs and threads (a number, never 0) to what can be called."""
    precision: str = "fp32"
    convert: Callable[[Case, Path, np.ndarray, int], None] | None = None
    """Writes the converted file; None where there is none."""
    file: str = ""
    """Name of the converted file, which rivals may share."""
    per: tuple[str, ...] = ()
    """``batch``, ``threads`` and ``edgeseq`` (its sources), where the converted file is only for these."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A system, and a folder for everything made of it."""

    name: str
    folder: Path
    sources: str
    """`source_hash`, taken once: somebody may be working on them."""

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

        return once(self.folder / "tensorflow" / "saved_model", write)

    def place(self, rival, batch, threads):
        """Where the rival's file is or will be: in a folder of its own, as converters write more than one file."""
        parts = {"batch": f"batch-{batch}", "threads": f"threads-{threads}", "edgeseq": self.sources}
        name = Path(rival.file)
        return self.folder / "-".join([name.stem, *(parts[part] for part in rival.per)]) / name.name

    def is_made(self, rival, batch, threads):
        """Whether there is nothing left to convert: the file is there, or the reason why it cannot be."""
        if rival.convert is None:
            return True
        path = self.place(rival, batch, threads)
        return path.exists() or _mark(path).exists()

    def converted(self, rival, inputs, threads):
        """The rival's file for this case, made now where it is not there yet; None for a rival without one."""
        if rival.convert is None:
            return None
        path = self.place(rival, len(inputs), threads)
        return once(path, lambda target: rival.convert(self, target, inputs, threads))


def source_hash():
    """Tells one edgeseq from another while it is worked on."""
    folder, digest = Path(edgeseq.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def once(path, make):
    """`path`, made by `make(path)` where it is not there; what failed once fails again with the same reason.

    Its folder gets its name when all is in it, so that what was stopped half way is never taken as made. A converter
    that ends the whole process leaves its mark, so that the next process reports it and goes on.
    """
    with attempt(_mark(path)):
        if not path.exists():
            part = path.parent.with_name(path.parent.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            make(part / path.name)
            part.replace(path.parent)
    return path


def _mark(path):
    return path.parent.with_name(path.parent.name + ".failed")


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
