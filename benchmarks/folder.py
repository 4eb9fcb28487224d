"""explain.py on a folder, by itself and on Ray: what its processes take, and pictures a second.

    python benchmarks/folder.py --output results/benchmarks/folder.csv

Pictures and prompts are those of throughput.py. Memory is the high-water mark of a process's
resident memory, libraries included, of the largest process of its kind. Pictures are counted from
when there is a file for each process that explains, to the last: without the time to start. `load`
is the machine's before all runs: what others do on it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from table import MIB, machine, tell
from throughput import TARGETS, draw
from worker import high_water

from dataset.reading import count_errors, shards
from embedded.scenes import concepts

EXPLAIN = Path(__file__).resolve().parents[1] / "code" / "explain.py"
WAYS = {"explain.py": (), "explain.py --ray": ("--ray",)}
FILES = 10  # at least, so that most are written when all processes have begun


def measured(way: str, model: str, pictures: Path, maps: Path) -> list[dict]:
    """A row for each kind of process."""
    number = len(list(pictures.iterdir()))
    prompts = [concept.phrases[0] for concept in concepts()[:TARGETS]]
    asked = [pictures, *prompts, "--model", model, "--shard", max(1, number // FILES)]
    command = [sys.executable, EXPLAIN, *asked, "--out", maps, *WAYS[way]]
    running = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    peaks: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    while running.poll() is None:
        with suppress(OSError):  # of a process that has just ended
            for process, kind in processes(running.pid, way):
                peaks[kind][process] = max(peaks[kind][process], high_water(process))
        time.sleep(0.2)
    if running.returncode:
        raise SystemExit(f"explain.py ends with {running.returncode}")
    explaining = len(peaks.get("worker", peaks["command"]))
    about = {
        "model": model,
        "way": way,
        "explaining": explaining,
        "threads each": 1 if WAYS[way] else torch.get_num_threads(),  # Ray's tasks have one core
        "images": number,
        "targets": TARGETS,
        "images a second": round(rate(shards(maps), explaining), 2),
        "bytes an image": round(size(shards(maps)) / number),
        "bytes read": round(size(pictures.iterdir()) / number),
    }
    return [
        about | {"process": kind, "peak MiB": max(found.values()) // MIB}
        for kind, found in peaks.items()
    ]


def processes(command: int, way: str) -> Iterator[tuple[int, str]]:
    """The command and what it has started that does its work, and what each is."""
    yield command, "command"
    for below in descendants(command):
        if not WAYS[way]:
            yield below, "decoder"  # or their server, which is smaller
        elif Path(f"/proc/{below}/cmdline").read_bytes().startswith(b"ray::write_shard"):
            yield below, "worker"


def descendants(process: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def rate(files: list[Path], explaining: int) -> float:
    """Pictures a second from when there were as many files as processes that explain."""
    written = {path: path.stat().st_mtime for path in files}
    files = sorted(files, key=written.get)
    seconds = written[files[-1]] - written[files[explaining - 1]]
    return sum(count_errors(path)[0] for path in files[explaining:]) / seconds


def size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="explain.py on a folder, by itself and on Ray")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--model", default="ViT-emoji")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    here = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(f"on {machine('cpu')}, {here}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        pictures = draw(Path(name) / "pictures", args.images)
        rows = [
            row | here
            for way in args.ways
            for row in measured(way, args.model, pictures, Path(name) / way)
        ]
    tell(rows, args.output)


if __name__ == "__main__":
    main()
