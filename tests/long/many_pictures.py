"""The command on thousands of pictures, some of them bad, killed again and again."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from fuzzed_files import folder
from outcomes import CODE, Tally
from PIL import Image

from dataset.reading import read_rows

KILLS = 3  # of the command, and as many of a process that decodes
FLAT = 1.1  # memory at the end, of that after the first half
MOST = 1.5 * 2**30  # bytes of the command
GOOD = {"pixel", "long", "cmyk", "animated"}  # odd, and no reason not to explain them


def bytes_of(image: Image.Image, kind: str, **options) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def fill(place: Path, cases: int) -> dict[str, bool]:
    """Pictures by name, and whether they are good: every twentieth is odd or broken."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    photo, turned = (
        bytes_of(small.resize(size, Image.Resampling.BICUBIC), "JPEG")
        for size in ((500, 400), (400, 500))
    )
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    odd = {
        "truncated": photo[:3000],
        "empty": b"",
        "text": b"no picture",
        "pixel": bytes_of(Image.new("RGB", (1, 1)), "PNG"),
        "long": bytes_of(Image.new("L", (30_000, 10), 99), "PNG"),
        "cmyk": bytes_of(Image.new("CMYK", (60, 40), (9, 99, 0, 0)), "JPEG"),
        "animated": bytes_of(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }
    good = {}
    for number in range(cases):
        kind = list(odd)[number // 20 % len(odd)] if number % 20 == 7 else "good"
        name = f"{number:06} {kind}.png"
        (place / name).write_bytes(odd.get(kind, (photo, turned)[number % 2]))
        good[name] = kind == "good" or kind in GOOD
    return good


def start(place: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, CODE / "explain.py", "in", "a cow", "a sheep", "--out", "out"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "--model", "ViT-emoji", *options], cwd=place, **silent)


def resident(process: int) -> int:
    """Bytes in memory now; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )
    except (OSError, IndexError):
        return 0


def decoders_of(process: int) -> list[int]:
    """The processes that the command's server has started."""
    try:
        below = lambda one: [  # noqa: E731
            int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()
        ]
        return [decoder for server in below(process) for decoder in below(server)]
    except OSError:
        return []


def killed_runs(tally: Tally, cases: int) -> None:
    """Good, odd and broken pictures: each a row exactly once, the broken named, memory flat, though
    the command and its processes are killed.
    """
    rng, size = random.Random(0), str(max(2, cases // 20))
    with folder() as place:
        (place / "in").mkdir()
        good = fill(place / "in", cases)
        for number in range(KILLS):  # each ends after some more files
            running = start(place, "--shard", size)
            wanted = len(list((place / "out").glob("*.parquet"))) + rng.randrange(1, 4)
            while running.poll() is None:
                found = decoders_of(running.pid)
                if found and number and rng.random() < 0.01:
                    os.kill(rng.choice(found), signal.SIGKILL)
                if len(list((place / "out").glob("*.parquet"))) >= wanted:
                    running.kill()
                time.sleep(0.05)
        running, memory = start(place, "--shard", size), []
        while running.poll() is None:
            memory.append(resident(running.pid))
            time.sleep(0.2)
        if running.returncode:
            tally.wrong.append(f"the last run ends with {running.returncode}")
        middle = max(memory[: len(memory) // 2], default=0)
        if max(memory) > min(MOST, FLAT * max(middle, 2**28)):
            tally.wrong.append(f"memory grows from {middle:,} to {max(memory):,} bytes")
        judge(tally, good, list(read_rows(place / "out", ("id", "path", "error"))))
        if left := list((place / "out").glob(".unfinished*")):
            tally.wrong.append(f"it leaves {left}")


def judge(tally: Tally, good: dict[str, bool], rows: list[dict]) -> None:
    times = Counter(row["path"] for row in rows)
    for row in rows:
        if times[row["path"]] != 1 or good.get(row["path"]) != (row["error"] is None):
            tally.wrong.append(f"{row['path']}, {times[row['path']]} times: {row['error']}")
        elif row["error"] is None:
            tally.right += 1
        else:
            tally.refused += 1
    tally.wrong += [f"{name} has no row" for name in good if name not in times]
