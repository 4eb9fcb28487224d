"""Small pictures, good and bad, in folders, lists, archives and tables."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SHAPES = ((40, 30), (30, 40), (35, 35))


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(SHAPES[number % 3])


def fill(folder: Path, count: int) -> Path:
    """A folder with that many good pictures, 00.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number:02}.png")
    return folder


def spoil(folder: Path) -> set[str]:
    """Bad pictures and odd ones beside the good; the names of the bad."""
    whole = io.BytesIO()
    picture(1).resize((300, 200)).save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no picture")
    (folder / "dangling.png").symlink_to("nowhere.png")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("L", (30_000, 10), 99).save(folder / "long.png")
    Image.new("CMYK", (20, 30), (9, 99, 0, 0)).save(folder / "cmyk.jpg")
    frames = [picture(number).resize((30, 30)) for number in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    return {"cut.jpg", "empty.png", "text.jpg", "dangling.png"}


def as_list(folder: Path, path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path"])
        writer.writerows(["x", picture] for picture in sorted(folder.iterdir()))
    return path


def as_archive(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for one in sorted(folder.iterdir()):
            archive.add(one, one.name)
    return path


def as_table(folder: Path, path: Path) -> Path:
    """As Hugging Face's data sets are, in row groups of three."""
    rows = [{"bytes": one.read_bytes(), "path": one.name} for one in sorted(folder.iterdir())]
    labels = list(range(len(rows)))
    pq.write_table(pa.table({"image": rows, "label": labels}), path, row_group_size=3)
    return path
