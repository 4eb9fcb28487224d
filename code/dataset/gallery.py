"""A page to look at stored maps with: one HTML file that needs no other, and no network.

Pictures are in it as thumbnails, maps on their grid, and both in pages that the browser reads when
they are shown.
"""

import base64
import io
import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, TextIO

import matplotlib
import numpy as np
import PIL.Image

from dataset.pictures import picture_of, with_entries
from dataset.reading import maps_of, read_settings, window_of
from dataset.sources import Entry
from files import whole_file
from image_utils import to_bytes
from maps import normalise_maps
from preprocessing import Window

TEMPLATE = Path(__file__).with_name("gallery.html")
MARK = "<!-- data -->"
SIDE = 144  # of a thumbnail, in pixels
PAGE = 60  # pictures
GONE = PIL.Image.new("RGB", (SIDE, SIDE), "#ddd")


def write_gallery(folder: Path, most: int) -> tuple[Path, int]:
    """Write `gallery.html` into a folder of maps, of the first `most` pictures; where, and of how
    many. Where a picture cannot be read any more, its map is shown without it.
    """
    settings = read_settings(folder)
    path = folder / "gallery.html"
    before, after = TEMPLATE.read_text(encoding="utf-8").split(MARK)
    rows: list[dict] = []
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write(before)
        pictures = shown(islice(with_entries(folder), most), rows, settings["storage"])
        for number in count():
            if not (some := list(islice(pictures, PAGE))):
                break
            write_data(file, f"page-{number}", some)
        write_data(file, "rows-data", rows)
        write_data(file, "about-data", about(settings, len(rows)))
        file.write(after)
    return path, len(rows)


def write_data(file: TextIO, name: str, data: Any) -> None:
    said = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    file.write(f'<script type="application/json" id="{name}">{said}</script>\n')


def about(settings: dict[str, Any], number: int) -> dict[str, Any]:
    cmap = matplotlib.colormaps["winter" if settings["negative"] else "jet"]
    colours = to_bytes(cmap(np.arange(256) / 255)[:, :3])
    return {
        "title": f"{settings['model']}, {settings['method']}",
        "told": f"{number:,} of {settings['pictures']:,} pictures; scores are 100 times the cosine",
        "targets": settings["targets"],
        "page": PAGE,
        "colours": base64.b64encode(colours.tobytes()).decode(),
    }


def shown(
    found: Iterator[tuple[dict[str, Any], Entry]], rows: list[dict], kind: str
) -> Iterator[dict[str, Any]]:
    """What is drawn of pictures without an error; what is said of each goes into `rows`."""
    good = 0
    for row, entry in found:
        if row["error"] is not None:
            rows.append({"path": row["path"], "error": row["error"]})
            continue
        scores = [round(score, 3) for score in row["scores"]]
        rows.append({"path": row["path"], "scores": scores, "at": good})
        good += 1
        yield drawn(row, entry, kind)


def drawn(row: dict[str, Any], entry: Entry, kind: str) -> dict[str, Any]:
    thumbnail = thumbnail_of(entry)
    size = row["width"], row["height"]
    scale = SIDE / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    window = Window(*(end * scale for end in window_of(row)))
    across, down = window.right - window.left, window.bottom - window.top
    maps = np.uint8(255 * normalise_maps(maps_of(row, kind)).numpy() + 0.5)
    return {
        "thumbnail": base64.b64encode(thumbnail).decode(),
        "size": [width, height],
        "window": [round(number, 2) for number in (window.left, window.top, across, down)],
        "grid": [row["rows"], row["columns"]],
        "maps": base64.b64encode(maps.tobytes()).decode(),
    }


def thumbnail_of(entry: Entry) -> bytes:
    """As JPEG; grey if the picture cannot be read any more."""
    try:
        image = picture_of(entry)
        image.thumbnail((SIDE, SIDE))
    except (OSError, ValueError):
        image = GONE
    made = io.BytesIO()
    image.save(made, "JPEG", quality=70)
    return made.getvalue()
