"""Time of every CAM on a ResNet, in forward passes and against PyPI's grad-cam, in one run.

grad-cam runs in a process of its own (its import name is that of our package) and takes turns with
ours, so that both see the same machine; it takes one target at a time, so its cost is exactly
linear in targets, and one is timed. Methods that take seconds an image, with it or with us, are
timed with one image. grad-cam's ScoreCAM and AblationCAM, a forward pass a channel, run once, the
latter on one channel in EVERY: linear in them too.
"""

import functools
import json
import math
import statistics
from collections.abc import Callable

import torch
from table import Call, Row, peak_mib, quartiles, seconds_of, show, take_turns
from worker import Worker

from model import CLIP, ModifiedResNet
from pytorch_grad_cam import CAMS
from saliency import relevance_maps

# embed_dim, image_resolution, vision_layers, vision_width
SHAPES = {"RN50": (1024, 224, (3, 4, 6, 3), 64), "RN101": (512, 224, (3, 4, 23, 3), 64)}
TARGETS = (1, 9)
# It is linear in targets; or costs the same for one as for nine.
FEWER_TARGETS = {"GScoreCAM": (1,), "ScoreCAM": (9,)}
ONE_IMAGE = ("FullGrad", "AblationCAM", "ScoreCAM", "GScoreCAM")
LOOKS_THROUGH = ("ScoreCAM", "GScoreCAM")  # ours: a forward pass of the whole network a channel
PER_CHANNEL = ("ScoreCAM", "AblationCAM")  # grad-cam's: the same
EVERY = 8
SMALL = (32, 64, (1, 1, 1, 1), 8)  # to warm up


def build(shape: tuple) -> ModifiedResNet:
    torch.manual_seed(0)
    return CLIP(*shape, None, 1, 1, 64, 1, 1).visual.eval()


def prepare(
    explain: Callable, model: str, method: str, batch: int, count: int, device: str, dtype
) -> Call:
    """The call to measure memory of, on a network of its own, warmed up on a small one."""
    calls = []
    for shape, images, targets in ((SMALL, 1, 1), (SHAPES[model], batch, count)):
        visual = build(shape).to(device, dtype)
        side = visual.input_resolution
        pixels = torch.randn(images, 3, side, side, device=device, dtype=dtype)
        directions = torch.randn(targets, visual.output_dim, device=device)
        calls.append(functools.partial(explain, visual, pixels, directions, method))
    calls[0]()
    return calls[1]


def resnet_rows(model: str, batch: int, methods: list[str], settings) -> list[Row]:
    """All rows of a model and a batch size, printed as they come."""
    one_by_one = [method for method in methods if method in ONE_IMAGE]
    others = [method for method in methods if method not in one_by_one]
    rows = cam_rows(model, batch, others, settings) if others else []
    return rows + (cam_rows(model, 1, one_by_one, settings) if one_by_one else [])


def cam_rows(model: str, batch: int, methods: list[str], settings) -> list[Row]:
    visual = build(SHAPES[model]).to(settings.device, settings.dtype)
    images = torch.randn(batch, 3, 224, 224, device=settings.device, dtype=settings.dtype)
    forward = functools.partial(torch.inference_mode()(visual), images)
    passes, rows = [], []
    worker = "grad_cam_worker.py", json.dumps(SHAPES[model]), str(settings.threads), str(EVERY)
    with Worker(*worker) as grad_cam:
        for method in methods:
            theirs = math.nan
            if method in PER_CHANNEL:
                theirs = seconds_of(functools.partial(grad_cam.run, method, 1), "cpu")
                theirs *= EVERY if method == "AblationCAM" else 1
            for count in FEWER_TARGETS.get(method, TARGETS):
                targets = torch.randn(count, visual.output_dim, device=settings.device)
                calls: list[Callable[[], object]] = [
                    forward,
                    functools.partial(relevance_maps, visual, images, targets, method),
                ]
                if method in CAMS and method not in (*PER_CHANNEL, "GScoreCAM"):
                    calls.append(functools.partial(grad_cam.run, method, batch))
                slow = method in LOOKS_THROUGH
                rounds = take_turns(
                    calls, 1 if slow else 3, 0 if slow else settings.seconds, settings.device
                )
                passes += [turn[0] for turn in rounds]
                ratios = [turn[1] / turn[0] for turn in rounds]
                gains = [count * (turn[2] if turn[2:] else theirs) / turn[1] for turn in rounds]
                low, high = quartiles(ratios)
                peak = math.nan
                if settings.memory and not slow:
                    shape = model, method, batch, count, settings.device, settings.dtype
                    call = functools.partial(prepare, relevance_maps, *shape)
                    peak = peak_mib(call, settings.device, settings.threads)
                row = Row(
                    model,
                    batch,
                    count,
                    method,
                    milliseconds=1e3 * statistics.median(turn[1] for turn in rounds),
                    forwards=statistics.median(ratios),
                    forwards_low=low,
                    forwards_high=high,
                    speed_up=statistics.median(gains) if method in CAMS else math.nan,
                    peak_mib=peak,
                    rounds=len(rounds),
                )
                rows.append(row)
                show(row)
    rows.append(Row(model, batch, 0, "forward", 1e3 * statistics.median(passes), 1.0))
    show(rows[-1])
    return rows
