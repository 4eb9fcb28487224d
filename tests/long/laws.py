"""What holds of every method's maps, whatever the image and the target; and of memory."""

import math
import os
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import hypothesis.strategies as st
import torch
from fuzzed_calls import COSTLY, SIDES, clip, different
from fuzzed_files import shuffled
from outcomes import Tally, for_all

from cams import CAMS
from methods import is_of_targets
from saliency import methods, relevance_maps

EXACT = 1e-8  # of the largest value, in float64
GROWTH = 32  # MiB


def laws_of_methods(tally: Tally, cases: int) -> None:
    """Order, neighbours, added targets, length, sign and form of targets, for every method."""
    models = [clip(kind, torch.float64) for kind in SIDES]
    everything = [(model, name) for model in models for name in methods(model)]
    for model, name in everything:

        def explain(images, targets, negative=False, model=model, name=name):
            return relevance_maps(model, images, targets, name, negative=negative)

        side = model.visual.input_resolution
        share = 10 if name in COSTLY else 1
        check_laws(tally, math.ceil(cases / len(everything) / share), name, side, explain)


def laws_of_cams(tally: Tally, cases: int) -> None:
    """The same for CAMs on every stage of a ResNet, with their options."""
    visual = clip("RN", torch.float64).visual
    forms = [
        (cam, layer, options)
        for name, cam in CAMS.items()
        for layer in (visual.layer2, visual.layer3[-1], visual.layer4)
        for options in ({}, {"aug_smooth": True}, {"eigen_smooth": True})
        if name not in COSTLY
    ]
    for cam, layer, options in shuffled(forms)[:cases]:

        def explain(images, targets, negative=False, cam=cam, layer=layer, options=options):
            (maps,) = cam(visual, [layer])(images, -targets if negative else targets, **options)
            return torch.from_numpy(maps)

        name = f"{cam.__name__} on {type(layer).__name__}, {options}"
        check_laws(tally, math.ceil(cases / len(forms)), name, 64, explain)


def check_laws(tally: Tally, cases: int, name: str, side: int, explain: Callable) -> None:
    """Of two images and two targets."""

    @for_all(
        cases,
        number=st.integers(0, 10**6),
        one=st.sampled_from([[0], [1]]),
        length=st.floats(1e-6, 1e6),
        other_side=st.sampled_from([side, side + 32]),
    )
    def judge(number, one, length, other_side):
        numbers = torch.Generator().manual_seed(number)
        images = torch.randn(2, 3, side, other_side, generator=numbers, dtype=torch.float64)
        targets = torch.randn(2, 16, generator=numbers, dtype=torch.float64)
        maps = explain(images, targets)
        for law, answer, expected in (
            ("order", partial(explain, images.flip(0), targets.flip(0)), maps.flip(0, 1)),
            ("neighbours", partial(explain, images[one], targets), maps[one]),
            ("added targets", partial(explain, images, targets[one]), maps[:, one]),
            ("length of targets", partial(explain, images, length * targets), maps),
            ("negative twice", partial(explain, images, -targets, is_of_targets(name)), maps),
            ("targets of each image", partial(explain, images, targets.expand(2, 2, 16)), maps),
        ):
            fault = partial(different, expected=expected, tolerance=EXACT)
            tally.judge(f"{name}, {law}, {number}", answer, fault, valid=True)


def flat_memory(tally: Tally, cases: int) -> None:
    """So many explanations by all methods that are quick, after a tenth of them to warm up."""
    named = [
        (clip(kind), name, torch.randn(2, 3, side, side))
        for kind, side in SIDES.items()
        for name in methods(clip(kind))
        if name not in COSTLY
    ]
    before, targets = None, torch.randn(3, 16)
    for number, (model, name, images) in zip(range(cases), cycle(named), strict=False):
        if number == cases // 10:
            before = resident()
        answer = partial(relevance_maps, model, images, targets, name)
        tally.judge(name, answer, lambda maps: "" if maps.isfinite().all() else "not finite")
    grown = resident() - before
    if grown > GROWTH:
        tally.wrong.append(f"{cases} explanations: memory grows by {grown:.0f} MiB")


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
