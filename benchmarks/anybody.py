"""Maps of models that are not ours, in forward passes of the same images by the same model.

    python benchmarks/anybody.py --output results/benchmarks/anybody.csv

One model of each pooling, of the size people use, with random weights: time does not depend on
them. All calls take turns in one process.
"""

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from table import machine, save, take_turns

from recording.encoders import Encoder, from_open_clip, from_transformers
from saliency import relevance_maps

TARGETS = (1, 9, 100)


def open_clip_model(name: str) -> Encoder:
    import open_clip

    logging.disable(logging.WARNING)  # that there are no weights
    return from_open_clip(open_clip.create_model(name))


def transformers_model(name: str) -> Encoder:
    import transformers

    model = getattr(transformers, f"{name}Model")
    return from_transformers(model(getattr(transformers, f"{name}Config")()))


MODELS = {
    "open_clip ViT-B-32": partial(open_clip_model, "ViT-B-32"),
    "transformers CLIP base": partial(transformers_model, "CLIP"),
    "transformers SigLIP base": partial(transformers_model, "Siglip"),
    "open_clip ViTamin-S": partial(open_clip_model, "ViTamin-S"),
}


def measure(name: str, batch: int, seconds: float) -> list[dict]:
    """A row for each number of targets."""
    encoder = MODELS[name]()
    encoder.model.eval()
    images = torch.randn(batch, 3, *encoder.size)
    with torch.no_grad():
        width = encoder.encode(images).shape[1]
    targets = [torch.randn(count, width) for count in TARGETS]

    def forward() -> None:
        with torch.no_grad():
            encoder.encode(images)

    calls = [forward, *(partial(relevance_maps, encoder, images, some) for some in targets)]
    times = torch.tensor(take_turns(calls, 2, seconds, "cpu"))
    forwards = (times[:, 1:] / times[:, :1]).median(0).values.tolist()
    return [
        {
            "model": name,
            "pooling": encoder.pooling,
            "images": batch,
            "targets": count,
            "forward, ms": round(1000 * times[:, 0].median().item(), 1),
            "forwards": round(value, 2),
            "rounds": len(times),
        }
        for count, value in zip(TARGETS, forwards, strict=True)
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Speed of models that are not ours")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=40, help="a model, and two rounds")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    print(f"on {machine('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = []
    for name in args.models:
        rows += measure(name, args.batch, args.seconds)
        print(*rows[-len(TARGETS) :], sep="\n", flush=True)
    if args.output:
        save(rows, args.output)


if __name__ == "__main__":
    main()
