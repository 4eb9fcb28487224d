"""A disk that is full after some bytes, under what writes files."""

import contextlib
import io
import random
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import experiment
import numpy as np
from downloads import FILE, NAME, server
from fuzzed_files import folder
from matplotlib.figure import Figure
from outcomes import Tally

import overlay_figure
import thumbnails
from checkpoints import load_state_dict
from evaluation.study import Study
from figures import Panel

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import table

PICTURE = np.random.default_rng(0).random((64, 64, 3), np.float32)
ROWS = [{"method": "last grad", "pointing": number / 7} for number in range(99)]


def notebook(place: Path) -> experiment.Experiment:
    with patch.dict("os.environ", {"CLIP_RESULTS": str(place)}):
        made = experiment.Experiment("lab")
    made.figures.append(Figure())
    return made


def measure(place: Path) -> None:
    study = SimpleNamespace(folder=place, on_file=str)
    Study.measured(study, "naming", lambda: {"right": np.ones(2000)})


WRITERS: dict[str, Callable[[Path], None]] = {  # each writes the file of its name into a folder
    "figure.png": lambda place: overlay_figure.save(
        [[Panel(PICTURE, "a cat")]], ["ViT-emoji"], place / "figure.png"
    ),
    "thumbnail.png": lambda place: thumbnails.save(PICTURE, place / "thumbnail.png"),
    "lab/a figure.png": lambda place: notebook(place).save(Figure(), "a figure"),
    "lab/a table.csv": lambda place: notebook(place).table(ROWS, "a table"),
    "lab/lab.pdf": lambda place: notebook(place).close(),
    "naming.safetensors": measure,
    "speed.csv": lambda place: table.save(ROWS, place / "speed.csv"),
    FILE: lambda place: load_state_dict(NAME, place),
}


def full_disks(tally: Tally, cases: int) -> None:
    """After any number of bytes: a file is whole, or what was there before, and nothing is left."""
    rng = random.Random(0)
    with server() as handler:
        handler.way = "whole"
        for _, (name, write) in zip(range(cases), cycle(WRITERS.items()), strict=False):
            handler.asked = 0
            with folder() as place:
                write(place)
                size = (place / name).stat().st_size
                if write is measure:  # what has been measured is not measured again
                    (place / name).unlink()
                else:
                    (place / name).write_bytes(b"old")
                before, room = files(place), rng.randrange(size)
                said = f"{name}, room for {room} of {size} bytes"
                try:
                    with disk_with(room):
                        write(place)
                    tally.wrong.append(f"{said}: no error")
                except Exception as error:
                    if files(place) == before:
                        tally.refused += 1
                    else:
                        tally.wrong.append(f"{said}: leaves {sorted(files(place))} after {error!r}")


def files(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@contextmanager
def disk_with(room: int) -> Iterator[None]:
    """No file of this process can be longer; what it prints goes elsewhere."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
