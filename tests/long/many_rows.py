"""The page of many rows, used in a headless browser."""

import json
import resource
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
from fuzzed_files import folder
from many_pictures import bytes_of
from outcomes import Tally
from PIL import Image

from dataset.decoding import Picture
from dataset.gallery import PAGE, write_gallery
from dataset.reading import SETTINGS, shard_path
from dataset.shard import Job, failed, row, write
from dataset.sources import LISTING, entries, listing
from dataset.storage import stored
from preprocessing import Window

BROWSER = Path(__file__).resolve().parents[1] / "browser"
TARGETS, GRID, SIZE = 9, (14, 14), (144, 115)
SHARD = 1000
BAD = 50  # one row in so many is an error
MOST = {"open": 30, "sort": 5, "filter": 5, "turn": 5}  # seconds, on a busy machine
BYTES = 10_000  # a row at most, of the page


def fill(place: Path, cases: int) -> dict[str, float]:
    """Pictures, and maps of them as runs write them; the scores with the second target by name, of
    those without an error.
    """
    (place / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(cases):
        small = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        large = small.resize(SIZE, Image.Resampling.BICUBIC)
        (place / "in" / f"{number:06}.jpg").write_bytes(bytes_of(large, "JPEG"))
    total, digest = listing([place / "in"], None)
    targets = [f"target {number}" for number in range(TARGETS)]
    settings = {"model": "ViT-emoji", "method": "direct", "negative": False, "targets": targets}
    settings |= {"storage": "uint8", "pictures": total, LISTING: digest}
    settings |= {"sources": [str(place / "in")]}
    (place / "out").mkdir()
    (place / "out" / SETTINGS).write_text(json.dumps(settings))
    job = Job("ViT-emoji", None, False, "uint8", SHARD, settings)
    scores, rows = {}, []
    for entry in entries([place / "in"]):
        if entry.id % BAD == BAD - 1:
            rows.append(failed(entry, "it is cut off"))
        else:
            picture = Picture(np.empty(0), SIZE, Window(0, 0, *SIZE))
            values, scales = stored(rng.random((1, TARGETS, *GRID), np.float32), "uint8")
            found = rng.uniform(10, 40, TARGETS).astype(np.float32)
            scores[entry.path] = float(found[1])
            rows.append(row(entry, picture, values[0], scales[0], found))
    for number in range(0, total, SHARD):
        write(rows[number : number + SHARD], shard_path(place / "out", number // SHARD), job)
    return scores


def seen(page: Path) -> dict:
    """What gallery.mjs sees; a browser takes more addresses than a check may."""
    if not (BROWSER / "node_modules").is_dir():
        raise SystemExit("needs a browser: make browser")
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    done = subprocess.run(
        ["node", BROWSER / "gallery.mjs", page],
        capture_output=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )
    return json.loads(done.stdout)


def pages_of_many_rows(tally: Tally, cases: int) -> None:
    """A page of so many pictures in a browser: sorted, filtered, each on one of its pages; open
    within 30 s, sorted, filtered and turned within 5.
    """
    with folder() as place:
        scores = fill(place, cases)
        path, _ = write_gallery(place / "out", cases)
        if path.stat().st_size > cases * BYTES:
            tally.wrong.append(f"the page has {path.stat().st_size:,} bytes")
        found = seen(path)
    times = Counter(name for page in found["pages"] for name in page)
    tally.right = sum(times[name] == 1 for name in scores)
    tally.refused = cases - len(scores)
    tally.wrong += [f"{name} is there {times[name]} times" for name in scores if times[name] != 1]
    best = sorted(scores.values(), reverse=True)
    for what, expected in (("sorted", best[:PAGE]), ("filtered", best[:3])):
        if not np.allclose(found[what][: len(expected)], expected, atol=0.011):
            tally.wrong.append(f"{what}: {found[what]} and not {expected}")
    tally.wrong += found["problems"]
    slow = {what: taken for what, taken in found["times"].items() if taken > MOST[what]}
    tally.wrong += [f"to {what} takes {taken:.1f} s" for what, taken in slow.items()]
