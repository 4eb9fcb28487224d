"""What was stored, as others want it: overlays, arrays, boxes and masks."""

import json
import re
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import PIL.Image
from jaxtyping import Bool

from dataset.pictures import picture_of, with_entries
from dataset.reading import maps_of, read_rows, read_settings, window_of
from files import whole_file
from image_utils import to_bytes
from map_tools import Box, around, parts
from placing import overlaid, placed

LONGEST = 60  # characters of a file's name that are the picture's or a target's


def export_png(folder: Path, to: Path) -> Iterator[Path]:
    """Overlays at the size of the pictures, which must be where they were: of each picture a file
    for each target.
    """
    settings = read_settings(folder)
    for row, entry in with_entries(folder):
        if row["error"] is not None:
            continue
        image = picture_of(entry)
        maps = maps_of(row, settings["storage"])
        place = placed(maps, window_of(row), image.size)
        picture = np.float32(image) / 255
        for name, heat in zip(settings["targets"], place.heat, strict=True):
            path = to / f"{file_name(row)} {plain(name)}.png"
            shown = PIL.Image.fromarray(
                to_bytes(overlaid(picture, heat, place, settings["negative"]))
            )
            with whole_file(path) as unfinished:
                shown.save(unfinished)
            yield path


def export_npz(folder: Path, to: Path) -> Iterator[Path]:
    """Of each picture a file: maps [target, row, column], scores, targets, its size and window."""
    settings = read_settings(folder)
    for row in good_rows(folder):
        path = to / f"{file_name(row)}.npz"
        with whole_file(path) as unfinished:
            np.savez_compressed(
                unfinished,
                maps=maps_of(row, settings["storage"]).numpy(),
                scores=np.float32(row["scores"]),
                targets=np.array(settings["targets"]),
                path=np.array(row["path"]),
                size=np.array([row["width"], row["height"]]),
                window=np.float32(row["window"]),
            )
        yield path


def export_coco(folder: Path, to: Path) -> Iterator[Path]:
    """One file in COCO's layout: a category for each target; of each map the parts above Otsu's
    threshold, as boxes and masks, with the share of the map's relevance that is in them as `score`.
    """
    settings = read_settings(folder)
    path = to / "annotations.json"
    categories = [
        {"id": number, "name": name} for number, name in enumerate(settings["targets"], 1)
    ]
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(settings)}, "categories": {json.dumps(categories)}')
        write_list(file, "images", images(folder))
        write_list(file, "annotations", annotations(folder, settings["storage"]))
        file.write("}\n")
    yield path


EXPORTS = {"png": export_png, "npz": export_npz, "coco": export_coco}


def good_rows(folder: Path, *columns: str) -> Iterator[dict[str, Any]]:
    rows = read_rows(folder, (*columns, "error") if columns else None)
    return (row for row in rows if row["error"] is None)


def file_name(row: dict[str, Any]) -> str:
    """The number, which no other has, and the name as far as it can be one."""
    return f"{row['id']:07} {plain(Path(row['path']).stem)}"


def plain(name: str) -> str:
    return re.sub(r"[^\w .,()&+-]", "_", name)[:LONGEST].strip()


def write_list(file: TextIO, name: str, items: Iterator[dict]) -> None:
    """One item after the other: all of them may be more than fits in memory."""
    file.write(f', "{name}": [')
    for before, item in zip(chain("\n", repeat(",\n")), items, strict=False):
        file.write(before + json.dumps(item, ensure_ascii=False))
    file.write("\n]")


def images(folder: Path) -> Iterator[dict]:
    for row in good_rows(folder, "id", "path", "width", "height"):
        size = {"width": row["width"], "height": row["height"]}
        yield {"id": row["id"], "file_name": row["path"], **size}


def annotations(folder: Path, kind: str) -> Iterator[dict]:
    number = 0
    for row in good_rows(folder):
        size = row["width"], row["height"]
        place = placed(maps_of(row, kind), window_of(row), size)
        for target, one in enumerate(place.maps, 1):
            found, scores = parts(one, one.shape, None)
            for mask, score in zip(found, scores, strict=True):
                number += 1
                box = around(mask, score)
                yield {
                    "id": number,
                    "image_id": row["id"],
                    "category_id": target,
                    "bbox": in_picture(box, place.left, place.top),
                    "area": int(mask.sum()),
                    "segmentation": run_lengths(mask, place.left, place.top, size),
                    "score": round(score, 4),
                    "iscrowd": 0,
                }


def in_picture(box: Box, left: int, top: int) -> list[int]:
    """COCO's x, y, width, height."""
    return [left + box.left, top + box.top, box.right - box.left, box.bottom - box.top]


def run_lengths(
    mask: Bool[np.ndarray, "height width"], left: int, top: int, size: tuple[int, int]
) -> dict:
    """COCO's uncompressed run lengths, of 0 and 1 in turn, column by column."""
    width, height = size
    whole = np.zeros((height, width), bool)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    flat = whole.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(ends).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": [height, width]}
