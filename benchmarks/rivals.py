"""Our CAMs against torchcam's and Captum's, where they do the same job: RN50, the last block.

    python benchmarks/rivals.py --output results/benchmarks/rivals.csv

Both ask for class scores: here the network's output is the cosine with each of K targets. Their
users call backward for one target after the other, and so do we for them; the forward pass is
shared where the library allows it. All take turns, and ratios are within a round, as in
`speed.py`. LeGrad has no package in the registry and is left out.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from speed_resnet import SHAPES, TARGETS, build
from table import Row, machine, quartiles, save, show, take_turns

from saliency import relevance_maps

# Its GradCAM++ does another job: of the cosine, where ours is of the logit.
TORCHCAM = ("GradCAM", "XGradCAM", "LayerCAM")


class Similarities(nn.Module):
    """A classifier whose classes are the targets."""

    def __init__(self, visual: nn.Module, targets: Tensor):
        super().__init__()
        self.visual = visual
        self.targets = F.normalize(targets, dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.visual(images), dim=-1) @ self.targets.T


def torchcam(visual: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    """Maps [image, target, row, column] by torchcam, not normalised."""
    import torchcam.methods

    model = Similarities(visual, targets)
    with getattr(torchcam.methods, method)(model, visual.layer4[-1]) as cam:
        scores = model(images)
        maps = [
            cam([target] * len(images), scores, retain_graph=True, normalized=False)[0]
            for target in range(len(targets))
        ]
    return torch.stack(maps, 1)


def captum(visual: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    """Maps [image, target, row, column] by Captum, whose Grad-CAM runs forward for each target."""
    from captum.attr import LayerGradCam

    cam = LayerGradCam(Similarities(visual, targets), visual.layer4[-1])
    maps = [
        cam.attribute(images, target=target, relu_attributions=True)[:, 0]
        for target in range(len(targets))
    ]
    return torch.stack(maps, 1).detach()


def rows_of(model: str, batch: int, seconds: float) -> list[Row]:
    """A row for us and for each rival; its speed-up is how many times faster we are."""
    visual = build(SHAPES[model])
    images = torch.randn(batch, 3, 224, 224)
    rows = []
    for count in TARGETS:
        targets = torch.randn(count, visual.output_dim)
        for method in TORCHCAM:
            rivals: dict[str, Callable] = {"torchcam": torchcam}
            if method == "GradCAM":
                rivals["captum"] = captum
            arguments = visual, images, targets, method
            calls = [
                functools.partial(torch.inference_mode()(visual), images),
                functools.partial(relevance_maps, *arguments),
                *(functools.partial(rival, *arguments) for rival in rivals.values()),
            ]
            rounds = take_turns(calls, 3, seconds, "cpu")
            for place, name in enumerate(["", *rivals], start=1):
                ratios = [turn[place] / turn[0] for turn in rounds]
                low, high = quartiles(ratios)
                row = Row(
                    model,
                    batch,
                    count,
                    f"{name} {method}".strip(),
                    milliseconds=1e3 * statistics.median(turn[place] for turn in rounds),
                    forwards=statistics.median(ratios),
                    forwards_low=low,
                    forwards_high=high,
                    speed_up=statistics.median(turn[place] / turn[1] for turn in rounds),
                    rounds=len(rounds),
                )
                rows.append(row)
                show(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time of our CAMs and of other libraries'")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=5, help="time for each method")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    print(f"on {machine('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("speed-up: how many times faster than that row relevance_maps is")
    rows = [row for batch in args.batches for row in rows_of("RN50", batch, args.seconds)]
    if args.output:
        save([asdict(row) for row in rows], args.output)


if __name__ == "__main__":
    main()
