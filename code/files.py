"""Files that are whole, or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to, which takes the name `path` once the block has ended without an error.

        with whole_file("results/map.png") as unfinished:
            figure.savefig(unfinished)

    Whatever interrupts the block, a full disk or a key, what was at `path` is still there. The
    folder is made if there is none; the unfinished file has the same ending as `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{uuid4().hex[:12]}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
