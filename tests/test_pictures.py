from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgeseq.errors import WrongUsage
from edgeseq.pictures import write_frames


def test_a_gif_shows_every_frame(tmp_path):
    frames = np.zeros((3, 4, 5, 1), np.float32)
    frames[1] = 1.0
    write_frames(tmp_path / "x.gif", frames)
    with Image.open(tmp_path / "x.gif") as picture:
        assert (picture.n_frames, picture.size) == (3, (5, 4))
        levels = []
        for index in range(3):
            picture.seek(index)
            levels.append(int(np.asarray(picture.convert("L")).mean()))
    assert levels == [0, 255, 0]


def test_a_png_holds_the_frames_side_by_side(tmp_path):
    frames = np.zeros((2, 4, 5, 3), np.uint8)
    frames[1, ..., 0] = 200
    write_frames(tmp_path / "x.png", frames)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert pixels.shape == (4, 10, 3)
    assert np.all(pixels[:, :5] == 0)
    assert np.all(pixels[:, 5:] == [200, 0, 0])


def test_floats_beyond_0_and_1_are_cut(tmp_path):
    write_frames(tmp_path / "x.png", np.array([-0.5, 0.5, 1.5], np.float32).reshape(1, 1, 3, 1))
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("name", "frames", "reason"),
    [
        ("x.jpg", np.zeros((1, 2, 2, 1)), r"\.gif or \.png, got x\.jpg"),
        ("x.png", np.zeros((2, 2, 1)), r"got shape \(2, 2, 1\)"),
        ("x.png", np.zeros((1, 2, 2, 2)), r"1 or 3 channels, got shape"),
        ("x.png", np.zeros((1, 2, 2, 1), np.int32), "got int32"),
        ("x.gif", np.full((1, 2, 2, 1), np.nan), "not finite"),
    ],
)
def test_what_is_no_film_is_refused(name, frames, reason, tmp_path):
    with pytest.raises(WrongUsage, match=reason):
        write_frames(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())
