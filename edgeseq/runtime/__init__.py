"""The part to embed: it needs numpy and onnxruntime, and loads onnxruntime when the first model is opened.

>>> from edgeseq.runtime import Model
>>> model = Model("model.onnx")
>>> y = model(x)
"""

from __future__ import annotations

from edgeseq.runtime.manifest import Manifest, load_manifest
from edgeseq.runtime.model import Model
from edgeseq.runtime.pool import Pool, PooledStream
from edgeseq.runtime.stream import Stream

__all__ = ["Manifest", "Model", "Pool", "PooledStream", "Stream", "load_manifest"]
