"""What embedded models know and where they look: `python -m evaluation.embedded_models ViT-emoji`.

On scenes of the style that was never trained on (and, beside it, on new scenes of the others):

top-1      single-object scenes: is the object's prompt the most similar of all concepts' prompts?
pointing   two-object scenes: does the maximum of the map for an object's prompt fall on it?
           Chance is the share of the image that the object covers.

Intervals are 95 % bootstrap intervals over scenes.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from clip_ import load
from embedded import scenes
from evaluation.localisation import pointing_game
from evaluation.scene_sets import SceneBatch, at_least_one, concept_features, scene_batches
from evaluation.study import FEWER
from intervals import interval
from model import CLIP
from saliency import methods, relevance_maps, resize_maps


def scenes_for(
    model: CLIP, count: int, objects: int, styles: tuple[str, ...]
) -> Iterator[SceneBatch]:
    """Scenes of the size and with the statistics of the model."""
    visual = model.visual
    return scene_batches(
        count, objects, visual.input_resolution, styles, preprocessing=visual.preprocessing
    )


@torch.no_grad()
def top1(model: nn.Module, styles: tuple[str, ...], count: int) -> Bool[np.ndarray, " scene"]:
    """Whether each single-object scene's object is named right, among all concepts."""
    concepts = concept_features(model)
    right = []
    for batch in scenes_for(model, count, 1, styles):
        named = (model.encode_image(batch.images) @ concepts.T).argmax(-1)
        right += (named == batch.concepts[:, 0]).tolist()
    return np.array(right, dtype=bool)


def pointing(
    model: nn.Module, styles: tuple[str, ...], count: int, methods: list[str]
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, " scene"]]:
    """For each method, the share of each scene's objects that its maps point at; and chance."""
    concepts = concept_features(model)
    hits = {method: [] for method in methods}
    chance = []
    for batch in scenes_for(model, count, 2, styles):
        targets = concepts[batch.concepts]
        chance += batch.masks.float().mean((1, 2, 3)).tolist()
        for method in methods:
            maps = relevance_maps(model, batch.images, targets, method)
            maps = resize_maps(maps, batch.images.shape[-2:])
            hits[method] += pointing_game(maps, batch.masks).mean(1).tolist()
    return {method: np.array(values) for method, values in hits.items()}, np.array(chance)


def report(label: str, values: np.ndarray, chance: float) -> None:
    low, high = interval(values)
    print(f"{label:<44}{values.mean():6.3f}  [{low:.3f}, {high:.3f}]   chance {chance:.3f}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Zero-shot top-1 and pointing on emoji scenes")
    parser.add_argument("name", help="an embedded model, or a checkpoint")
    parser.add_argument("--scenes", type=at_least_one, default=1000, help="of each kind")
    parser.add_argument("--methods", nargs="+", help=f"default: all but {', '.join(FEWER)}")
    args = parser.parse_args(arguments)
    model, _ = load(args.name, device="cpu")
    chosen = args.methods or [method for method in methods(model) if method not in FEWER]
    unknown = [method for method in chosen if method not in methods(model)]
    if unknown:
        parser.error(f"unknown methods {', '.join(unknown)}; there are {', '.join(methods(model))}")
    concepts = len(scenes.concepts())
    print(f"{args.name}: {concepts} concepts, {args.scenes} scenes of each kind")
    for label, styles in (
        (f"held-out style ({scenes.HELD_OUT_STYLE})", (scenes.HELD_OUT_STYLE,)),
        ("training styles, new scenes", scenes.TRAINING_STYLES),
    ):
        print(f"\n{label}")
        report("  top-1, one object", top1(model, styles, args.scenes), 1 / concepts)
        hits, chance = pointing(model, styles, args.scenes, chosen)
        for method, values in hits.items():
            report(f"  pointing, two objects, {method}", values, chance.mean())


if __name__ == "__main__":
    main()
