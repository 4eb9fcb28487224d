"""A folder of images end to end: read, explain nine prompts each, write the maps.

    python benchmarks/throughput.py --output results/benchmarks/throughput.csv

Images are scenes of emoji, 224 pixels, drawn and written before the clock starts; maps are
written as 8-bit PNG of the images' size. One process, as a script that calls `relevance_maps`
would be.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from table import machine, save

from embedded.scenes import concepts, draw_scene
from explainer import Explainer
from image_utils import to_bytes

TARGETS, BATCH = 9, 32


def run(name: str, paths: list[Path], folder: Path) -> dict:
    """Images a second, and the share of the time of each stage."""
    explainer = Explainer(name)
    spent = dict.fromkeys(("read", "explain", "write"), 0.0)
    started = time.perf_counter()
    targets = explainer.texts([concept.phrases[0] for concept in concepts()[:TARGETS]])
    for start in range(0, len(paths), BATCH):
        batch, marks = paths[start : start + BATCH], [time.perf_counter()]
        images = explainer.read(*batch)
        marks.append(time.perf_counter())
        heat = explainer.heat(images, targets)
        marks.append(time.perf_counter())
        for path, maps in zip(batch, heat, strict=True):
            for number, one in enumerate(maps):
                Image.fromarray(to_bytes(one)).save(folder / f"{path.stem}_{number}.png")
        marks.append(time.perf_counter())
        for place, stage in enumerate(spent):
            spent[stage] += marks[place + 1] - marks[place]
    total = time.perf_counter() - started
    rate = {"images a second": len(paths) / total, "maps a second": TARGETS * len(paths) / total}
    shares = {f"share, {stage}": seconds / total for stage, seconds in spent.items()}
    row = {"model": explainer.name, "images": len(paths), "targets": TARGETS, **rate, **shares}
    return {
        key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Throughput of a folder of images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=["ViT-emoji", "RN-emoji"])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    print(f"on {machine('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number:06}.png" for number in range(args.images)]
        for number, path in enumerate(paths):
            Image.fromarray(draw_scene(number).image).save(path)
        rows = [run(model, paths, folder) for model in args.models]
    for row in rows:
        print(row)
    if args.output:
        save(rows, args.output)


if __name__ == "__main__":
    main()
