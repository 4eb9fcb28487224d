"""Files are whole, or not there."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import thumbnails
from embedded import make_images
from files import whole_file


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "map.png"
    with whole_file(path) as unfinished:
        unfinished.write_bytes(b"new")
        assert unfinished.suffix == ".png"
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_what_interrupts_it_leaves_what_was_there(tmp_path, interruption):
    path = tmp_path / "map.png"
    path.write_bytes(b"old")

    def write():
        with whole_file(path) as unfinished:
            unfinished.write_bytes(b"ne")
            raise interruption

    with pytest.raises(type(interruption)):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def half_and_full(_, path, *args, **kwargs):
    """A disk that is full halfway through a picture."""
    Path(path).write_bytes(b"half")
    raise OSError("disk full")


@pytest.mark.parametrize("kind", ["thumbnail", "overview", "scene"])
def test_pictures_are_written_whole_or_not_at_all(tmp_path, monkeypatch, kind):
    path = tmp_path / ("Images/horse&sheep.png" if kind == "scene" else "map.png")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", half_and_full)
    monkeypatch.setattr(Figure, "savefig", half_and_full)
    with pytest.raises(OSError, match="disk full"):
        {
            "thumbnail": lambda: thumbnails.save(np.zeros((9, 9, 3)), path),
            "overview": lambda: make_images.draw_overview(path),
            "scene": lambda: make_images.main(["--folder", str(tmp_path)]),
        }[kind]()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
