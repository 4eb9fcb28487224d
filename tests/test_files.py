"""Files are whole, or not there."""

import pytest

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
