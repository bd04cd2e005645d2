"""The one lock around everything that this room patches or switches for the whole process."""

from __future__ import annotations

import threading

LOCK = threading.RLock()
"""Held while anything of Keras's, TensorFlow's or tf2onnx's is patched or switched."""
