"""Panels of a grid (see `figures.py`): one image explained by one model."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from evaluation.localisation import energy_in_mask, pointing_game
from explainer import Explainer
from figures import Panel
from image_utils import as_picture, normalise_pixels, show_cam_on_image, show_overlapped_cam
from objective import LOGIT_SCALE
from saliency import block_maps, direction_maps, normalise_maps, resize_maps
from vit_cam import seen_through
from word_figures import show_text_relevance
from words import PUNCTUATION, word_directions

Image = Float[Tensor, "1 3 row column"]
Targets = Float[Tensor, "target feature"]
Mask = Bool[Tensor, "row column"]

# What the colours of `show_overlapped_cam` say.
OVERLAP_LEGEND = {"similar": "#e61a1a", "both": "#8026a6", "dissimilar": "#1a33f2"}


def heat_panels(
    explainer: Explainer,
    image: Image,
    targets: Targets,
    titles: Sequence[str],
    method: str | None = None,
    negative: bool = False,
    masks: Sequence[Mask | None] = (),
    cmap: str | None = None,
) -> list[Panel]:
    """The heat of each target over the image; its score, or with a mask, what it finds."""
    picture = as_picture(image[0], explainer.pixels)
    scores = explainer.scores(image, targets)[0].tolist()
    maps = explainer.maps(image, targets, method, negative)[0].cpu()
    heat = explainer.heat(image, targets, method, negative)[0]
    panels = []
    for place, title in enumerate(titles):
        mask = masks[place] if masks else None
        note = f"100 cos = {scores[place]:.1f}" if mask is None else found(maps[place], mask)
        shown = show_cam_on_image(picture, heat[place], negative, cmap)
        panels.append(Panel(shown, title, note))
    return panels


def found(raw_map: Float[Tensor, "row column"], mask: Mask) -> str:
    """How well a map finds an object, in words."""
    hit = "on it" if pointing_game(raw_map, mask) else "beside it"
    return f"energy {energy_in_mask(raw_map, mask):.2f}, peak {hit}"


def sign_panels(explainer: Explainer, image: Image, target: Targets) -> list[Panel]:
    """Positive saliency, negative saliency, and both over one another; see OVERLAP_LEGEND."""
    positive = explainer.heat(image, target)[0, 0]
    negative = explainer.heat(image, target, negative=True)[0, 0]
    both = show_overlapped_cam(as_picture(image[0], explainer.pixels), negative, positive)
    return [
        *heat_panels(explainer, image, target, ["positive"]),
        *heat_panels(explainer, image, target, ["negative"], negative=True),
        Panel(both, "overlapped"),
    ]


def word_panels(
    explainer: Explainer, image: Image, sentence: str, masks: Mapping[str, Mask]
) -> list[Panel]:
    """A sentence and each of its words, with the similarity and what a word adds to it.

    masks: of the objects that some words name; the share of the word's map on them is told too.
    """
    words = sentence.split()
    directions = word_directions(explainer.encoder, None, sentence, ["", *range(len(words))])
    scores = (LOGIT_SCALE * explainer.pictures(image) @ directions.T)[0].tolist()
    maps = direction_maps(explainer.encoder, image, directions)
    maps = resize_maps(maps, image.shape[-2:])[0].cpu()
    picture = as_picture(image[0], explainer.pixels)
    panels = []
    for title, score, one in zip([sentence, *words], scores, maps, strict=True):
        note = f"{score:+.1f}" if panels else f"{score:.1f}"
        mask = masks.get(title.strip(PUNCTUATION))
        if mask is not None:
            note += f", on it {energy_in_mask(one, mask):.0%}"
        panels.append(Panel(show_cam_on_image(picture, normalise_maps(one).numpy()), title, note))
    return panels


def block_panels(explainer: Explainer, image: Image, target: Targets, grad: bool) -> list[Panel]:
    """The image as seen through each block of a ViT, with what is left of the similarity."""
    maps = block_maps(explainer.encoder, image, target, grad)[:, 0, 0]
    preprocessing = explainer.pixels
    seen = torch.stack([seen_through(image[0], one, preprocessing) for one in maps])
    scores = explainer.scores(normalise_pixels(seen, preprocessing), target)[:, 0].tolist()
    return [
        Panel(picture.permute(1, 2, 0).cpu().numpy(), f"block {number}", f"100 cos = {score:.1f}")
        for number, (picture, score) in enumerate(zip(seen, scores, strict=True))
    ]


def pair_figure(
    explainers: Sequence[Explainer], images: Sequence[Image], sentences: Sequence[str]
) -> Figure:
    """For each model a row: its picture under the map of the first sentence, and beside it all
    sentences, their words in the colours of their relevance to the picture.
    """
    height = 0.62 * len(sentences) + 0.1
    figure = Figure(figsize=(9, max(2, height) * len(explainers)), layout="constrained")
    rows = figure.subfigures(len(explainers), 1, squeeze=False)[:, 0]
    for row, explainer, image in zip(rows, explainers, images, strict=True):
        left, right = row.subfigures(1, 2, width_ratios=(1, 3))
        axis = left.subplots()
        (panel,) = heat_panels(explainer, image, explainer.texts(sentences[:1]), [explainer.name])
        axis.imshow(panel.picture)
        axis.set(xticks=[], yticks=[], title=panel.title)
        axis.spines[:].set_visible(False)
        axes = right.subplots(len(sentences), 1, squeeze=False)[:, 0]
        words = explainer.words(sentences, explainer.pictures(image))
        figure.get_layout_engine().execute(figure)
        for axis, one in zip(axes, words, strict=True):
            show_text_relevance(one, axes=axis)
    return figure
