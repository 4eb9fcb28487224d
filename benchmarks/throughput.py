"""A folder of pictures end to end, and what each part of that costs.

    python benchmarks/throughput.py --output results/benchmarks/throughput.csv

Pictures are scenes of emoji as JPEG of 500 x 400 pixels, drawn before the clock starts, with nine
prompts each. In the same run:

forward              the bare network over batches that are there already
explained, stored    the same batches, explained and written as Parquet
decoded, forward     the bare network, over pictures that processes decode
end to end           explain.py: decoded, explained, written
as PNG               as a script would: decoded, explained and written as PNG, picture by picture

Each is run in turn `--rounds` times; the median counts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from table import MIB, machine, tell
from worker import peak_resident

from dataset.decoding import Decoder, Decoders
from dataset.shard import Job, explain_shard
from dataset.sources import entries
from embedded.scenes import concepts, draw_scene
from explainer import Explainer
from image_utils import to_bytes
from question import ask

TARGETS, BATCH = 9, 32
FEW = 10  # one picture in so many is written as PNG


class Stages:
    """The parts of a run over the pictures in a folder."""

    def __init__(self, name: str, pictures: Path, place: Path, decoders: Decoders):
        self.explainer, self.pictures, self.place = Explainer(name), pictures, place
        self.decoders, self.shard = decoders, place / f"{name}.parquet"
        question = ask(self.explainer, [concept.phrases[0] for concept in concepts()[:TARGETS]])
        self.job = Job(name, question, False, "uint8", BATCH, {})
        self.entries = list(entries([pictures]))
        self.ready = list(decoders.each(self.entries))

    def forward(self) -> None:
        for some in batches([picture for _, picture in self.ready]):
            self.explainer.pictures(self.explainer.images(some))

    def explained_stored(self) -> None:
        explain_shard(self.shard, self.job, self.explainer, self.ready)

    def decoded_forward(self) -> None:
        found = [picture for _, picture in self.decoders.each(self.entries)]
        for some in batches(found):
            self.explainer.pictures(self.explainer.images(some))

    def end_to_end(self) -> None:
        explain_shard(self.shard, self.job, self.explainer, self.decoders.each(self.entries))

    def as_png(self) -> None:
        targets = self.job.question.directions
        paths = sorted(self.pictures.iterdir())[::FEW]
        for at in range(0, len(paths), BATCH):
            images = self.explainer.read(*paths[at : at + BATCH])
            for number, maps in enumerate(self.explainer.heat(images, targets), at):
                for target, one in enumerate(maps):
                    Image.fromarray(to_bytes(one)).save(self.place / f"{number}_{target}.png")


def batches(pictures: list) -> list[list[np.ndarray]]:
    pixels = [picture.pixels for picture in pictures]
    return [pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH)]


def seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measured(name: str, pictures: Path, place: Path, workers: int, rounds: int) -> list[dict]:
    with Decoders(Decoder(Explainer(name).frame()), workers) as decoders:
        stages = Stages(name, pictures, place, decoders)
        number = len(stages.entries)
        calls = {
            "forward": (stages.forward, number),
            "explained, stored": (stages.explained_stored, number),
            "decoded, forward": (stages.decoded_forward, number),
            "end to end": (stages.end_to_end, number),
            "as PNG": (stages.as_png, -(-number // FEW)),
        }
        times = [{what: seconds(call) for what, (call, _) in calls.items()} for _ in range(rounds)]
    size = stages.shard.stat().st_size / number
    rows = []
    for what, (_, done) in calls.items():
        rate = done / statistics.median(one[what] for one in times)
        row = {"model": name, "what": what, "images": done, "targets": TARGETS}
        row |= {"images a second": round(rate, 2), "workers": workers, "rounds": rounds}
        rows.append(row | {"bytes an image": round(size), "peak MiB": peak_resident() // MIB})
    return rows


def draw(folder: Path, number: int) -> Path:
    """A new folder of that many pictures."""
    folder.mkdir()
    for seed in range(number):
        scene = Image.fromarray(draw_scene(seed).image).resize((500, 400))
        scene.save(folder / f"{seed:06}.jpg", quality=90)
    return folder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Throughput of a folder of pictures")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--models", nargs="+", default=["ViT-emoji", "RN-emoji"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    print(f"on {machine('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        pictures = draw(Path(name) / "pictures", args.images)
        place, options = Path(name), (args.workers, args.rounds)
        rows = [row for one in args.models for row in measured(one, pictures, place, *options)]
    tell(rows, args.output)


if __name__ == "__main__":
    main()
