"""Predicted frames as a picture file: an animated GIF, or a PNG strip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq import files
from edgeseq.errors import MissingExtra, WrongUsage
from edgeseq.files import StrPath

FRAME_MILLISECONDS = 200
"""How long a GIF shows each frame."""


def write_frames(path: StrPath, frames: NDArray[Any]) -> None:
    """Write frames to a `.gif` (animated, repeating) or a `.png` (side by side, the first on the left).

    Args:
        path: The file to write, whole or not at all; its suffix chooses the format.
        frames: Shape (time, height, width, channels) with 1 (grey) or 3 (red, green, blue) channels; floats from 0 to
            1, of which what lies beyond is cut, or uint8 from 0 to 255.

    Raises:
        WrongUsage: Another suffix, shape or dtype, or values that are not finite.
        MissingExtra: pillow is not installed.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in (".gif", ".png"):
        raise WrongUsage(f"frames are written as .gif or .png, got {target.name}")
    pixels = _pixels(frames)
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtra("pillow", "report", "writing pictures") from error
    with files.whole_file(target) as temporary:
        if kind == ".png":
            Image.fromarray(np.concatenate(list(pixels), axis=1)).save(temporary)
        else:
            first, *others = (Image.fromarray(picture) for picture in pixels)
            # disposal 2 clears each frame before the next: frames do not show through one another.
            first.save(temporary, save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0, disposal=2)


def _pixels(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Frames as bytes, shape (time, height, width) for grey or (time, height, width, 3) for colour."""
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise WrongUsage(
            f"frames must have the axes (time, height, width, channels) with 1 or 3 channels, got shape {frames.shape}"
        )
    if np.issubdtype(frames.dtype, np.floating):
        if not np.isfinite(frames).all():
            raise WrongUsage("frames hold values that are not finite numbers")
        frames = np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)
    elif frames.dtype != np.uint8:
        raise WrongUsage(f"frames must be floats from 0 to 1 or uint8, got {frames.dtype}")
    return frames[..., 0] if frames.shape[-1] == 1 else frames
