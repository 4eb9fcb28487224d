"""The pictures of stored maps, where they were when they were explained."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from clip_ import to_rgb
from dataset.reading import read_rows, read_settings
from dataset.sources import LISTING, Entry, entries, listing
from image_utils import decoded


def with_entries(
    folder: Path, columns: Sequence[str] | None = None
) -> Iterator[tuple[dict[str, Any], Entry]]:
    """Rows, each with where its picture is; ValueError if other pictures are there now."""
    settings = read_settings(folder)
    sources = settings["sources"]
    if listing(sources, folder) != (settings["pictures"], settings[LISTING]):
        raise ValueError(
            f"the pictures in {', '.join(sources)} are others than those that were explained into "
            f"{folder}"
        )
    found = entries(sources, folder)
    for row in read_rows(folder, columns):
        yield row, next(entry for entry in found if entry.id == row["id"])


def picture_of(entry: Entry) -> PIL.Image.Image:
    return to_rgb(decoded(io.BytesIO(entry.where.read()), entry.path))
