"""What maps are good for: `python -m evaluation.map_use`.

Masks and boxes made of maps (`map_tools.py`), compared with those of the objects; and how often the
check of prompts (`prompt_check.py`) warns, where it should and where it should not. Options and
thresholds are chosen on scenes of the styles of training, and judged on scenes of the style never
trained on. Writes map_use.csv and prompt_check.csv, with 95 % bootstrap intervals over pictures;
without options, those of results/evaluation/.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from checkpoints import EMBEDDED, CheckpointError
from embedded.scenes import HELD_OUT_STYLE, TRAINING_STYLES
from evaluation.output import output_folder
from evaluation.scene_sets import SceneBatch, at_least_one, concept_phrases, scene_batches
from evaluation.tables import by_picture, csv_text, summary
from explainer import Explainer, explainers
from files import whole_file
from map_tools import around, masks, upsample
from maps import resize_maps
from prompt_check import mean_correlation, shares_below
from saliency import relevance_maps

SCENES = {"chosen on": (5_000_000, TRAINING_STYLES), "judged on": (5_100_000, (HELD_OUT_STYLE,))}
OBJECTS = (1, 2, 3, 4)
METHODS = {
    "ViT": ("direct", "direct signed", "last grad"),
    "ResNet": ("pool", "GradCAM", "LayerCAM"),
}
ENLARGED = {"bilinear": None} | {
    f"edges, radius 1/{one}, epsilon {epsilon}": {"radius": 1 / one, "epsilon": epsilon}
    for one, epsilon in product((14, 7, 5), (0.001, 0.01))
}
RULES = {"Otsu": None} | {f"share {share}": share for share in (0.3, 0.4, 0.5, 0.6, 0.7)}
MEASURES = ("IoU of the mask", "IoU of the box", "box right")

# The prompt has no part in the first two; in a mixture of both, it has five percent of the map.
BLIND = {"ViT": ("attention", "rollout"), "ResNet": ("EigenCAM",)}
SEEING = {
    "ViT": ("direct", "direct signed", "path", "last grad", "gradcam"),
    "ResNet": ("pool", "GradCAM", "LayerCAM", "XGradCAM", "HiResCAM"),
}
PROMPTS_SHARE = 0.05
UNRELATED = 20  # prompts

Samples = dict[tuple, dict[str, np.ndarray]]


def scenes(explainer: Explainer, which: str, count: int) -> Iterator[tuple[int, SceneBatch]]:
    """About `count` scenes, equally many of each number of objects; the number of the first."""
    seed, styles = SCENES[which]
    for objects in OBJECTS:
        number = 1_000_000 * objects
        each = -(-count // len(OBJECTS))
        for batch in scene_batches(
            each, objects, explainer.side, styles, seed + objects, explainer.pixels
        ):
            yield number, batch
            number += len(batch.images)


def overlaps(
    explainer: Explainer, which: str, count: int, enlarged: list[str], rules: list[str]
) -> Samples:
    """Of each method, way to enlarge and rule: a row an object, with its picture and MEASURES."""
    features, rows = explainer.texts(concept_phrases()), {}
    for number, batch in scenes(explainer, which, count):
        for method in METHODS[explainer.kind]:
            maps = raw(explainer, batch.images, features[batch.concepts], method)
            for way in enlarged:
                large = larger(maps, batch.images, way)
                for image, target in np.ndindex(*large.shape[:2]):
                    truth = batch.masks[image, target].numpy()
                    for rule in rules:
                        found = overlap(large[image, target], truth, RULES[rule])
                        rows.setdefault((method, way, rule), []).append((number + image, *found))
    names = ("picture", *MEASURES)
    return {key: dict(zip(names, np.array(row).T, strict=True)) for key, row in rows.items()}


def raw(explainer: Explainer, images: Tensor, targets: Tensor, method: str) -> Tensor:
    return relevance_maps(explainer.encoder, images.to(explainer.device), targets, method).cpu()


def larger(maps: Tensor, images: Tensor, way: str) -> Tensor:
    options = ENLARGED[way]
    if options is None:
        return resize_maps(maps, images.shape[-2:])
    return upsample(maps, images, **options)


def overlap(
    relevance: Tensor, truth: np.ndarray, share: float | None
) -> tuple[float, float, float]:
    """IoU of all masks together with the object's, of the first box with the object's, and whether
    that is 0.5 or more.
    """
    found = masks(relevance, truth.shape, share=share)
    of_mask = (found.any(0) & truth).sum() / (found.any(0) | truth).sum()
    of_box = box_iou(around(found[0], 0)[:4], around(truth, 0)[:4]) if len(found) else 0.0
    return float(of_mask), of_box, float(of_box >= 0.5)


def box_iou(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Of boxes (left, top, right, bottom)."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    common = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def best(samples: list[Samples]) -> tuple[str, str]:
    """The way to enlarge and the rule with the largest IoU of masks, all methods alike."""
    found: dict[tuple, list[float]] = {}
    for one in samples:
        for (_, way, rule), columns in one.items():
            found.setdefault((way, rule), []).append(columns[MEASURES[0]].mean())
    return max(found, key=lambda key: np.mean(found[key]))


def overlap_rows(model: str, which: str, samples: Samples) -> list[dict]:
    rows = []
    for (method, way, rule), columns in samples.items():
        about = {"model": model, "scenes": which, "method": method, "enlarged": way, "rule": rule}
        for measure in MEASURES:
            _, values = by_picture(columns, measure)
            rows.append(about | {"measure": measure} | summary(values) | {"pictures": len(values)})
    return rows


# Prompts


def dependence(explainer: Explainer, which: str, count: int) -> dict[tuple[str, str], np.ndarray]:
    """For (what, whether a warning is due): of pictures of several objects the correlation of the
    maps of their prompts, and of objects that are there and that are not their presence.
    """
    features, found = explainer.texts(concept_phrases()), {}
    rng = np.random.default_rng(0)
    blind, seeing = BLIND[explainer.kind], SEEING[explainer.kind]
    for _, batch in scenes(explainer, which, count):
        images, shown = batch.images, batch.concepts
        others = torch.tensor(np.stack([absent(rng, row, UNRELATED + 1) for row in shown.numpy()]))
        scores = explainer.scores(images, features)
        for name, one in (("there", shown[:, :1]), ("not there", others[:, :1])):
            presence = shares_below(scores.gather(1, one), scores.gather(1, others[:, 1:]))
            found.setdefault(("presence", name), []).append(presence[:, 0])
        if shown.shape[1] == 1:
            continue
        maps = {name: raw(explainer, images, features[shown], name) for name in (*blind, *seeing)}
        maps |= {
            f"{1 - PROMPTS_SHARE:.0%} {b}, {PROMPTS_SHARE:.0%} {s}": mixed(maps[b], maps[s])
            for b, s in product(blind, seeing)
        }
        for name, some in maps.items():
            due = "due" if name not in seeing else "not due"
            found.setdefault((name, due), []).append(mean_correlation(some))
    return {key: torch.cat(values).numpy() for key, values in found.items()}


def absent(rng: np.random.Generator, shown: np.ndarray, count: int) -> np.ndarray:
    """So many concepts that a picture does not show."""
    return rng.choice(np.setdiff1d(np.arange(len(concept_phrases())), shown), count, replace=False)


def mixed(blind: Tensor, seeing: Tensor) -> Tensor:
    """Maps of which so much, of the positive relevance, is of the prompt."""
    one, other = (maps.clamp(min=0) for maps in (blind, seeing))
    one, other = (maps / maps.sum((-2, -1), keepdim=True).clamp(min=1e-30) for maps in (one, other))
    return (1 - PROMPTS_SHARE) * one + PROMPTS_SHARE * other


def threshold(
    high: list[Float[np.ndarray, " sample"]], low: list[Float[np.ndarray, " sample"]]
) -> float:
    """The hundredth that keeps most of the first at or above it and most of the second below it,
    every array counting alike; of equally good ones the middle.
    """
    steps = np.arange(1, 101) / 100
    kept = [
        np.mean([(one >= step).mean() for one in high])
        + np.mean([(one < step).mean() for one in low])
        for step in steps
    ]
    return float(np.median(steps[np.isclose(kept, max(kept))]).round(2))


def chosen_thresholds(found: list[dict[tuple[str, str], np.ndarray]]) -> dict[str, float]:
    def all_of(due: str) -> list[np.ndarray]:
        return [values for one in found for (_, kind), values in one.items() if kind == due]

    return {
        "correlation": threshold(all_of("due"), all_of("not due")),
        "presence": threshold(all_of("there"), all_of("not there")),
    }


def warning_rows(
    model: str, which: str, found: dict[tuple[str, str], np.ndarray], limits: dict[str, float]
) -> list[dict]:
    rows = []
    for (name, due), values in found.items():
        if name == "presence":
            check, warned = name, values < limits[name]
            due = "due" if due == "not there" else "not due"
        else:
            check, warned = "correlation", values >= limits["correlation"]
        about = {"model": model, "scenes": which, "check": check, "maps": name, "warning": due}
        about |= {"threshold": limits[check], "median": float(np.median(values))}
        rows.append(about | summary(warned.astype(float)) | {"pictures": len(values)})
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.map_use",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=EMBEDDED)
    parser.add_argument("--choose", type=at_least_one, default=40, help="scenes to choose on")
    parser.add_argument("--judge", type=at_least_one, default=200, help="scenes to judge on")
    usual = vars(parser.parse_args([]))
    parser.add_argument(
        "--output", type=Path, help="a folder; default: see above, else evaluation-map_use"
    )
    args = parser.parse_args(arguments)
    args.output = output_folder(args, usual, "evaluation-map_use")
    models = explainers(args.models)
    first, second = SCENES
    bar = tqdm(total=4 * len(models), unit="task")

    def each(measure, *more) -> list:
        found = []
        for explainer in models:
            bar.set_postfix_str(f"{explainer.name}, {measure.__name__}, {more[0]}")
            found.append(measure(explainer, *more))
            bar.update()
        return found

    tried = each(overlaps, first, args.choose, list(ENLARGED), list(RULES))
    way, rule = best(tried)
    ways, rules = list(dict.fromkeys(["bilinear", way])), list(dict.fromkeys(["Otsu", rule]))
    judged = each(overlaps, second, args.judge, ways, rules)
    seen = each(dependence, first, args.choose)
    limits = chosen_thresholds(seen)
    judged_too = each(dependence, second, args.judge)
    names = [explainer.name for explainer in models]
    tables = {
        "map_use": (overlap_rows, {first: tried, second: judged}, ()),
        "prompt_check": (warning_rows, {first: seen, second: judged_too}, (limits,)),
    }
    for file, (make, samples, more) in tables.items():
        rows = [
            row
            for which, every in samples.items()
            for model, one in zip(names, every, strict=True)
            for row in make(model, which, one, *more)
        ]
        with whole_file(args.output / f"{file}.csv") as unfinished:
            unfinished.write_text(csv_text(rows), encoding="utf-8")
    print(f"chosen: {way}; {rule}; {limits}; wrote {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, OSError, ValueError) as error:
        sys.exit(f"python -m evaluation.map_use: {error}")
