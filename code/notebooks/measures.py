"""What the notebooks measure: a function each, over scenes whose objects are known.

All return samples, one value an object or a scene, for means with intervals.
"""

from collections import defaultdict
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from checks import require_finite
from embedded.scenes import concepts, draw_scene, drawable
from evaluation.localisation import pointing_game, where_it_lies
from evaluation.scene_sets import absent_concepts, as_batch, concept_phrases, scene_batches
from evaluation.study import FEWER
from explainer import Explainer
from methods import is_of_targets
from saliency import block_maps, direction_maps, resize_maps
from words import word_directions

Samples = dict[str, np.ndarray]
# Styles of pictures that serve as targets.
TARGET_STYLES = {
    "3-D picture": "fluent-emoji",
    "cartoon": "noto",
    "sketch": "fluent-emoji-high-contrast",
}


def two_objects(explainer: Explainer, scenes: int):
    return scene_batches(scenes, 2, explainer.side, preprocessing=explainer.pixels)


def chance(masks: Bool[Tensor, "*batch row column"]) -> list[float]:
    """The share of the image that each object covers: what a map that knows nothing finds."""
    return masks.float().mean((-2, -1)).flatten().tolist()


def by_block(explainer: Explainer, scenes: int) -> tuple[dict[str, list[np.ndarray]], float]:
    """For attention and gradient: in each block, whether the peak lies on the object; chance."""
    features = explainer.texts(concept_phrases())
    hits, base = defaultdict(list), []
    for batch in two_objects(explainer, scenes):
        base += chance(batch.masks)
        for name, grad in (("attention", False), ("gradient", True)):
            maps = block_maps(explainer.encoder, batch.images, features[batch.concepts], grad).cpu()
            maps = torch.stack([resize_maps(one, batch.images.shape[-2:]) for one in maps])
            masks = batch.masks.expand(len(maps), -1, -1, -1, -1)
            hits[name].append(pointing_game(maps, masks).flatten(1))
    return {name: list(torch.cat(found, 1).numpy()) for name, found in hits.items()}, np.mean(base)


def compared(explainer: Explainer) -> list[str]:
    """The methods that maps are compared by: of targets, quick, and one form of each."""
    return [
        name
        for name in explainer.methods
        if is_of_targets(name) and name not in FEWER and name != "Grad-ECLIP, one head"
    ]


def by_target(explainer: Explainer, scenes: int) -> tuple[dict[str, Samples], float]:
    """For each method and kind of target (text, or a picture of the object in another style):
    whether the peak lies on the object; and chance.
    """
    texts = explainer.texts(concept_phrases())
    hits, base = {method: defaultdict(list) for method in compared(explainer)}, []
    for batch in two_objects(explainer, scenes):
        base += chance(batch.masks)
        targets = {"text": texts[batch.concepts]}
        for kind, style in TARGET_STYLES.items():
            targets[kind] = style_features(explainer, style)[batch.concepts]
        for method, found in hits.items():
            for kind, features in targets.items():
                maps = explainer.maps(batch.images, features, method).cpu()
                found[kind] += pointing_game(maps, batch.masks).flatten().tolist()
    return {name: as_arrays(found) for name, found in hits.items()}, np.mean(base)


@cache
def style_features(explainer: Explainer, style: str) -> Float[Tensor, "concept feature"]:
    """Unit features of one picture of every concept, alone on white."""
    scenes = [
        draw_scene(
            1,
            size=explainer.side,
            styles=(style,),
            names=(concept.name,),
            background="white",
            scale=(0.7, 0.85),
        )
        for number, concept in enumerate(concepts())
        if drawable(number, (style,))
    ]
    images = as_batch(scenes, explainer.pixels).images
    return torch.cat([explainer.pictures(part) for part in images.split(50)])


def absent(explainer: Explainer, scenes: int) -> Samples:
    """For each method: how much relevance (its sum, of what is positive) a concept gets that is not
    in the scene, over the mean of the objects that are. Scenes where those get none are left out.
    """
    texts = explainer.texts(concept_phrases())
    rng = np.random.default_rng(0)
    ratios = {method: [] for method in compared(explainer)}
    for batch in two_objects(explainer, scenes):
        missing = absent_concepts(rng, batch.concepts, len(texts))
        targets = texts[torch.cat([batch.concepts, missing[:, None]], 1)]
        for method, found in ratios.items():
            sums = explainer.maps(batch.images, targets, method).clamp(min=0).sum((-2, -1)).cpu()
            given = sums[:, :2].mean(1)
            found += (sums[:, 2] / given)[given > 0].tolist()
    return as_arrays(ratios)


def by_sign(explainer: Explainer, scenes: int) -> dict[str, Samples]:
    """Where positive and negative saliency for one object lies: on it, on the other, beside."""
    texts = explainer.texts(concept_phrases())
    shares = {"similar": defaultdict(list), "dissimilar": defaultdict(list)}
    for batch in two_objects(explainer, scenes):
        for sign, found in shares.items():
            maps = explainer.maps(
                batch.images, texts[batch.concepts], negative=sign == "dissimilar"
            ).cpu()
            for place, share in where_it_lies(maps, batch.masks).items():
                found[place] += share.flatten().tolist()
    return {sign: as_arrays(found) for sign, found in shares.items()}


def by_word(explainer: Explainer, scenes: int) -> tuple[dict[str, Samples], float]:
    """Of the map of "a horse", of the whole "a horse and a sheep" and of its word "horse": the
    share that lies on the horse, and on the sheep; and chance.
    """
    texts = explainer.texts(concept_phrases())
    kinds = ("its own prompt", "the whole sentence", "its word in the sentence")
    shares, base = {kind: defaultdict(list) for kind in kinds}, []
    for batch in two_objects(explainer, scenes):
        base += chance(batch.masks)
        words = [sentence_directions(explainer, shown) for shown in batch.concepts.tolist()]
        directions = torch.stack(words)  # of each scene: the whole, and its two words
        asked = {
            "its own prompt": texts[batch.concepts],
            "the whole sentence": directions[:, [0, 0]],
            "its word in the sentence": directions[:, 1:],
        }
        for kind, targets in asked.items():
            maps = direction_maps(explainer.encoder, batch.images.to(explainer.device), targets)
            maps = resize_maps(maps, batch.images.shape[-2:]).cpu()
            for place, share in where_it_lies(maps, batch.masks).items():
                shares[kind][place] += share.flatten().tolist()
    return {kind: as_arrays(found) for kind, found in shares.items()}, np.mean(base)


def sentence_directions(
    explainer: Explainer, shown: list[int]
) -> Float[Tensor, "direction feature"]:
    """ "a horse and a sheep": the whole, and what each noun (with its article) adds."""
    first, second = (concepts()[number].phrases[0] for number in shown)
    return word_directions(explainer.encoder, None, f"{first} and {second}", ["", first, second])


def central_share(maps: Float[Tensor, "*batch row column"]) -> Float[Tensor, "*batch"]:
    """The share of a map in the middle quarter of the image; an even map has 0.25."""
    require_finite(maps, "maps")
    height, width = maps.shape[-2:]
    top, left = height // 4, width // 4
    middle = maps[..., top : height - top, left : width - left].sum((-2, -1))
    return middle / maps.sum((-2, -1)).clamp(min=1e-30)


def mean_map(maps: Float[Tensor, "map row column"]) -> Float[np.ndarray, "row column"]:
    """The mean of maps, scaled so that an even map is 1 everywhere."""
    require_finite(maps, "maps")
    mean = maps.mean(0)
    return (mean / mean.mean().clamp(min=1e-30)).numpy()


def entropy(maps: Float[Tensor, "*batch row column"]) -> Float[Tensor, "*batch"]:
    """Of a map as a distribution over its cells, over that of an even one: 1 even, 0 a point."""
    require_finite(maps, "maps")
    share = maps.flatten(-2) / maps.sum((-2, -1)).clamp(min=1e-30).unsqueeze(-1)
    return torch.special.entr(share).sum(-1) / np.log(share.shape[-1])


def as_arrays(lists: dict[str, list]) -> Samples:
    return {name: np.array(values) for name, values in lists.items()}
