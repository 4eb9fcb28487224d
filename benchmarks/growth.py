"""How time grows with tokens, blocks, targets and images, beside what the arithmetic says.

    python benchmarks/growth.py --output results/benchmarks/growth.csv

Each series doubles one size of a ViT of ViT-B/16's width. The exponent is the slope of a straight
line through log time over log size, of the larger half of the points; what is expected is the
same slope of the multiplications counted in `multiplications`. Where a cost does not depend on a
size, the exponent is 0; small sizes stay below the expectation, for calls cost something too.
"""

import argparse
import functools
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from table import machine, save, take_turns

from model import VisionTransformer
from saliency import relevance_maps

WIDTH, HEADS, PATCH = 768, 12, 16
USUAL = {"side": 14, "blocks": 4, "targets": 1, "images": 2}
SERIES = {
    "last grad": {
        "side": (7, 14, 28, 56),
        "blocks": (2, 4, 8, 16),
        "targets": (1, 8, 64, 512),
        "images": (1, 2, 4, 8),
    },
    "all grads": {
        "side": (7, 14, 28),
        "blocks": (2, 4, 8, 16),
        "targets": (2, 4, 8, 16),
        "images": (1, 2, 4, 8),
    },
}


def multiplications(method: str, side: int, blocks: int, targets: int, images: int) -> float:
    """Counted, of projections (linear in tokens), attention (quadratic) and filtered matrices."""
    tokens = side**2 + 1
    patches = tokens * 3 * PATCH**2 * WIDTH
    block = 12 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH
    # Of the last block: keys and values of all tokens, all else of CLS alone; and its way back.
    last = 2 * tokens * WIDTH**2 + 10 * WIDTH**2 + 2 * tokens * WIDTH
    last_back = 9 * WIDTH**2 + tokens * WIDTH
    forward = patches + (blocks - 1) * block + last
    if method == "last grad":
        row = blocks * tokens * WIDTH  # of CLS, in every block
        filtered = 2 * blocks * HEADS * tokens
        return images * (forward + row + targets * (last_back + filtered))
    # Back through keys, queries, values and attention; in the first block to the attention alone.
    back = (blocks - 2) * (12 * tokens * WIDTH**2 + 4 * tokens**2 * WIDTH)
    back += 9 * tokens * WIDTH**2 + tokens**2 * WIDTH + 2 * tokens * WIDTH**2
    filtered = 2 * (blocks - 1) * HEADS * tokens**2
    return images * (forward + targets * (last_back + back + filtered))


def build(side: int, blocks: int) -> VisionTransformer:
    torch.manual_seed(0)
    visual = VisionTransformer(side * PATCH, PATCH, WIDTH, blocks, HEADS, 512)
    return visual.eval()


def seconds_for(method: str, sizes: dict[str, int], budget: float) -> float:
    visual = build(sizes["side"], sizes["blocks"])
    images = torch.randn(sizes["images"], 3, sizes["side"] * PATCH, sizes["side"] * PATCH)
    targets = torch.randn(sizes["targets"], 512)
    call = functools.partial(relevance_maps, visual, images, targets, method)
    return statistics.median(turn[0] for turn in take_turns([call], 2, budget, "cpu"))


def slope(sizes: list[float], costs: list[float]) -> float:
    """Of the larger half of the points, two at least."""
    start = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[start:]), np.log(costs[start:]), 1)[0])


def series_of(method: str, name: str, values: tuple[int, ...], budget: float) -> list[dict]:
    cases = [USUAL | {name: value} for value in values]
    spent = [seconds_for(method, case, budget) for case in cases]
    counted = [multiplications(method, **case) for case in cases]
    sizes = [case["side"] ** 2 + 1 if name == "side" else case[name] for case in cases]
    label = "tokens" if name == "side" else name
    found, expected = slope(sizes, spent), slope(sizes, counted)
    print(f"{method:<12}{label:<10}{found:>10.2f}{expected:>10.2f}", flush=True)
    return [
        {
            "method": method,
            "grows": label,
            "size": size,
            "milliseconds": round(1e3 * time, 3),
            "exponent": round(found, 3),
            "expected": round(expected, 3),
        }
        for size, time in zip(sizes, spent, strict=True)
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Growth of time, measured and expected")
    parser.add_argument("--seconds", type=float, default=2, help="time for each point")
    parser.add_argument("--most", type=int, default=math.inf, help="leave out larger sizes")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    print(f"on {machine('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'method':<12}{'grows':<10}{'exponent':>10}{'expected':>10}")
    rows = []
    for method, series in SERIES.items():
        for name, values in series.items():
            kept = tuple(value for value in values if value <= args.most)
            rows += series_of(method, name, kept, args.seconds)
    if args.output:
        save(rows, args.output)


if __name__ == "__main__":
    main()
