"""Saliency of ViT-based CLIP for one image and one target, with the original's signatures.

In all functions: `image` is what `preprocess` returns with a batch axis, [1, 3, H, W];
`target_features` [1, D] are the features of a text, an image or an emotion, normalised or not;
`img_encoder` is `clip_model.visual` (or the CLIP itself); `method` is a key of
`methods.METHODS`; with `neg_saliency` dissimilarity is explained instead of similarity.

`interpret_*` and `vit_block_vis` draw on the current matplotlib axes; `cmap` is a colour map of
matplotlib's for the heat, such as "viridis", instead of the original's JET. For many images or
targets at once use `saliency.relevance_maps`, on which all of these stand.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from checks import undisturbed
from image_utils import (
    as_picture,
    normalise_pixels,
    show_cam_on_image,
    show_overlapped_cam,
    true_colours,
)
from maps import normalise_maps, resize_maps
from objective import LOGIT_SCALE, similarities, target_directions
from one_image import Map, Picture, at_image_size, draw, single
from preprocessing import OPENAI, Preprocessing
from saliency import block_maps, direction_maps, relevance_maps, vit_encoder
from words import Word, word_directions


def vit_relevance(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    device: str | torch.device,
    method: str = "last grad",
    neg_saliency: bool = False,
) -> tuple[Map, Float[np.ndarray, "row column 3"]]:
    """Relevance of each pixel in [0, 1] (bilinear from the patch grid), and the image in [0, 1]."""
    single(image, target_features)
    image, target_features = image.to(device), target_features.to(device)
    maps = relevance_maps(
        vit_encoder(img_encoder), image, target_features, method, negative=neg_saliency
    )
    picture = as_picture(image[0], vit_encoder(img_encoder).pixels)
    return at_image_size(maps, image), picture


def interpret_vit(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    device: str | torch.device,
    method: str = "last grad",
    neg_saliency: bool = False,
    cmap: str | None = None,
) -> Picture:
    """Draw, and return, the heat map of `vit_relevance` over the image."""
    relevance, picture = vit_relevance(
        image, target_features, img_encoder, device, method, neg_saliency
    )
    return draw(show_cam_on_image(picture, relevance, neg_saliency, cmap))


def interpret_vit_overlapped(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    device: str | torch.device,
    method: str = "last grad",
) -> Picture:
    """Draw, and return, positive (red) and negative (blue) saliency over the image."""
    positive, picture = vit_relevance(image, target_features, img_encoder, device, method)
    negative, _ = vit_relevance(image, target_features, img_encoder, device, method, True)
    return draw(show_overlapped_cam(picture, negative, positive))


def vit_perword_relevance(
    image: Float[Tensor, "1 3 row column"],
    text: str,
    clip_model: nn.Module,
    clip_tokenizer: Callable[[list[str]], Tensor],
    device: str | torch.device,
    masked_word: Word = "",
    use_last_grad: bool = True,
) -> tuple[Map, Float[np.ndarray, "row column 3"]]:
    """Relevance to what a word adds: s(text) - s(text without the word), s the cosine.

    masked_word: a whole word (or several in a row) of the text, or its position if it is repeated;
        empty for the whole text. Returns as `vit_relevance` does.
    """
    single(image)
    image = image.to(device)
    directions = word_directions(clip_model, clip_tokenizer, text, [masked_word])
    method = "last grad" if use_last_grad else "all grads"
    maps = direction_maps(vit_encoder(clip_model), image, directions, method)
    picture = as_picture(image[0], vit_encoder(clip_model).pixels)
    return at_image_size(maps, image), picture


def interpret_perword_vit(
    image: Float[Tensor, "1 3 row column"],
    text: str,
    clip_model: nn.Module,
    clip_tokenizer: Callable[[list[str]], Tensor],
    device: str | torch.device,
    masked_word: Word = "",
    use_last_grad: bool = True,
    cmap: str | None = None,
) -> Picture:
    """Draw, and return, the heat map of `vit_perword_relevance` over the image."""
    relevance, picture = vit_perword_relevance(
        image, text, clip_model, clip_tokenizer, device, masked_word, use_last_grad
    )
    return draw(show_cam_on_image(picture, relevance, cmap=cmap))


def vit_block_vis(
    image: Float[Tensor, "1 3 row column"],
    target_features: Float[Tensor, "1 feature"],
    img_encoder: nn.Module,
    block: int,
    device: str | torch.device,
    grad: bool = False,
    neg_saliency: bool = False,
) -> Float[Tensor, ""]:
    """Draw the image as seen through one block; return the cosine of what is left with the target.

    The image is weighted by the CLS row of the block's attention (with `grad`: of its gradient),
    the mean of all heads, scaled to [0, 1]; it is normalised as CLIP asks before it is scored.
    """
    single(image, target_features)
    if block is None:  # which would be all
        raise TypeError("a block is given by its number; got None")
    encoder = vit_encoder(img_encoder)
    image, target_features = image.detach().to(device), target_features.detach().to(device)
    (maps, *_) = block_maps(
        encoder, image, target_features, grad, negative=neg_saliency, start_block=block
    )
    seen = seen_through(image[0], maps[0, 0], encoder.pixels)
    with undisturbed(image.device), torch.no_grad():
        pixels = normalise_pixels(seen, encoder.pixels).unsqueeze(0)
        features = encoder.encode(encoder.placed(pixels))
        score = similarities(features, target_directions(target_features))[0, 0] / LOGIT_SCALE
    draw(seen.permute(1, 2, 0).cpu().numpy())
    return score


def seen_through(
    image: Float[Tensor, "3 height width"],
    raw_map: Float[Tensor, "row column"],
    preprocessing: Preprocessing = OPENAI,
) -> Float[Tensor, "3 height width"]:
    """The true colours of a preprocessed image, darkened where a map is low; the brightest is 1."""
    weight = resize_maps(normalise_maps(raw_map)[None, None].float(), image.shape[-2:])[0]
    seen = weight * true_colours(image.float(), preprocessing)
    return seen / seen.max().clamp(min=1e-12)
