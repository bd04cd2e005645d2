"""Keeping libraries from talking over a command's own words."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*, debug: bool) -> Iterator[None]:
    """Python warnings are not shown, and TensorFlow logs errors only; with `debug` everything is shown."""
    if debug:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def import_tensorflow() -> None:
    """Import TensorFlow, where it is installed, as Keras's backend and without the lines that it prints regardless.

    Its C++ part writes them to file descriptor 2 whatever TF_CPP_MIN_LOG_LEVEL says (TensorFlow 2.21); with `--debug`,
    or when the import fails, they are shown. Where it is missing nothing happens: what needs it says so.
    """
    # Whatever backend the user trains with: a file needs no other, and an export traces TensorFlow.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
