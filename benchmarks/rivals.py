"""Our maps against other libraries', where they do the same job, in one run.

    python benchmarks/rivals.py --output results/benchmarks/rivals.csv

RN50, the last block: PyPI's grad-cam, torchcam and Captum, whose maps are the same (tests hold them
against ours). torchcam and Captum ask for class scores: here the network's output is the cosine
with each of K targets. Their users call backward for one target after the other, and so do we for
them; the forward pass is shared where the library allows it. grad-cam takes one target at a time,
so one is timed and multiplied.

ViT-B/16, one image: LeGrad as its package has it, beside ours and other methods.

All take turns, and ratios are within a round, as in `speed.py`. Memory is the peak of one call in a
fresh process, beyond model and inputs.
"""

import argparse
import functools
import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

import speed
from speed_resnet import SHAPES, build, prepare
from table import Call, Row, machine, peak_mib, quartiles, save, show, take_turns
from worker import Worker

from saliency import relevance_maps

BATCH, TARGETS = 8, 9
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


LIBRARIES = {"": relevance_maps, "torchcam": torchcam, "captum": captum}


def race(
    about: tuple[str, int, int], calls: dict[str, Call], scale: dict[str, int], seconds: float
) -> list[Row]:
    """A row for each call but the first, a forward pass; ours is the second, and speed-up is how
    many times faster it is. What is timed in part counts `scale` times.
    """
    rounds = take_turns(list(calls.values()), 3, seconds, "cpu")
    times = [
        [scale.get(name, 1) * spent for name, spent in zip(calls, turn, strict=True)]
        for turn in rounds
    ]
    rows = []
    for place, name in enumerate(calls):
        if place:
            ratios = [turn[place] / turn[0] for turn in times]
            low, high = quartiles(ratios)
            row = Row(
                *about,
                name,
                milliseconds=1e3 * statistics.median(turn[place] for turn in times),
                forwards=statistics.median(ratios),
                forwards_low=low,
                forwards_high=high,
                speed_up=statistics.median(turn[place] / turn[1] for turn in times),
                rounds=len(times),
                scaled=name in scale,
            )
            rows.append(row)
    return rows


def resnet_rows(seconds: float) -> list[Row]:
    threads, network = torch.get_num_threads(), SHAPES["RN50"]
    visual = build(network)
    images, targets = torch.randn(BATCH, 3, 224, 224), torch.randn(TARGETS, visual.output_dim)
    forward = functools.partial(torch.inference_mode()(visual), images)
    rows = []
    for method in TORCHCAM:
        calls, peaks = {"forward": forward}, {}
        for library, explain in LIBRARIES.items():
            if library != "captum" or method == "GradCAM":
                name = f"{library} {method}".strip()
                calls[name] = functools.partial(explain, visual, images, targets, method)
                shape = "RN50", method, BATCH, TARGETS, "cpu", torch.float32
                call = functools.partial(prepare, explain, *shape)
                peaks[name] = peak_mib(call, "cpu", threads)
        with Worker("grad_cam_worker.py", json.dumps(network), str(threads)) as grad_cam:
            name = f"grad-cam {method}"
            calls[name] = functools.partial(grad_cam.run, method, BATCH)
            peaks[name] = calls[name]()
            found = race(("RN50", BATCH, TARGETS), calls, {name: TARGETS}, seconds)
        rows += shown(found, peaks)
    return rows


def vit_rows(seconds: float) -> list[Row]:
    """Our methods beside LeGrad's package, one image."""
    if not (Path(sys.prefix) / "legrad").exists():
        print("LeGrad is not installed, and left out (`make bench` installs it)")
        return []
    name, threads = "ViT-B/16", torch.get_num_threads()
    settings = speed.Settings("cpu", torch.float32, threads, seconds, 1, True)
    visual = speed.build(speed.SHAPES[name], settings)
    images, targets = speed.inputs(visual, 1, TARGETS)
    with Worker("legrad_worker.py", name, str(threads)) as legrad:
        theirs = {"legrad LeGrad": functools.partial(legrad.run, "LeGrad", 1, TARGETS)}
        peaks = {name: call() for name, call in theirs.items()}
        calls: dict[str, Call] = {"forward": functools.partial(speed.forward, visual, images)}
        for method in ("LeGrad", "direct", "last grad", "all grads"):
            calls[method] = functools.partial(relevance_maps, visual, images, targets, method)
            peaks[method] = speed.memory(speed.Case(name, method, 1, TARGETS, 1), settings)
        found = race((name, 1, TARGETS), calls | theirs, {}, seconds)
    return shown(found, peaks)


def shown(rows: list[Row], peaks: dict[str, float]) -> list[Row]:
    """Rows with the memory of each, printed."""
    rows = [replace(row, peak_mib=peaks[row.method]) for row in rows]
    for row in rows:
        show(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time of our CAMs and of other libraries'")
    parser.add_argument("--seconds", type=float, default=3, help="time for each method")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    print(f"on {machine('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("speed-up: how many times faster than that row relevance_maps is")
    rows = vit_rows(args.seconds) + resnet_rows(args.seconds)
    if args.output:
        save([asdict(row) for row in rows], args.output)


if __name__ == "__main__":
    main()
