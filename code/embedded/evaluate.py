"""What an embedded model knows and where it looks: `python -m embedded.evaluate ViT-emoji`.

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
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from clip_ import load, tokenize
from embedded import scenes
from image_utils import normalise_pixels
from saliency import methods, relevance_maps, resize_maps

SEED = 2_000_000  # far from the scenes of training, which are numbered from 0
BATCH = 50
SLOW = (
    "FullGrad",
    "AblationCAM",
    "ScoreCAM",
    "GScoreCAM",
)  # measured on fewer scenes, if asked for


def scene_batches(
    count: int, objects: int, styles: tuple[str, ...], size: int
) -> Iterator[tuple[Float[Tensor, "image 3 row column"], list[scenes.Scene]]]:
    """Scenes, with their images as CLIP takes them."""
    numbers = tqdm(range(count), unit="scene", desc=f"{objects}-object scenes", leave=False)
    batch = []
    for number in numbers:
        batch.append(scenes.draw_scene((SEED, number), size=size, styles=styles, count=objects))
        if len(batch) == BATCH or number == count - 1:
            pixels = np.stack([scene.image for scene in batch])
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            yield normalise_pixels(images), batch
            batch = []


@torch.no_grad()
def concept_features(model: torch.nn.Module) -> Float[Tensor, "concept feature"]:
    """Unit features of the plainest phrase of every concept."""
    phrases = [concept.phrases[0] for concept in scenes.concepts()]
    return F.normalize(model.encode_text(tokenize(phrases)), dim=-1)


@torch.no_grad()
def top1(model: torch.nn.Module, styles: tuple[str, ...], count: int) -> Bool[np.ndarray, " scene"]:
    """Whether each single-object scene's object is named right, among all concepts."""
    concepts = concept_features(model)
    right = []
    for images, batch in scene_batches(count, 1, styles, model.visual.input_resolution):
        named = (model.encode_image(images) @ concepts.T).argmax(-1)
        right += [scene.objects[0].concept == n for scene, n in zip(batch, named, strict=True)]
    return np.array(right, dtype=bool)


def pointing(
    model: torch.nn.Module, styles: tuple[str, ...], count: int, methods: list[str]
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, " scene"]]:
    """For each method, the share of each scene's objects that its maps point at; and chance."""
    concepts = concept_features(model)
    hits = {method: [] for method in methods}
    chance = []
    for images, batch in scene_batches(count, 2, styles, model.visual.input_resolution):
        shown = torch.tensor([[thing.concept for thing in scene.objects] for scene in batch])
        targets = concepts[shown]
        masks = torch.from_numpy(
            np.stack([[thing.mask for thing in scene.objects] for scene in batch])
        ).flatten(2)
        chance += masks.float().mean((1, 2)).tolist()
        for method in methods:
            maps = resize_maps(relevance_maps(model, images, targets, method), images.shape[-2:])
            peaks = maps.flatten(2).argmax(-1, keepdim=True)
            hits[method] += masks.gather(2, peaks).float().mean((1, 2)).tolist()
    return {method: np.array(values) for method, values in hits.items()}, np.array(chance)


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def report(label: str, values: np.ndarray, chance: float) -> None:
    low, high = interval(values)
    print(f"{label:<44}{values.mean():6.3f}  [{low:.3f}, {high:.3f}]   chance {chance:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Zero-shot top-1 and pointing on emoji scenes")
    parser.add_argument("name", help="an embedded model, or a checkpoint")
    parser.add_argument("--scenes", type=int, default=1000, help="of each kind")
    parser.add_argument("--methods", nargs="+", help=f"default: all but {', '.join(SLOW)}")
    args = parser.parse_args()
    model, _ = load(args.name, device="cpu")
    chosen = args.methods or [method for method in methods(model) if method not in SLOW]
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
